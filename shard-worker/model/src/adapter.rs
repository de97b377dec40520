//! The adapter's shard: from the vision encoder's width to the decoder's.

use tessera_device::Device;

use crate::ModelError;
use crate::ranks::Reduce;
use crate::slices::VisionSlices;
use crate::weights::Loader;

pub(crate) struct Adapter<D: Device> {
    w_in: D::Matrix,
    w_out: D::Matrix,
    bias: Option<[D::Vector; 2]>,
    /// This rank's columns of the hidden layer.
    hidden: usize,
    dim: usize,
}

impl<D: Device> Adapter<D> {
    pub(crate) fn load(loader: &mut Loader<'_, D>, slices: &VisionSlices) -> Result<Self, ModelError> {
        let bias = match &slices.adapter_bias {
            Some([first, second]) => Some([loader.vector(first)?, loader.vector(second)?]),
            None => None,
        };
        Ok(Self {
            w_in: loader.matrix(std::slice::from_ref(&slices.adapter_in))?,
            w_out: loader.segmented(std::slice::from_ref(&slices.adapter_out), &slices.adapter_segments)?,
            bias,
            hidden: slices.adapter_in.rows.len(),
            dim: slices.adapter_out.rows.len(),
        })
    }

    /// Width of what comes out.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// `[patches, vision width]` to `[patches, dim]`.
    pub(crate) fn forward(&self, device: &D, ranks: &mut impl Reduce, x: &D::Tensor) -> Result<D::Tensor, ModelError> {
        let (rows, _) = device.shape(x);
        let mut hidden = device.working(rows, self.hidden)?;
        let mut out = device.working(rows, self.dim)?;
        device.matmul(x, &self.w_in, &mut hidden)?;
        device.gelu_bias(&mut hidden, self.bias.as_ref().map(|bias| &bias[0]))?;
        device.matmul(&hidden, &self.w_out, &mut out)?;
        ranks.all_reduce(device, &mut out)?;
        if let Some([_, second]) = &self.bias {
            device.add_bias(&mut out, second)?;
        }
        Ok(out)
    }
}
