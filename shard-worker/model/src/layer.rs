//! A transformer layer's shard, the same for the decoder and the vision encoder but for how it attends.

use tessera_device::{Device, DeviceError, Heads};

use crate::ModelError;
use crate::ranks::Reduce;
use crate::slices::LayerSlices;
use crate::weights::Loader;

/// Sizes of a rank's part of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerSizes {
    pub(crate) dim: usize,
    pub(crate) heads: Heads,
    pub(crate) ffn: usize,
    pub(crate) eps: f32,
}

impl LayerSizes {
    /// Numbers that a row has in a [`Scratch`].
    pub(crate) fn scratch(&self) -> usize {
        let Heads { heads, head_dim, .. } = self.heads;
        2 * self.dim + self.heads.fused() + heads * head_dim + 3 * self.ffn
    }
}

/// Weights of a layer.
pub(crate) struct Layer<D: Device> {
    attention_norm: D::Vector,
    qkv: D::Matrix,
    attention_out: D::Matrix,
    ffn_norm: D::Vector,
    gate_up: D::Matrix,
    down: D::Matrix,
}

/// Buffers that all layers of a pass share.
pub(crate) struct Scratch<D: Device> {
    normed: D::Tensor,
    qkv: D::Tensor,
    attended: D::Tensor,
    gate_up: D::Tensor,
    gated: D::Tensor,
    /// What a half layer adds to the residual stream: this rank's part, then the sum.
    delta: D::Tensor,
    /// Whether `delta` is still to be added.
    pending: bool,
}

impl<D: Device> Scratch<D> {
    pub(crate) fn new(device: &D, rows: usize, sizes: &LayerSizes) -> Result<Self, ModelError> {
        Ok(Self {
            normed: device.working(rows, sizes.dim)?,
            qkv: device.working(rows, sizes.heads.fused())?,
            attended: device.working(rows, sizes.heads.heads * sizes.heads.head_dim)?,
            gate_up: device.working(rows, 2 * sizes.ffn)?,
            gated: device.working(rows, sizes.ffn)?,
            delta: device.working(rows, sizes.dim)?,
            pending: false,
        })
    }

    /// Sums what the ranks have of `delta`, to be added to the residual stream.
    fn reduce(&mut self, device: &D, ranks: &mut impl Reduce) -> Result<(), ModelError> {
        self.pending = true;
        ranks.all_reduce(device, &mut self.delta)
    }

    /// Normalises the residual stream, with what the last half layer adds to it.
    fn norm(&mut self, device: &D, x: &mut D::Tensor, scale: &D::Vector, eps: f32) -> Result<(), DeviceError> {
        if std::mem::take(&mut self.pending) {
            device.add_rms_norm(x, &self.delta, scale, eps, &mut self.normed)
        } else {
            device.rms_norm(x, scale, eps, &mut self.normed)
        }
    }

    /// Adds what the last layer left to be added.
    pub(crate) fn settle(&mut self, device: &D, x: &mut D::Tensor) -> Result<(), DeviceError> {
        if std::mem::take(&mut self.pending) { device.add(x, &self.delta) } else { Ok(()) }
    }
}

impl<D: Device> Layer<D> {
    pub(crate) fn load(loader: &mut Loader<'_, D>, slices: &LayerSlices) -> Result<Self, ModelError> {
        Ok(Self {
            attention_norm: loader.vector(&slices.attention_norm)?,
            qkv: loader.matrix(&slices.qkv)?,
            attention_out: loader.segmented(std::slice::from_ref(&slices.attention_out), &slices.attention_segments)?,
            ffn_norm: loader.vector(&slices.ffn_norm)?,
            gate_up: loader.matrix(&slices.gate_up)?,
            down: loader.segmented(std::slice::from_ref(&slices.down), &slices.ffn_segments)?,
        })
    }

    /// Adds the layer to the residual stream `x`, all but its last sum, which the next layer adds or [`Scratch::settle`].
    /// `attend` turns fused queries, keys and values into what was attended.
    pub(crate) fn forward(
        &self,
        device: &D,
        ranks: &mut impl Reduce,
        eps: f32,
        scratch: &mut Scratch<D>,
        x: &mut D::Tensor,
        attend: impl FnOnce(&mut D::Tensor, &mut D::Tensor) -> Result<(), DeviceError>,
    ) -> Result<(), ModelError> {
        let s = scratch;
        s.norm(device, x, &self.attention_norm, eps)?;
        device.matmul(&s.normed, &self.qkv, &mut s.qkv)?;
        attend(&mut s.qkv, &mut s.attended)?;
        device.matmul(&s.attended, &self.attention_out, &mut s.delta)?;
        s.reduce(device, ranks)?;

        s.norm(device, x, &self.ffn_norm, eps)?;
        device.matmul(&s.normed, &self.gate_up, &mut s.gate_up)?;
        device.swiglu(&s.gate_up, &mut s.gated)?;
        device.matmul(&s.gated, &self.down, &mut s.delta)?;
        s.reduce(device, ranks)
    }
}
