//! Weights of the products: bf16, or e4m3 with a scale for each output.

use std::ops::Range;

use super::{
    CudaDevice,
    context::Memory,
    kernel::{Geometry, Kernel, int},
    staging::Staging,
};
use crate::{DeviceError, MadeUp, MatrixSource, Origin, Quantization};

/// A weight `[out, inner]`, row-major.
pub struct CudaMatrix {
    pub(super) out: usize,
    pub(super) inner: usize,
    pub(super) weights: Weights,
}

/// What a weight's numbers are.
pub(super) enum Weights {
    Bf16(Memory),
    /// A row's numbers, in the order of `gemm_e4m3.cuh`, are multiplied by its scale, an f32.
    E4m3 {
        numbers: Memory,
        scales: Memory,
    },
}

impl Weights {
    /// In the order in which kernels take them.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        let numbers = match self {
            Self::Bf16(numbers) | Self::E4m3 { numbers, .. } => numbers.address(),
        };
        std::iter::once(numbers).chain(self.scales())
    }

    /// Where the scales lie, if there are any.
    pub(super) fn scales(&self) -> Option<u64> {
        match self {
            Self::Bf16(_) => None,
            Self::E4m3 { scales, .. } => Some(scales.address()),
        }
    }
}

impl CudaDevice {
    /// See [`crate::Device::load_matrix`]. Segments are the kernels' own.
    pub(super) fn new_matrix(&mut self, sources: &[MatrixSource<'_>]) -> Result<CudaMatrix, DeviceError> {
        let (out, inner) = stacked(sources)?;
        Ok(CudaMatrix { out, inner, weights: Weights::Bf16(self.bf16(sources, "a weight")?) })
    }

    /// See [`crate::Device::load_quantisable`].
    pub(super) fn new_quantisable(&mut self, sources: &[MatrixSource<'_>]) -> Result<CudaMatrix, DeviceError> {
        let (out, inner) = stacked(sources)?;
        let weights = match self.format.quantization_of(inner) {
            None => Weights::Bf16(self.bf16(sources, "a weight")?),
            Some(Quantization::Fp8) => self.e4m3(sources, (out, inner))?,
        };
        Ok(CudaMatrix { out, inner, weights })
    }

    /// Stacked rows in bf16.
    pub(super) fn bf16(&mut self, sources: &[MatrixSource<'_>], what: &str) -> Result<Memory, DeviceError> {
        let (out, inner) = stacked(sources)?;
        let memory = self.context.allocate(out * inner * 2, what)?;
        let mut to = memory.address();
        for source in sources {
            self.put(source, 0..source.rows.len(), to)?;
            to += (source.rows.len() * inner * 2) as u64;
        }
        Ok(memory)
    }

    /// Stacked rows in e4m3. The device has no more of them in bf16 at a time than are staged at once.
    fn e4m3(&mut self, sources: &[MatrixSource<'_>], (out, inner): (usize, usize)) -> Result<Weights, DeviceError> {
        let numbers = self.context.allocate(out * inner, "a weight")?;
        let scales = self.context.allocate(out * size_of::<f32>(), "a weight's scales")?;
        let most = Staging::rows_at_once(inner)?;
        let mut done = 0;
        for source in sources {
            for first in (0..source.rows.len()).step_by(most) {
                let rows = most.min(source.rows.len() - first);
                let wide = self.scratch(rows * inner * 2)?;
                self.put(source, first..first + rows, wide.address())?;
                let to = numbers.address() + (done * inner) as u64;
                let scales = scales.address() + (done * size_of::<f32>()) as u64;
                let args = [wide.address().into(), to.into(), scales.into(), int(inner)?.into()];
                self.kernels.launch(Kernel::QuantiseRows, Geometry::rows(rows, 256), &args)?;
                done += rows;
            }
        }
        Ok(Weights::E4m3 { numbers, scales })
    }

    /// Writes some of a slice's rows to `to` in bf16. What is made up never leaves the device.
    fn put(&mut self, source: &MatrixSource<'_>, rows: Range<usize>, to: u64) -> Result<(), DeviceError> {
        let cols = source.cols();
        match source.origin {
            Origin::Stored { .. } => {
                self.staging.send(to, (rows.len(), cols), |row, out| source.read(rows.start + row, 0..cols, out))
            }
            Origin::MadeUp(how) => self.make_up(&source.rows[rows], &source.columns, how, to),
        }
    }

    /// Rows that follow each other are made at once.
    fn make_up(&self, rows: &[u32], columns: &Range<usize>, how: &MadeUp, mut to: u64) -> Result<(), DeviceError> {
        let (first, cols) = (int(columns.start)?, columns.len());
        for rows in rows.chunk_by(|row, next| *next == row + 1) {
            let args = [
                to.into(),
                how.key.into(),
                i64::from(rows[0]).into(),
                first.into(),
                int(cols)?.into(),
                how.centre.into(),
                how.spread.into(),
            ];
            self.kernels.launch(Kernel::FillDummy, Geometry::shared_rows(rows.len(), cols), &args)?;
            to += (rows.len() * cols * 2) as u64;
        }
        Ok(())
    }
}

/// The shape `(out, inner)` that sources have together.
fn stacked(sources: &[MatrixSource<'_>]) -> Result<(usize, usize), DeviceError> {
    let inner = sources.first().map_or(0, MatrixSource::cols);
    for source in sources {
        source.check("load_matrix")?;
        if source.cols() != inner {
            let detail = format!("rows of {} and of {inner} numbers", source.cols());
            return Err(DeviceError::Shape { operation: "load_matrix", detail });
        }
    }
    Ok((sources.iter().map(|source| source.rows.len()).sum(), inner))
}
