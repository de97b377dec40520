//! What every kind of step takes at least on an accelerator: the limits that measured figures stand beside.

use tessera_device::{
    Formats,
    sim::{Accelerator, ChunkWork, Roofline, SimConfig, StepTime, Work},
};
use tessera_types::{Grid, ModelSpec, Rank, ShardError, ShardPlan};

use crate::holding::weight_bytes;

/// Sequences of a step, tokens of context, and tokens of prompts that are told of.
const BATCHES: [usize; 4] = [1, 8, 32, 64];
const CONTEXTS: [usize; 2] = [1024, 32_768];
const PROMPTS: [usize; 2] = [4096, 32_768];
/// Side of the image that is told of, in pixels, and the tokens of text beside it.
const IMAGE_SIDE: usize = 1024;
const IMAGE_TEXT: usize = 128;

/// What the ranks of a model can do at best.
#[derive(Clone, Debug, PartialEq)]
pub struct Floors {
    /// Bytes of weights that a rank holds.
    pub weights: u64,
    /// Bytes that a rank has left for keys and values.
    pub cache: u64,
    /// Each kind of step that the model's context has room for.
    pub steps: Vec<Floor>,
}

/// A step and the least time it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// Which step.
    pub step: StepKind,
    /// How long, and what for.
    pub time: StepTime,
    /// Bytes of its sequences' keys and values on each rank.
    pub cache: u64,
}

/// A kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A token for each of `batch` sequences.
    Decode {
        /// Sequences.
        batch: usize,
        /// Tokens of each, the one that is fed included.
        context: usize,
    },
    /// A prompt of text, in one pass.
    Prefill {
        /// Its tokens.
        tokens: usize,
    },
    /// An image through the vision encoder and the adapter.
    Image(Grid),
    /// A prompt of an image and text, in one pass: what its first token waits for at least.
    FirstToken {
        /// The image.
        image: Grid,
        /// Tokens of text.
        text: usize,
    },
}

impl StepKind {
    /// Those that a model can be asked for.
    fn all(spec: &ModelSpec) -> Vec<Self> {
        let decodes = CONTEXTS.iter().flat_map(|&context| BATCHES.map(|batch| Self::Decode { batch, context }));
        let prefills = PROMPTS.map(|tokens| Self::Prefill { tokens });
        let images = spec.vision.iter().flat_map(|vision| {
            let side = IMAGE_SIDE.min(vision.image_size).div_ceil(vision.patch_size) as u32;
            let image = Grid { rows: side, cols: side };
            [Self::Image(image), Self::FirstToken { image, text: IMAGE_TEXT }]
        });
        let all = decodes.chain(prefills).chain(images);
        all.filter(|kind| kind.context() <= spec.max_context).collect()
    }

    /// Tokens of each of its sequences.
    fn context(self) -> usize {
        match self {
            Self::Decode { context, .. } => context,
            Self::Prefill { tokens } => tokens,
            Self::Image(_) => 0,
            Self::FirstToken { image, text } => image.tokens() + text,
        }
    }

    fn batch(self) -> usize {
        if let Self::Decode { batch, .. } = self { batch } else { 1 }
    }

    /// Tokens that it feeds or makes; `None` for an image alone.
    pub fn tokens(self) -> Option<usize> {
        match self {
            Self::Decode { batch, .. } => Some(batch),
            Self::Image(_) => None,
            Self::Prefill { .. } | Self::FirstToken { .. } => Some(self.context()),
        }
    }

    fn work(self) -> Work {
        let prompt = |len| Work { chunks: vec![ChunkWork { start: 0, len }], logits: 1, ..Work::default() };
        match self {
            Self::Decode { batch, context } => {
                let chunk = ChunkWork { start: context - 1, len: 1 };
                Work { chunks: vec![chunk; batch], logits: batch, ..Work::default() }
            }
            Self::Prefill { tokens } => prompt(tokens),
            Self::Image(image) => Work { images: vec![image.patches()], ..Work::default() },
            Self::FirstToken { image, .. } => Work { images: vec![image.patches()], ..prompt(self.context()) },
        }
    }
}

impl Floor {
    /// `None` for an image alone.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.step.tokens().map(|tokens| tokens as f64 / self.time.total().as_secs_f64())
    }

    /// Share of the time that goes to waiting for other ranks, from 0 to 1.
    pub fn collective_share(&self) -> f64 {
        self.time.collective.as_secs_f64() / self.time.total().as_secs_f64()
    }
}

