//! The libraries that stand for a GPU's, built once.

use std::{path::PathBuf, process::Command, sync::OnceLock};

/// The folder with libcuda.so.1 and libnccl.so.2, for LD_LIBRARY_PATH.
pub(crate) fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../device/cuda/fake/build.sh");
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../fake-gpu");
        let built = Command::new(script).arg(&folder).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        folder
    })
}

/// A folder with a libnccl.so.2 that is nothing but this C.
pub(crate) fn library(code: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("library.c");
    std::fs::write(&source, code).unwrap();
    let mut compiler = Command::new("g++");
    compiler.args(["-x", "c", "-shared", "-fPIC", "-o"]).arg(folder.path().join("libnccl.so.2")).arg(source);
    assert!(compiler.status().unwrap().success());
    folder
}
