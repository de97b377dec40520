//! The language model's shard.

use std::collections::HashMap;
use std::sync::Arc;

use tessera_device::{ChunkSpan, Device, Heads, Rows, Spans};
use tessera_types::{ImageKey, ModelSpec, ShardPlan};

use crate::batch::Batch;
use crate::error::{ModelError, PlanError};
use crate::layer::{Layer, LayerSizes, Scratch};
use crate::open::Feed;
use crate::passes::Passes;
use crate::ranks::{Gathered, Ranks, Reduce};
use crate::slices::ShardSlices;
use crate::weights::Loader;

pub(crate) struct Decoder<D: Device> {
    embedding: D::Table,
    /// The first token whose row this rank's embedding holds.
    first: usize,
    layers: Vec<Layer<D>>,
    norm: D::Vector,
    output: D::Matrix,
    /// Rows of the output matrix, padding included: the same on every rank.
    output_rows: usize,
    vocab_size: usize,
    rotary: D::Rotary,
    sizes: LayerSizes,
}

impl<D: Device> Decoder<D> {
    pub(crate) fn load(
        loader: &mut Loader<'_, D>,
        spec: &ModelSpec,
        plan: &ShardPlan,
        slices: &ShardSlices,
        positions: usize,
    ) -> Result<Self, ModelError> {
        let d = &spec.decoder;
        let output_rows = plan.vocab_rows(spec);
        Ok(Self {
            embedding: loader.table(&slices.embedding)?,
            first: plan.vocab.start,
            layers: slices.layers.iter().map(|layer| Layer::load(loader, layer)).collect::<Result<_, _>>()?,
            norm: loader.vector(&slices.norm)?,
            output: loader.padded_matrix(&slices.output, output_rows)?,
            output_rows,
            vocab_size: d.vocab_size,
            rotary: loader.device.rotary(d.head_dim, d.rope_theta, positions)?,
            sizes: sizes(spec, plan),
        })
    }

