//! Where the kernels come from.

use std::{fs, path::PathBuf};

use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_device::{Device, DeviceError};

use crate::{BF16, turn};

/// A folder with such images, named by what they are for.
fn folder(name: &str, images: &[(&str, &str)]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    for (target, image) in images {
        fs::write(folder.join(format!("tessera.{target}")), image).unwrap();
    }
    folder
}

fn opened(kernels: PathBuf) -> Result<CudaDevice, DeviceError> {
    tessera_test_gpu::open();
    let config =
        CudaConfig { ordinal: 0, kernels: Some(kernels), workspace: Some(1 << 20), records: false, overlaps: true, peers: false };
    CudaDevice::new(&config, BF16)
}

/// The stand-in is a device of 9.0; what it refuses here are an image that is none and those for newer devices.
#[test]
fn an_image_that_the_device_refuses_leaves_the_next_one() {
    if tessera_test_gpu::is_real() {
        return;
    }
    let _turn = turn();
    let refused =
        [("sm_90a.cubin", "junk"), ("sm_90.cubin", "\x7fELF for sm_100"), ("compute_90.ptx", ".version 8.7\n.target sm_100\n")];
    let taken = ("compute_80.ptx", ".version 8.7\n.target sm_80\n");
    let device = opened(folder("refused", &[&refused[..], &[taken]].concat())).unwrap();
    assert_eq!(device.read(&device.tensor(2, 3).unwrap()).unwrap(), [0.0; 6]);
    drop(device);
    // Nothing is left but to compile, for which this machine has no compiler, or one whose code the stand-in takes.
    match opened(folder("all-refused", &refused)) {
        Err(DeviceError::Library { library, .. }) => assert!(library.contains("nvrtc")),
        compiled => drop(compiled.unwrap()),
    }
}

/// The stand-in fails a kernel that may begin before the one ahead has ended and cannot wait for it.
#[test]
fn code_that_cannot_wait_for_the_kernels_ahead_is_launched_behind_them() {
    if tessera_test_gpu::is_real() {
        return;
    }
    let _turn = turn();
    let device = opened(folder("cannot-wait", &[("compute_80.ptx", ".version 8.7\n.target sm_80\n")])).unwrap();
    let (mut x, mut y) = (device.tensor(2, 8).unwrap(), device.working(2, 8).unwrap());
    device.write(&mut y, &[1.0; 16]).unwrap();
    device.add(&mut x, &y).unwrap();
    device.add(&mut x, &y).unwrap();
    assert_eq!(device.read(&x).unwrap(), [2.0; 16]);
}
