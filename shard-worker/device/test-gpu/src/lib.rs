//! GPUs for tests on machines without one: libraries that stand in for CUDA's, cuBLASLt's and NCCL's and run the kernels
//! on the CPU (`shard-worker/device/cuda/fake`). They are built by the first test that needs them, with g++.
//!
//! Where `TESSERA_REAL_GPU` names a folder with images of the kernels, tests use the machine's own GPUs and libraries
//! instead (`tests/gpu.sh`).

#![allow(clippy::expect_used, reason = "tests may panic and say why")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(build);
static REAL: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("TESSERA_REAL_GPU").map(PathBuf::from));

/// The environment of processes that are to see `count` such GPUs, which work behind the host's back as real ones do.
pub fn environment(count: usize) -> Vec<(&'static str, String)> {
    let kernels = ("TESSERA_CUDA_KERNELS", kernels().display().to_string());
    if REAL.is_some() {
        return vec![kernels];
    }
    let libraries = ("LD_LIBRARY_PATH", FOLDER.display().to_string());
    vec![kernels, libraries, ("FAKE_CUDA_DEVICES", count.to_string()), ("FAKE_CUDA_ASYNC", "1".into())]
}

/// Whether tests use the machine's own GPUs.
pub fn is_real() -> bool {
    REAL.is_some()
}

/// Whether a process can see so many: of the stand-ins as many as are asked for.
pub fn has(count: usize) -> bool {
    let listed = || Command::new("nvidia-smi").arg("--list-gpus").output().ok();
    REAL.is_none() || listed().is_some_and(|gpus| gpus.stdout.iter().filter(|byte| **byte == b'\n').count() >= count)
}

/// A folder with an image of the kernels, which the stand-in for the driver knows by their names.
pub fn kernels() -> PathBuf {
    REAL.clone().unwrap_or_else(|| FOLDER.join("cubins"))
}

/// Lets this process see such GPUs.
#[allow(unsafe_code, reason = "opening a library runs its initialisers")]
pub fn open() {
    static OPENED: LazyLock<Vec<libloading::os::unix::Library>> = LazyLock::new(|| {
        let open = |name: &str| {
            let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
            // SAFETY: the library was built from this tree; what it does when it is opened is known. Whoever opens it by
            // its name from now on is given this one.
            unsafe { libloading::os::unix::Library::open(Some(FOLDER.join(name)), flags) }.expect("a library that was just built")
        };
        vec![open("libcuda.so.1"), open("libcublasLt.so.13")]
    });
    if REAL.is_none() {
        LazyLock::force(&OPENED);
    }
}

fn build() -> PathBuf {
    let device = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the device's folder");
    let target = device.ancestors().nth(2).expect("the root").join("target");
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from).join("fake-gpu");
    fs::create_dir_all(folder.join("cubins")).expect("a folder to build in");
    // Tests of several processes begin at once, and one builds.
    let lock = File::create(folder.join("lock")).expect("a lock");
    lock.lock().expect("the lock");
    let built = Command::new(device.join("cuda/fake/build.sh")).arg(&folder).output().expect("build.sh runs");
    assert!(built.status.success(), "build.sh: {}", String::from_utf8_lossy(&built.stderr));
    // What the driver looks at of an image is its beginning: kernels are known by their names. These are what `build.py` makes.
    for arch in ["sm_80", "sm_89", "sm_90a"] {
        fs::write(folder.join(format!("cubins/tessera.{arch}.cubin")), format!("\x7fELF for {arch}")).expect("an image");
    }
    for arch in ["80", "90"] {
        let path = folder.join(format!("cubins/tessera.compute_{arch}.ptx"));
        fs::write(path, format!(".version 8.7\n.target sm_{arch}\n")).expect("an image");
    }
    folder
}
