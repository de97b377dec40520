//! Reads slices onto the device, and says how far it is.

use tessera_device::Device;

use crate::ModelError;
use crate::checkpoint::{Loadable, TensorSlice, WeightSource};
use crate::slices::ShardSlices;

/// Told of bytes done and bytes in all; says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<(), ModelError>;

/// Loads one rank's weights.
pub(crate) struct Loader<'a, D> {
    pub(crate) device: &'a mut D,
    source: &'a WeightSource,
    progress: Progress<'a>,
    done: u64,
    total: u64,
}

impl<'a, D: Device> Loader<'a, D> {
    /// Checks that every slice is there before any is read.
    pub(crate) fn new(
        device: &'a mut D,
        source: &'a WeightSource,
        slices: &ShardSlices,
        progress: Progress<'a>,
    ) -> Result<Self, ModelError> {
        let total = slices.all().map(|slice| source.check(slice)).sum::<Result<u64, _>>()?;
        progress(0, total)?;
        Ok(Self { device, source, progress, done: 0, total })
    }

    /// A weight whose inner dimension is summed in order.
    pub(crate) fn matrix(&mut self, slices: &[TensorSlice]) -> Result<D::Matrix, ModelError> {
        let inner = slices.first().map_or(0, |slice| slice.columns.len());
        self.segmented(slices, &[0, inner])
    }

    /// A weight whose inner dimension is summed in segments. It may be quantised where its slices say so.
    pub(crate) fn segmented(&mut self, slices: &[TensorSlice], segments: &[usize]) -> Result<D::Matrix, ModelError> {
        let read = slices.iter().map(|slice| self.read(slice)).collect::<Result<Vec<_>, _>>()?;
        let sources: Vec<_> = read.iter().map(Loadable::source).collect();
        if slices.iter().all(|slice| slice.quantisable) {
            return Ok(self.device.load_quantisable(&sources, segments)?);
        }
        Ok(self.device.load_matrix(&sources, segments)?)
    }

    /// A weight of `rows`, the last ones repeated where the slice has fewer.
    pub(crate) fn padded_matrix(&mut self, slice: &TensorSlice, rows: usize) -> Result<D::Matrix, ModelError> {
        let read = self.read(slice)?.padded(rows);
        Ok(self.device.load_matrix(&[read.source()], &[0, slice.columns.len()])?)
    }

    /// A norm's scale or a bias.
    pub(crate) fn vector(&mut self, slice: &TensorSlice) -> Result<D::Vector, ModelError> {
        let read = self.read(slice)?;
        Ok(self.device.load_vector(&read.source())?)
    }

    /// Rows to look up.
    pub(crate) fn table(&mut self, slice: &TensorSlice) -> Result<D::Table, ModelError> {
        let read = self.read(slice)?;
        Ok(self.device.load_table(&read.source())?)
    }

    fn read(&mut self, slice: &TensorSlice) -> Result<Loadable, ModelError> {
        self.source.load(slice, &mut |bytes| {
            self.done += bytes;
            (self.progress)(self.done, self.total)
        })
    }
}
