//! What a rank computes on.
//!
//! The trait names the operations of a Pixtral forward pass, coarse enough that a device may fuse what it likes and
//! fine enough that the model reads as the model. Activations are matrices `[rows, cols]`, row-major, owned by the
//! device. A row's result depends on that row alone, never on the batch around it.

mod choosing;
pub mod cpu;
pub mod cuda;
mod error;
mod format;
mod made_up;
mod pass;
mod peers;
pub mod sim;
mod source;

pub use choosing::{Choosing, ChosenToken, LogitEdit};
pub use error::DeviceError;
pub use format::{CacheDtype, Dtype, Formats, Quantization, WeightFormat};
pub use made_up::MadeUp;
pub use pass::{CacheShape, ChunkSpan, Heads, Rows, Spans};
pub use peers::{PeerFailure, PeerOffer, PeerStop};
pub use source::{MatrixSource, Origin, SourceDtype};

use std::time::Duration;

use tessera_types::DeviceSlice;

/// The operations of the forward pass. All matrices passed to one call come from the same device.
pub trait Device: Send {
    /// Activations `[rows, cols]`.
    type Tensor: Send;
    /// Rows that were handed to the device, once for all layers of a pass.
    type Placed<'a>;
    /// A weight `[out, in]` in the device's own layout.
    type Matrix: Send;
    /// A vector of weights: a norm's scale or a bias, f32.
    type Vector: Send;
    /// Rows to look up by token, `[tokens, dim]`.
    type Table: Send;
    /// Keys and values of all layers, in blocks.
    type Cache: Send;
    /// Cosines and sines for rotary positions.
    type Rotary: Send;
    /// Tokens that the device chose, for which nobody has waited yet.
    type Chosen: Send;
    /// A pass that was recorded and can be replayed.
    type Recording: Send;

    /// A matrix of zeros in f32. Buffers are reused: dropping one gives it back.
    fn tensor(&self, rows: usize, cols: usize) -> Result<Self::Tensor, DeviceError>;

    /// A matrix in the numbers that the device multiplies, for all but the residual stream and logits. What it holds
    /// before it is written is nobody's business.
    fn working(&self, rows: usize, cols: usize) -> Result<Self::Tensor, DeviceError> {
        self.tensor(rows, cols)
    }

    /// A matrix as [`Device::working`] makes them, for what outlives the pass.
    fn lasting(&self, rows: usize, cols: usize) -> Result<Self::Tensor, DeviceError> {
        self.working(rows, cols)
    }

