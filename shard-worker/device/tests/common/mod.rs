//! Random matrices, devices of every kind, and comparison bit by bit.

#![allow(clippy::unwrap_used, reason = "a test may panic and say why")]
#![allow(dead_code)]

use half::bf16;
use tessera_device::cpu::{CpuConfig, CpuDevice, CpuMatrix, CpuTensor, CpuVector, Isa};
use tessera_device::{Device, Dtype, MatrixSource, Origin, SourceDtype};

/// A small generator (splitmix64), so that a failure can be run again.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// About normal, from -3 to 3.
    pub(crate) fn number(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..6 {
            sum += (self.next() >> 40) as f32 / (1u64 << 24) as f32;
        }
        sum - 3.0
    }

    pub(crate) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}

pub(crate) fn device(threads: usize, dtype: Dtype) -> CpuDevice {
    CpuDevice::new(CpuConfig { threads, dtype }).unwrap()
}

/// Devices that must compute alike: every instruction set, one thread and several.
pub(crate) fn devices(dtype: Dtype) -> Vec<CpuDevice> {
    let mut all = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 3] {
            all.push(CpuDevice::with_isa(CpuConfig { threads, dtype }, isa).unwrap());
        }
    }
    all
}

pub(crate) fn name(device: &CpuDevice) -> String {
    format!("{} on {} threads", device.isa().name(), device.config().threads)
}

pub(crate) fn tensor(device: &CpuDevice, values: &[f32], cols: usize) -> CpuTensor {
    let mut tensor = device.tensor(values.len() / cols, cols).unwrap();
    device.write(&mut tensor, values).unwrap();
    tensor
}

/// Bytes of a tensor of a checkpoint.
pub(crate) fn bytes(values: &[f32], dtype: SourceDtype) -> Vec<u8> {
    match dtype {
        SourceDtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        SourceDtype::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        SourceDtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
    }
}

/// All of an f32 matrix `[_, cols]`.
pub(crate) fn whole(bytes: &[u8], cols: usize) -> MatrixSource<'_> {
    let rows = bytes.len() / 4 / cols.max(1);
    MatrixSource {
        origin: Origin::Stored { bytes, dtype: SourceDtype::F32 },
        stride: cols,
        rows: (0..rows as u32).collect(),
        columns: 0..cols,
    }
}

pub(crate) fn weight(device: &mut CpuDevice, values: &[f32], cols: usize, segments: &[usize]) -> CpuMatrix {
    device.load_matrix(&[whole(&bytes(values, SourceDtype::F32), cols)], segments).unwrap()
}

pub(crate) fn vector(device: &mut CpuDevice, values: &[f32]) -> CpuVector {
    device.load_vector(&whole(&bytes(values, SourceDtype::F32), values.len())).unwrap()
}

/// What the device keeps of a weight.
pub(crate) fn kept(x: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => x,
        Dtype::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// Equal bit by bit; NaN equals NaN.
pub(crate) fn assert_same(got: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let same = got.to_bits() == wanted.to_bits() || (got.is_nan() && wanted.is_nan());
        assert!(same, "{what}: number {i} is {got:e}, not {wanted:e}");
    }
}

/// Within `tolerance` of the scale of the whole.
pub(crate) fn assert_close(got: &[f32], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(1.0_f64, |a, b| a.max(b.abs()));
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let error = (f64::from(*got) - wanted).abs();
        assert!(error <= tolerance * scale, "{what}: number {i} is {got:e}, not {wanted:e}");
    }
}
