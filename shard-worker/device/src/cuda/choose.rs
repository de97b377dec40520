//! Choosing tokens on the device, and saying how probable they were.

use super::{
    CudaChosen, CudaDevice, CudaTensor,
    kernel::{Arg, Geometry, Kernel, int},
};
use crate::{Choosing, DeviceError, LogitEdit};

/// Threads of a block that looks through a row of logits.
const THREADS: u32 = 1024;
/// Threads of a block that edits a row.
const EDIT_THREADS: u32 = 256;

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
        let [at, parts, all, part]: [Arg; 4] =
            [logits.address().into(), int(parts)?.into(), int(rows)?.into(), int(logits.cols)?.into()];
        let (parameters, vocab): (Arg, Arg) = (parameters.address().into(), int(vocab_size)?.into());
        let edit = |kernel| match edits {
            [] => Ok(()),
            _ => {
                let args = [at, parts, all, part, parameters, edited.address().into()];
                self.kernels.launch(kernel, Geometry::rows(rows, EDIT_THREADS), &args)
            }
        };
        edit(Kernel::EditLogits)?;
        let chosen = self.new_chosen(choosing)?;
        let (ids, finite) = chosen.addresses();
        let args = [at, parts, all, part, vocab, parameters, ids.into(), finite.into()];
        self.kernels.launch(Kernel::Sample, Geometry::rows(rows, THREADS), &args)?;
        if let Some((logprobs, most)) = chosen.logprobs() {
            // They are of the logits as they were.
            edit(Kernel::RestoreLogits)?;
            let args = [at, parts, all, part, vocab, parameters, ids.into(), int(most)?.into(), logprobs.into()];
            self.kernels.launch(Kernel::Logprobs, Geometry::rows(rows, THREADS), &args)?;
        }
        Ok(chosen)
    }
}