    /// Hands a pass's rows to the device.
    fn place<'a>(&self, rows: Rows<'a>) -> Result<Self::Placed<'a>, DeviceError>;

    /// Shape `(rows, cols)`.
    fn shape(&self, tensor: &Self::Tensor) -> (usize, usize);

    /// Copies from the host; `values` has `rows * cols` numbers.
    fn write(&self, tensor: &mut Self::Tensor, values: &[f32]) -> Result<(), DeviceError>;

    /// Copies to the host.
    fn read(&self, tensor: &Self::Tensor) -> Result<Vec<f32>, DeviceError>;

    /// The numbers themselves where host code may touch them in place, as a host collective does.
    fn host_mut<'a>(&self, tensor: &'a mut Self::Tensor) -> Option<&'a mut [f32]>;

    /// Where the numbers are that a collective of devices may exchange.
    fn slice(&self, tensor: &Self::Tensor) -> Option<DeviceSlice> {
        let _ = tensor;
        None
    }

    /// Whether all that was asked for is done, where calls return before it is.
    fn is_idle(&self) -> Result<bool, DeviceError> {
        Ok(true)
    }

    /// Waits until all that was asked for is done, where calls return before it is.
    fn finish(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Makes ready what the devices of other ranks may reach, and says how they find it.
    ///
    /// # Errors
    /// Why none can.
    fn offer_peers(&self) -> Result<PeerOffer, DeviceError> {
        Err(DeviceError::Peers("this device has none".into()))
    }

    /// Reaches what all ranks have offered, by rank, `rank` being this one; all must have before any sums. Nothing waits for longer
    /// than `limit`, nor once it is stopped.
    ///
    /// # Errors
    /// Which rank cannot be reached, and why.
    fn connect_peers(&self, rank: usize, offers: &[PeerOffer], limit: Duration) -> Result<PeerStop, DeviceError> {
        let _ = (rank, offers, limit);
        Err(DeviceError::Peers("this device has none".into()))
    }

    /// Asks for the sum over ranks of `values` on every rank, as the host's collectives add, where peers are connected and the
    /// values are few. Whether it did, which depends on their number alone.
    fn sum_over_peers(&self, values: &mut Self::Tensor) -> Result<bool, DeviceError> {
        let _ = values;
        Ok(false)
    }

    /// Why sums over peers came to nothing, if one did: what is asked for is then done, and holds anything.
    fn peer_failure(&self) -> Option<PeerFailure> {
        None
    }

    /// Parts from the peers that were connected, once all that was asked for is done.
    fn part_from_peers(&self) {}

    /// Packs a weight from checkpoint bytes, or makes it up. `sources` are stacked along the output dimension (fused q, k, v or gate, up).
    ///
    /// `segments` bounds the runs of the inner dimension that are summed apart and joined as a binary tree
    /// (`tessera_types::segment_bounds`); `[0, in]` for a plain sum in order.
    fn load_matrix(&mut self, sources: &[MatrixSource<'_>], segments: &[usize]) -> Result<Self::Matrix, DeviceError>;

    /// Packs a weight that bears fewer bits, as [`Device::load_matrix`] does or quantised, where the device was set up so.
    fn load_quantisable(&mut self, sources: &[MatrixSource<'_>], segments: &[usize]) -> Result<Self::Matrix, DeviceError> {
        self.load_matrix(sources, segments)
    }

    /// Loads a vector, widened to f32.
    fn load_vector(&mut self, source: &MatrixSource<'_>) -> Result<Self::Vector, DeviceError>;

    /// Loads rows to look up.
    fn load_table(&mut self, source: &MatrixSource<'_>) -> Result<Self::Table, DeviceError>;

    /// Reserves the cache: the device's largest allocation beside the weights, made once.
    fn cache(&mut self, shape: CacheShape) -> Result<Self::Cache, DeviceError>;

    /// Frequencies of the decoder: pair `i` of a head turns by `position * theta^(-2i / head_dim)`.
    fn rotary(&mut self, head_dim: usize, theta: f64, positions: usize) -> Result<Self::Rotary, DeviceError>;

    /// Frequencies of the vision encoder over (row, column): the first half of a head's pairs turns by the row with
    /// `theta^(-2i / head_dim)` for even `i`, the second half by the column with odd `i`.
    /// Position of patch `(r, c)` is `r * side + c`.
    fn rotary_2d(&mut self, head_dim: usize, theta: f64, side: usize) -> Result<Self::Rotary, DeviceError>;

    /// `out[i] = table[tokens[i] - first]`, or zeros where the table (this rank's slice of the vocabulary, from
    /// `first`) does not hold the token. `None` leaves the row as it is (an image feature goes there).
    fn embed(
        &self,
        table: &Self::Table,
        first: usize,
        rows: &Self::Placed<'_>,
        out: &mut Self::Tensor,
    ) -> Result<(), DeviceError>;

    /// `out[to[i]] = from[rows[i]]`.
    fn copy_rows(&self, from: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor, to: &[usize]) -> Result<(), DeviceError>;

    /// `out = x / sqrt(mean(x^2) + eps) * scale`, row by row.
    fn rms_norm(&self, x: &Self::Tensor, scale: &Self::Vector, eps: f32, out: &mut Self::Tensor) -> Result<(), DeviceError>;

    /// `out = x * weight^T`; row-parallel weights give this rank's part of the sum.
    fn matmul(&self, x: &Self::Tensor, weight: &Self::Matrix, out: &mut Self::Tensor) -> Result<(), DeviceError>;

    /// `x += y`.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<(), DeviceError>;

    /// `x += y`, then `out` is `x` normalised as [`Device::rms_norm`] does.
    fn add_rms_norm(
        &self,
        x: &mut Self::Tensor,
        y: &Self::Tensor,
        scale: &Self::Vector,
        eps: f32,
        out: &mut Self::Tensor,
    ) -> Result<(), DeviceError> {
        self.add(x, y)?;
        self.rms_norm(x, scale, eps, out)
    }

    /// `x[r] += bias`.
    fn add_bias(&self, x: &mut Self::Tensor, bias: &Self::Vector) -> Result<(), DeviceError>;

    /// `out = silu(gate) * up` of fused rows `[gate | up]`.
    fn swiglu(&self, gate_up: &Self::Tensor, out: &mut Self::Tensor) -> Result<(), DeviceError>;

    /// `x = gelu(x + bias)`, the exact one with erf.
    fn gelu_bias(&self, x: &mut Self::Tensor, bias: Option<&Self::Vector>) -> Result<(), DeviceError>;

    /// Turns queries and keys of fused rows in place, pairs `(2i, 2i + 1)`, by the rows' positions.
    fn rotate(
        &self,
        qkv: &mut Self::Tensor,
        heads: Heads,
        rotary: &Self::Rotary,
        rows: &Self::Placed<'_>,
    ) -> Result<(), DeviceError>;

    /// Turns fused rows as [`Device::rotate`] does, and writes their keys and values into a layer's blocks. What is left of the
    /// keys in `qkv` is nobody's business.
    fn rotate_and_store(
        &self,
        qkv: &mut Self::Tensor,
        heads: Heads,
        rotary: &Self::Rotary,
        cache: &mut Self::Cache,
        layer: usize,
        rows: &Self::Placed<'_>,
    ) -> Result<(), DeviceError>;

    /// Causal attention of the queries of fused rows over the cache, which already holds the chunks' own keys and
    /// values; `out` is `[rows, heads * head_dim]`. Blocks are walked in order, whatever the chunk.
    fn attend(
        &self,
        qkv: &Self::Tensor,
        heads: Heads,
        cache: &Self::Cache,
        layer: usize,
        rows: &Self::Placed<'_>,
        out: &mut Self::Tensor,
    ) -> Result<(), DeviceError>;

    /// Full attention inside each image, none across.
    fn attend_images(
        &self,
        qkv: &Self::Tensor,
        heads: Heads,
        rows: &Self::Placed<'_>,
        out: &mut Self::Tensor,
    ) -> Result<(), DeviceError>;

    /// Whether the device itself can choose tokens.
    fn chooses(&self) -> bool {
        false
    }

    /// Chooses a token for each row of logits, which lie as they were gathered: `parts` matrices `[rows, vocabulary / parts]`
    /// one behind the other, padding at the end. The logits may be changed. Says how probable tokens were where that is asked for.
    /// Returns before it is done.
    fn choose(
        &self,
        logits: &mut Self::Tensor,
        parts: usize,
        vocab_size: usize,
        choosing: &[Choosing],
        edits: &[LogitEdit],
    ) -> Result<Self::Chosen, DeviceError> {
        let _ = (logits, parts, vocab_size, choosing, edits);
        Err(left_to_the_host("choose"))
    }

    /// Choices for no rows, on their way to the host: they are there once all is done that was asked for so far.
    fn nothing_chosen(&self) -> Result<Self::Chosen, DeviceError> {
        Err(left_to_the_host("choose"))
    }

    /// Where the choices lie that a collective may exchange, as 32-bit words that nobody looks into.
    fn chosen_slice(&self, chosen: &Self::Chosen) -> Option<DeviceSlice> {
        let _ = chosen;
        None
    }

    /// Begins to bring choices to the host, behind all that was asked for so far.
    fn fetch(&self, chosen: &mut Self::Chosen) -> Result<(), DeviceError> {
        let _ = chosen;
        Err(left_to_the_host("fetch"))
    }

    /// Whether choices that are being brought are there.
    fn is_fetched(&self, chosen: &Self::Chosen) -> Result<bool, DeviceError> {
        let _ = chosen;
        Err(left_to_the_host("fetch"))
    }

    /// The tokens, once they are there; `None` where a row's logits were no numbers to choose from.
    fn fetched(&self, chosen: &mut Self::Chosen) -> Result<Vec<Option<ChosenToken>>, DeviceError> {
        let _ = chosen;
        Err(left_to_the_host("fetch"))
    }

    /// Tokens that were chosen go to rows that were placed with others: pairs of a row and whose choice it gets.
    fn feed(&self, placed: &Self::Placed<'_>, chosen: &Self::Chosen, rows: &[(usize, usize)]) -> Result<(), DeviceError> {
        let _ = (placed, chosen, rows);
        Err(left_to_the_host("feed"))
    }

    /// What tells a pass from others that could not share its recording; `None` where it is not worth one.
    fn recording(&self, rows: &Self::Placed<'_>) -> Option<u64> {
        let _ = rows;
        None
    }

    /// Records what `work` asks for instead of doing it. Where its result lies other recordings compute, too: it is there from
    /// a replay to whatever is recorded, replayed or placed next.
    fn record<E: From<DeviceError>>(
        &self,
        work: impl FnOnce() -> Result<Self::Tensor, E>,
    ) -> Result<(Self::Tensor, Self::Recording), E> {
        let _ = work;
        Err(DeviceError::Shape { operation: "record", detail: "this device records nothing".into() }.into())
    }

    /// All recordings are gone: what was set apart for them can be used again. What a device refuses to record depends on what it
    /// was asked for since, so that ranks that are asked alike refuse alike.
    fn forget_recordings(&self) {}

    /// Does again what was recorded, with the rows placed last for its key.
    fn replay(&self, recording: &Self::Recording) -> Result<(), DeviceError> {
        let _ = recording;
        Err(DeviceError::Shape { operation: "replay", detail: "this device records nothing".into() })
    }
}

fn left_to_the_host(operation: &'static str) -> DeviceError {
    DeviceError::Shape { operation, detail: "this device leaves choosing to the host".into() }
}
