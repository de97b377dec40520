//! Libraries that are no NCCL, or none that will do.

use std::process::Command;

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