impl Floors {
    /// Of a model kept in `formats` on `tp` accelerators. All ranks have the same to do, so one stands for all.
    ///
    /// # Errors
    /// A degree by which the model cannot be split.
    pub fn new(accelerator: Accelerator, spec: &ModelSpec, tp: usize, formats: Formats) -> Result<Self, ShardError> {
        let plan = ShardPlan::new(spec, tp, Rank(0))?;
        let roofline = Roofline::new(SimConfig { accelerator, factor: 1.0 }, spec, &plan, formats);
        let weights = weight_bytes(spec, &plan, formats.weights);
        let a_token = spec.kv_bytes_per_token(plan.kv_heads.len(), formats.cache.bytes(spec.decoder.head_dim));
        let floor = |step: StepKind| Floor {
            step,
            time: roofline.step(&step.work()),
            cache: (step.batch() * step.context() * a_token) as u64,
        };
        Ok(Self {
            weights,
            cache: accelerator.cache_memory(weights),
            steps: StepKind::all(spec).into_iter().map(floor).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tessera_device::sim::Bound;

    use tessera_device::{CacheDtype, Dtype};

    use super::*;

    /// Of Pixtral-12B: what a layer of the decoder has in queries and output, keys and values, and feed-forward; the
    /// output matrix.
    const LAYERS: f64 = 40.0 * (2.0 * 5120.0 * 4096.0 + 2.0 * 5120.0 * 1024.0 + 3.0 * 5120.0 * 14_336.0);
    const OUTPUT: f64 = 131_072.0 * 5120.0;
    /// Keys and values of a token: 40 layers, 8 heads of 128, 2 bytes each.
    const TOKEN: f64 = 40.0 * 2.0 * 8.0 * 128.0 * 2.0;
    /// An H100: bytes and floating-point operations a second.
    const BANDWIDTH: f64 = 3.0e12;
    const FLOPS: f64 = 798e12;
    /// The image of 1024 by 1024 pixels.
    const IMAGE: Grid = Grid { rows: 64, cols: 64 };

    fn pixtral(tp: usize) -> Floors {
        Floors::new(Accelerator::H100, &ModelSpec::pixtral_12b(), tp, Dtype::Bf16.into()).unwrap()
    }

    fn of(floors: &Floors, step: StepKind) -> Floor {
        *floors.steps.iter().find(|floor| floor.step == step).unwrap()
    }

    /// Times are kept in whole nanoseconds.
    #[track_caller]
    fn takes(floor: Floor, seconds: f64) {
        let got = floor.time.total().as_secs_f64();
        assert!((got - seconds).abs() < 4e-9, "{:?} takes {got} s, not {seconds}", floor.step);
    }

    #[test]
    fn decoding_reads_the_weights_once_and_the_keys_and_values_of_each_sequence() {
        for (batch, context) in [(1, 1024), (8, 1024), (32, 1024), (64, 1024), (1, 32_768), (8, 32_768)] {
            let floor = of(&pixtral(1), StepKind::Decode { batch, context });
            let bytes = 2.0 * (LAYERS + OUTPUT) + batch as f64 * context as f64 * TOKEN;
            takes(floor, bytes / BANDWIDTH);
            assert_eq!((floor.time.bound(), floor.collective_share()), (Bound::Memory, 0.0));
            assert_eq!(floor.cache as f64, batch as f64 * context as f64 * TOKEN);
            let rate = floor.tokens_per_second().unwrap();
            assert!((rate / (batch as f64 * BANDWIDTH / bytes) - 1.0).abs() < 1e-6, "{rate}");
        }
    }

    #[test]
    fn keys_and_values_in_fp8_are_132_bytes_a_head_instead_of_256() {
        let fp8 = Formats { cache: CacheDtype::Fp8, ..Dtype::Bf16.into() };
        let fp8 = Floors::new(Accelerator::H100, &ModelSpec::pixtral_12b(), 1, fp8).unwrap();
        let step = StepKind::Decode { batch: 32, context: 32_768 };
        let bytes = 32.0 * 32_768.0 * TOKEN / 256.0 * 132.0;
        assert_eq!((fp8.weights, of(&fp8, step).cache as f64), (pixtral(1).weights, bytes));
        takes(of(&fp8, step), (2.0 * (LAYERS + OUTPUT) + bytes) / BANDWIDTH);
    }

    /// Every weight of the layers meets every token; a token attends to those before it and to itself, in scores and in
    /// values; one row meets the output matrix.
    fn prefill(tokens: f64) -> f64 {
        let attention = 40.0 * 2.0 * 2.0 * 4096.0 * tokens * (tokens + 1.0) / 2.0;
        (2.0 * LAYERS * tokens + attention) / FLOPS + 2.0 * OUTPUT / BANDWIDTH
    }

    #[test]
    fn a_prompt_takes_its_products() {
        for tokens in [4096, 32_768] {
            let floor = of(&pixtral(1), StepKind::Prefill { tokens });
            takes(floor, prefill(tokens as f64));
            assert_eq!(floor.time.bound(), Bound::Arithmetic);
            assert_eq!(floor.step.tokens(), Some(tokens));
        }
    }

    #[test]
    fn an_image_takes_the_encoders_products_and_its_first_token_the_prompts_too() {
        let patches = 4096.0;
        let encoder = 24.0 * (4.0 * 1024.0 * 1024.0 + 3.0 * 1024.0 * 4096.0) + 1024.0 * 768.0;
        let adapter = 5120.0 * (1024.0 + 5120.0);
        let attention = 24.0 * 2.0 * 2.0 * 1024.0 * patches * patches;
        let seconds = (2.0 * patches * (encoder + adapter) + attention) / FLOPS;
        let image = of(&pixtral(1), StepKind::Image(IMAGE));
        takes(image, seconds);
        assert_eq!((image.tokens_per_second(), image.cache), (None, 0));
        // 64 rows of 64 patches and a break each.
        let first = of(&pixtral(1), StepKind::FirstToken { image: IMAGE, text: 128 });
        assert_eq!(first.step.tokens(), Some(64 * 65 + 128));
        takes(first, seconds + prefill(4288.0));
    }

    #[test]
    fn two_ranks_share_the_reading_and_wait_for_eighty_sums() {
        let floor = of(&pixtral(2), StepKind::Decode { batch: 1, context: 1024 });
        // Each sends half of 5120 numbers of 2 bytes and receives the other half, twice.
        let waits = 80.0 * (6.5e-6 + 5120.0 * 2.0 / 450e9);
        let reads = (2.0 * (LAYERS + OUTPUT) + 1024.0 * TOKEN) / 2.0 / BANDWIDTH;
        takes(floor, reads + waits);
        assert!((floor.collective_share() - waits / (reads + waits)).abs() < 1e-6);
        assert_eq!(floor.time.bound(), Bound::Memory);
    }

    #[test]
    fn four_ranks_of_a_small_model_wait_for_each_other() {
        let floors = Floors::new(Accelerator::H100, &ModelSpec::bench_1b(), 4, Dtype::Bf16.into()).unwrap();
        let floor = of(&floors, StepKind::Decode { batch: 1, context: 1024 });
        // A quarter of 1.58 GB takes 0.13 ms; 32 sums of 6.5 µs take 0.21.
        assert_eq!(floor.time.bound(), Bound::Collective);
        assert!(floor.collective_share() > 0.5);
    }

    #[test]
    fn what_a_rank_holds_and_has_left_is_told() {
        let floors = pixtral(1);
        assert_eq!((floors.weights, floors.cache), (2 * 12_682_739_712, 72_000_000_000 - 2 * 12_682_739_712));
        let fits = |batch| of(&floors, StepKind::Decode { batch, context: 32_768 }).cache <= floors.cache;
        // 5 GiB each, in 43.4 GiB.
        assert_eq!([1, 8, 32, 64].map(fits), [true, true, false, false]);
        let full = Floors::new(Accelerator::H100, &ModelSpec::pixtral_12b(), 1, Dtype::F32.into()).unwrap();
        assert_eq!(full.weights, 2 * floors.weights);
    }

    #[test]
    fn nothing_is_told_that_the_model_cannot_be_asked_for() {
        let mut spec = ModelSpec::bench_1b();
        spec.max_context = 8192;
        let floors = Floors::new(Accelerator::A100, &spec, 1, Dtype::Bf16.into()).unwrap();
        assert_eq!(floors.steps.len(), 4 + 1);
        assert!(Floors::new(Accelerator::H100, &ModelSpec::pixtral_12b(), 3, Dtype::Bf16.into()).is_err());
    }
}
