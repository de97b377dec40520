//! Choosing tokens on the device.

use super::{
    CudaChosen, CudaDevice, CudaTensor,
    kernel::{Geometry, Kernel, int},
};
use crate::{Choosing, DeviceError, LogitEdit};

/// Threads of a block that looks through a row of logits.
const THREADS: u32 = 1024;

impl CudaDevice {
    /// See [`crate::Device::choose`].
    pub(super) fn choose_tokens(
        &self,
        logits: &mut CudaTensor,
        parts: usize,
        vocab_size: usize,
        choosing: &[Choosing],
        edits: &[LogitEdit],
    ) -> Result<CudaChosen, DeviceError> {
        let rows = choosing.len();
        if parts == 0 || rows * parts != logits.rows || logits.cols * parts < vocab_size {
            let detail = format!("{rows} rows of {vocab_size} in {parts} parts of {}x{}", logits.rows, logits.cols);
            return Err(DeviceError::Shape { operation: "choose", detail });
        }
        let (parameters, edited) = (self.scratch(size_of_val(choosing))?, self.scratch(size_of_val(edits))?);
        self.upload(parameters.address(), choosing)?;
        self.upload(edited.address(), edits)?;
        let shape = [int(parts)?, int(rows)?, int(logits.cols)?];
        let [parts, all, part] = shape;
        if !edits.is_empty() {
            let args = [
                logits.address().into(),
                parts.into(),
                all.into(),
                part.into(),
                parameters.address().into(),
                edited.address().into(),
            ];
            self.kernels.launch(Kernel::EditLogits, Geometry::rows(rows, 256), &args)?;
        }
        let chosen = self.new_chosen(rows)?;
        let (ids, finite) = chosen.addresses();
        let args = [
            logits.address().into(),
            parts.into(),
            all.into(),
            part.into(),
            int(vocab_size)?.into(),
            parameters.address().into(),
            ids.into(),
            finite.into(),
        ];
        self.kernels.launch(Kernel::Sample, Geometry::rows(rows, THREADS), &args)?;
        Ok(chosen)
    }
}