    /// Runs all chunks through all layers; `[rows, dim]`, before the final norm. `feeds` are tokens that the device chose and
    /// the host does not know yet.
    pub(crate) fn forward(
        &self,
        device: &D,
        ranks: &mut Ranks,
        state: State<'_, D>,
        batch: &Batch,
        chunks: &[ChunkSpan<'_>],
        feeds: &[Feed<'_, D>],
    ) -> Result<Arc<D::Tensor>, ModelError> {
        let State { cache, features, passes } = state;
        let rows = Rows { tokens: &batch.tokens, positions: &batch.positions, spans: Spans::Chunks(chunks) };
        let placed = device.place(rows)?;
        for Feed { chosen, rows } in feeds {
            device.feed(&placed, chosen, rows)?;
        }
        ranks.progressed();
        passes.run(device, &placed, || self.pass(device, ranks, cache, features, batch, &placed))
    }

    fn pass(
        &self,
        device: &D,
        ranks: &mut Ranks,
        cache: &mut D::Cache,
        features: &HashMap<ImageKey, D::Tensor>,
        batch: &Batch,
        placed: &D::Placed<'_>,
    ) -> Result<D::Tensor, ModelError> {
        let mut x = device.tensor(batch.tokens.len(), self.sizes.dim)?;
        self.embed(device, ranks, features, batch, placed, &mut x)?;
        let mut scratch = Scratch::new(device, batch.tokens.len(), &self.sizes)?;
        let heads = self.sizes.heads;
        for (n, layer) in self.layers.iter().enumerate() {
            layer.forward(device, ranks, self.sizes.eps, &mut scratch, &mut x, |qkv, attended| {
                device.rotate_and_store(qkv, heads, &self.rotary, cache, n, placed)?;
                device.attend(qkv, heads, cache, n, placed, attended)
            })?;
        }
        scratch.settle(device, &mut x)?;
        Ok(x)
    }

    /// Embeds tokens, each by the rank that holds its row, and lays image features in their places.
    fn embed(
        &self,
        device: &D,
        ranks: &mut Ranks,
        features: &HashMap<ImageKey, D::Tensor>,
        batch: &Batch,
        placed: &D::Placed<'_>,
        x: &mut D::Tensor,
    ) -> Result<(), ModelError> {
        device.embed(&self.embedding, self.first, placed, x)?;
        ranks.all_reduce(device, x)?;
        for run in &batch.features {
            let unknown = PlanError::UnknownImage { sequence: run.sequence, image: run.image, patches: run.patches };
            let from = features.get(&run.image).ok_or(unknown)?;
            device.copy_rows(from, &run.from, x, &run.to)?;
        }
        Ok(())
    }

    /// Logits of some rows of the last layer's output, whole on every rank.
    pub(crate) fn logits(&self, device: &D, ranks: &mut Ranks, x: &D::Tensor, rows: &[usize]) -> Result<Logits<D>, ModelError> {
        let mut normed = device.working(rows.len(), self.sizes.dim)?;
        let mut part = device.tensor(rows.len(), self.output_rows)?;
        if rows.iter().copied().eq(0..device.shape(x).0) {
            device.rms_norm(x, &self.norm, self.sizes.eps, &mut normed)?;
        } else {
            let mut picked = device.tensor(rows.len(), self.sizes.dim)?;
            let to: Vec<usize> = (0..rows.len()).collect();
            device.copy_rows(x, rows, &mut picked, &to)?;
            device.rms_norm(&picked, &self.norm, self.sizes.eps, &mut normed)?;
        }
        device.matmul(&normed, &self.output, &mut part)?;
        let gathered = ranks.all_gather(device, part)?;
        Ok(Logits { gathered, rows: rows.len(), part: self.output_rows, vocab_size: self.vocab_size })
    }
}

fn sizes(spec: &ModelSpec, plan: &ShardPlan) -> LayerSizes {
    let d = &spec.decoder;
    let heads = Heads { heads: plan.heads.len(), kv_heads: plan.kv_heads.len(), head_dim: d.head_dim };
    LayerSizes { dim: d.dim, heads, ffn: plan.ffn.len(), eps: d.norm_eps }
}

/// Bytes that each row of a pass through the decoder's layers takes of a rank's device: the residual stream in f32, and
/// what the layers share in working numbers of `working` bytes. Not what attention, logits and images take beside.
pub fn pass_row_bytes(spec: &ModelSpec, plan: &ShardPlan, working: usize) -> usize {
    spec.decoder.dim * size_of::<f32>() + sizes(spec, plan).scratch() * working
}

/// What a rank keeps from pass to pass.
pub(crate) struct State<'a, D: Device> {
    pub(crate) cache: &'a mut D::Cache,
    pub(crate) features: &'a HashMap<ImageKey, D::Tensor>,
    pub(crate) passes: &'a mut Passes<D>,
}

/// Logits as they were gathered: by rank, then by row.
pub(crate) struct Logits<D: Device> {
    pub(crate) gathered: Gathered<D>,
    rows: usize,
    part: usize,
    pub(crate) vocab_size: usize,
}

impl<D: Device> Logits<D> {
    /// On the host.
    pub(crate) fn into_host(self, device: &D) -> Result<HostLogits, ModelError> {
        let Self { gathered, rows, part, vocab_size } = self;
        Ok(HostLogits { values: gathered.into_host(device)?, rows, part, vocab_size })
    }
}

/// Logits on the host, by rank, then by row.
pub(crate) struct HostLogits {
    values: Vec<f32>,
    rows: usize,
    part: usize,
    vocab_size: usize,
}

impl HostLogits {
    /// Joins the ranks' parts of a row, without the padding.
    pub(crate) fn row(&self, row: usize, joined: &mut Vec<f32>) {
        joined.clear();
        for rank in self.values.chunks_exact(self.rows * self.part) {
            joined.extend_from_slice(&rank[row * self.part..(row + 1) * self.part]);
        }
        joined.truncate(self.vocab_size);
    }
}
