//! A rank's model: its weights, its cache, its sequences.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use tessera_collective::Collective;
use tessera_device::{CacheDtype, CacheShape, Device};
use tessera_types::{BLOCK_TOKENS, ImageEncode, ImageKey, ModelSpec, ShardPlan};

use crate::check::Checker;
use crate::checkpoint::WeightSource;
use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::error::{ModelError, PlanError};
use crate::figures::group_figures;
use crate::ledger::Ledger;
use crate::open::Open;
use crate::passes::Passes;
use crate::ranks::Ranks;
use crate::sequences::Sequences;
use crate::slices::ShardSlices;
use crate::weights::{Loader, Progress};

/// The paged cache to reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Blocks of [`BLOCK_TOKENS`] tokens.
    pub blocks: usize,
    /// What keys and values are kept in.
    pub dtype: CacheDtype,
}

/// One rank's shard of a model, ready to run step plans.
pub struct Model<D: Device> {
    // Dropped first, since graphs hold the collective; then the collective, which must end before its device does.
    pub(crate) passes: Passes<D>,
    /// Steps that were begun, in order.
    pub(crate) open: VecDeque<Open<D>>,
    pub(crate) ranks: Ranks,
    /// When the last step ended.
    pub(crate) ended: Instant,
    pub(crate) spec: ModelSpec,
    pub(crate) plan: ShardPlan,
    pub(crate) device: D,
    pub(crate) decoder: Decoder<D>,
    pub(crate) encoder: Option<Encoder<D>>,
    pub(crate) cache: D::Cache,
    pub(crate) blocks: usize,
    pub(crate) positions: usize,
    pub(crate) sequences: Sequences,
    pub(crate) ledger: Ledger,
    /// What the encoder made of each image, `[patches, dim]`.
    pub(crate) features: HashMap<ImageKey, D::Tensor>,
}

impl<D: Device> Model<D> {
    /// Reads this rank's slice of the weights onto the device and reserves the cache. Nothing is read before every
    /// tensor was found with the shape the configuration gives it. `progress` is told of bytes done and bytes in all,
    /// before the first tensor, after each one and within long ones; its error ends the loading.
    pub fn load(
        source: &WeightSource,
        plan: ShardPlan,
        mut device: D,
        collective: Box<dyn Collective>,
        cache: CacheConfig,
        progress: Progress<'_>,
    ) -> Result<Self, ModelError> {
        fits(&plan, collective.as_ref())?;
        let figures = group_figures(collective.as_ref(), cache.dtype.computed());
        let mut ranks = Ranks::new(collective);
        ranks.connect(&device)?;
        let spec = source.spec().clone();
        let slices = ShardSlices::new(&spec, &plan);
        let positions = spec.max_context.min(cache.blocks * BLOCK_TOKENS);
        let mut loader = Loader::new(&mut device, source, &slices, progress)?;
        let decoder = Decoder::load(&mut loader, &spec, &plan, &slices, positions)?;
        let encoder = Encoder::load(&mut loader, &spec, &plan, &slices, figures)?;
        let d = &spec.decoder;
        let (kv_heads, head_dim) = (plan.kv_heads.len(), d.head_dim);
        let shape = CacheShape { layers: d.layers, kv_heads, head_dim, blocks: cache.blocks, dtype: cache.dtype };
        let paged = device.cache(shape)?;
        // What went wrong behind the calls is known before anybody counts on the weights.
        device.finish()?;
        Ok(Self {
            spec,
            plan,
            device,
            ranks,
            decoder,
            encoder,
            cache: paged,
            blocks: cache.blocks,
            positions,
            sequences: Sequences::new(),
            ledger: Ledger::new(cache.blocks),
            features: HashMap::new(),
            passes: Passes::new(),
            open: VecDeque::new(),
            ended: Instant::now(),
        })
    }

    /// Joins a new group with the weights at hand: forgets every sequence and image. The new group has the old one's
    /// degree, and this rank its place in it.
    pub fn join(&mut self, collective: Box<dyn Collective>) -> Result<(), ModelError> {
        fits(&self.plan, collective.as_ref())?;
        self.open.clear();
        self.passes.clear(&self.device);
        self.ranks.join(&self.device, collective)?;
        self.sequences.clear();
        self.ledger.clear();
        self.features.clear();
        Ok(())
    }

    /// Leaves the group and keeps the weights; fails with what the device says. What was recorded goes first: a collective of
    /// devices ends only then.
    pub fn leave(&mut self) -> Result<(), ModelError> {
        self.open.clear();
        self.passes.clear(&self.device);
        Ok(self.ranks.leave(&self.device)?)
    }

    /// Passes that were recorded and are replayed.
    pub fn recorded_passes(&self) -> usize {
        self.passes.recorded()
    }

    /// Whether small sums over ranks go through the devices' own memory.
    pub fn has_peers(&self) -> bool {
        self.ranks.has_peers()
    }

    /// Counts on `progress`, many times a step, while steps get on.
    pub fn count_progress(&mut self, progress: Arc<AtomicU64>) {
        self.ranks.count(progress);
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The slice this rank holds.
    pub fn plan(&self) -> &ShardPlan {
        &self.plan
    }

    /// Positions a sequence can have: the checkpoint's claim, or what the cache can hold.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// What the vision encoder makes of images before the adapter, `[patches, vision width]` one behind the other.
    /// For inspection; all ranks call it together.
    pub fn vision_output(&mut self, images: &[ImageEncode]) -> Result<Vec<f32>, ModelError> {
        let encoder = match (&self.encoder, images.first()) {
            (Some(encoder), _) => encoder,
            (None, Some(image)) => return Err(PlanError::NoVision(image.key).into()),
            (None, None) => return Ok(Vec::new()),
        };
        let encoded = encoder.encode(&self.device, &mut self.ranks, images)?;
        Ok(encoded.map_or(Ok(Vec::new()), |encoded| self.device.read(&encoded))?)
    }

    /// An encoded image behind the adapter, `[patches, dim]`; `None` if it was not encoded or is forgotten. For inspection.
    pub fn image_features(&self, key: ImageKey) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.features.get(&key).map(|features| self.device.read(features)).transpose()?)
    }

    pub(crate) fn checker(&self) -> Checker<'_> {
        let patches = |(key, features): (&ImageKey, &D::Tensor)| (*key, self.device.shape(features).0);
        Checker {
            spec: &self.spec,
            blocks: self.blocks,
            positions: self.positions,
            sequences: &self.sequences,
            ledger: &self.ledger,
            images: self.features.iter().map(patches).collect(),
        }
    }
}

fn fits(plan: &ShardPlan, collective: &dyn Collective) -> Result<(), ModelError> {
    let (rank, size) = (collective.rank(), collective.size());
    if rank == plan.rank && size == plan.tp {
        return Ok(());
    }
    Err(ModelError::Group { shard_rank: plan.rank, shard_size: plan.tp, rank, size })
}
