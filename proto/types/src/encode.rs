//! Which ranks encode which image.
//!
//! By tensor, every rank computes its part of every image with its slice of the encoder's weights, and each layer costs
//! two sums over the ranks. By image, a rank encodes images by itself with all of the weights, and hands round what came
//! of them. All ranks decide from what all of them know: sizes, and figures that are the same everywhere.

use std::{fmt, str::FromStr};

use crate::ModelSpec;

/// How the ranks of a group share the encoding of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VisionParallel {
    /// By tensor or by image, whichever takes less time. Ranks hold their slice and the whole encoder.
    Auto,
    /// Every rank its part of every image. Ranks hold their slice of the encoder.
    #[default]
    Tensor,
    /// Every rank other images. Ranks hold the whole encoder.
    Image,
}

impl VisionParallel {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Tensor, Self::Image];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tensor => "tensor",
            Self::Image => "image",
        }
    }
}

impl fmt::Display for VisionParallel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no way of sharing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of auto, tensor, image")]
pub struct UnknownVisionParallel(String);

impl FromStr for VisionParallel {
    type Err = UnknownVisionParallel;

    fn from_str(text: &str) -> Result<Self, UnknownVisionParallel> {
        Self::ALL.into_iter().find(|way| way.name() == text).ok_or_else(|| UnknownVisionParallel(text.into()))
    }
}

/// What is taken for granted of a group's ranks: figures of a kind, never what a rank finds out by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupFigures {
    /// Weights that a rank reads a second.
    pub weights: f64,
    /// Floating-point operations of a rank a second.
    pub flops: f64,
    /// Seconds that an exchange between ranks takes, however small.
    pub exchange: f64,
    /// Numbers that a rank sends to the others a second.
    pub link: f64,
    /// Whether sums over ranks have the bits that a rank's own have, so that an image has the same features either way.
    pub exact: bool,
}

/// What encoding costs the ranks of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncodeCosts {
    figures: GroupFigures,
    layers: f64,
    /// Weights of encoder and adapter.
    weights: f64,
    /// Width of the encoder, and of the features it makes.
    width: f64,
    dim: f64,
}

/// How long ranks encode.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EncodeTime {
    /// Seconds of the rank that has most to do.
    pub work: f64,
    /// Of these, while it waits for weights.
    pub reads: f64,
    /// Seconds of exchanges.
    pub waits: f64,
}

impl EncodeTime {
    /// Seconds until every rank has all features.
    pub fn total(self) -> f64 {
        self.work + self.waits
    }
}

impl EncodeCosts {
    /// Of a model's vision encoder, if it has one.
    pub fn new(spec: &ModelSpec, figures: GroupFigures) -> Option<Self> {
        let vision = spec.vision.as_ref()?;
        Some(Self {
            figures,
            layers: vision.layers as f64,
            weights: (spec.vision_parameters() + spec.adapter_parameters()) as f64,
            width: vision.dim as f64,
            dim: spec.decoder.dim as f64,
        })
    }

    /// How long a plan takes for images of so many patches.
    pub fn time(&self, plan: &EncodePlan, images: &[usize]) -> EncodeTime {
        let of = |share: &[usize]| -> Vec<usize> { share.iter().map(|&image| images[image]).collect() };
        let ranks = plan.apart.len() as f64;
        let EncodeTime { work, reads, .. } = self.alone(&of(&plan.together));
        let mut time = EncodeTime { work: work / ranks, reads: reads / ranks, waits: 0.0 };
        if ranks > 1.0 && !plan.together.is_empty() {
            let patches = of(&plan.together).iter().sum::<usize>() as f64;
            let sum = |numbers: f64| self.exchange(2.0 * (ranks - 1.0) / ranks * numbers);
            time.waits += 2.0 * self.layers * sum(patches * self.width) + sum(patches * self.dim);
        }
        let shares = plan.apart.iter().map(|share| self.alone(&of(share)));
        if let Some(busiest) = shares.max_by(|a, b| f64::total_cmp(&a.work, &b.work)) {
            time.work += busiest.work;
            time.reads += busiest.reads;
        }
        let handed = plan.apart.iter().flatten().map(|&image| self.exchange(images[image] as f64 * self.dim));
        time.waits += handed.sum::<f64>();
        time
    }

    /// What one rank with all weights takes: they are read once at least.
    fn alone(&self, images: &[usize]) -> EncodeTime {
        if images.is_empty() {
            return EncodeTime::default();
        }
        let patches = images.iter().sum::<usize>() as f64;
        let attention: f64 = images.iter().map(|&image| self.attention(image)).sum();
        let (read, products) = (self.weights / self.figures.weights, self.products(patches));
        if read > products {
            EncodeTime { work: read + attention, reads: read, waits: 0.0 }
        } else {
            EncodeTime { work: products + attention, reads: 0.0, waits: 0.0 }
        }
    }

    /// Seconds of arithmetic for one image.
    fn arithmetic(&self, patches: usize) -> f64 {
        self.products(patches as f64) + self.attention(patches)
    }

    fn products(&self, patches: f64) -> f64 {
        2.0 * self.weights * patches / self.figures.flops
    }

    /// Every patch attends to all of its image: one product for the scores, one for the values.
    fn attention(&self, patches: usize) -> f64 {
        4.0 * self.layers * self.width * (patches as f64).powi(2) / self.figures.flops
    }

    fn exchange(&self, numbers: f64) -> f64 {
        self.figures.exchange + numbers / self.figures.link
    }
}

/// Who encodes which of a step's images, by their places in the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodePlan {
    /// Encoded by all ranks, each its part.
    pub together: Vec<usize>,
    /// By rank: encoded by that rank alone.
    pub apart: Vec<Vec<usize>>,
}

impl EncodePlan {
    /// For images of so many patches on `tp` ranks.
    ///
    /// Where both ways give the same bits, what is cheaper for all images together is chosen. Elsewhere each image is decided
    /// as if it came alone, so that its features do not depend on what else is in the step.
    pub fn new(images: &[usize], tp: usize, parallel: VisionParallel, costs: &EncodeCosts) -> Self {
        let all: Vec<usize> = (0..images.len()).collect();
        match parallel {
            _ if tp < 2 => Self::together(all, 1),
            VisionParallel::Tensor => Self::together(all, tp),
            VisionParallel::Image => Self::apart(all, images, tp, costs),
            VisionParallel::Auto if costs.figures.exact => Self::cheaper(all, images, tp, costs),
            VisionParallel::Auto => {
                let alone = |image: &usize| Self::cheaper(vec![*image], images, tp, costs).together.is_empty();
                let (apart, together) = all.into_iter().partition(alone);
                Self { together, ..Self::apart(apart, images, tp, costs) }
            }
        }
    }

    fn together(images: Vec<usize>, tp: usize) -> Self {
        Self { together: images, apart: vec![Vec::new(); tp] }
    }

    /// The longest first, each to the rank that has least to do.
    fn apart(mut which: Vec<usize>, images: &[usize], tp: usize, costs: &EncodeCosts) -> Self {
        which.sort_by_key(|&image| std::cmp::Reverse(images[image]));
        let mut shares = vec![(0.0, Vec::new()); tp];
        for image in which {
            if let Some((load, share)) = shares.iter_mut().min_by(|(a, _), (b, _)| f64::total_cmp(a, b)) {
                *load += costs.arithmetic(images[image]);
                share.push(image);
            }
        }
        Self { together: Vec::new(), apart: shares.into_iter().map(|(_, share)| share).collect() }
    }

    fn cheaper(which: Vec<usize>, images: &[usize], tp: usize, costs: &EncodeCosts) -> Self {
        let (together, apart) = (Self::together(which.clone(), tp), Self::apart(which, images, tp, costs));
        let seconds = |plan: &Self| costs.time(plan, images).total();
        if seconds(&apart) < seconds(&together) { apart } else { together }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An H100's: 3.0 TB/s, 798 TFLOP/s, 6.5 µs a small sum, 450 GB/s, in bf16.
    const NVLINK: GroupFigures = GroupFigures { weights: 1.5e12, flops: 798e12, exchange: 6.5e-6, link: 225e9, exact: false };

    fn pixtral(figures: GroupFigures) -> EncodeCosts {
        EncodeCosts::new(&ModelSpec::pixtral_12b(), figures).unwrap()
    }

    fn plan(images: &[usize], tp: usize, exact: bool) -> EncodePlan {
        EncodePlan::new(images, tp, VisionParallel::Auto, &pixtral(GroupFigures { exact, ..NVLINK }))
    }

    prop_compose! {
        fn figures()(
            weights in 1e9..1e13,
            flops in 1e10..1e15,
            exchange in 1e-7..1e-3,
            link in 1e6..1e12,
            exact: bool,
        ) -> GroupFigures {
            GroupFigures { weights, flops, exchange, link, exact }
        }
    }

    fn group() -> impl Strategy<Value = (Vec<usize>, usize, VisionParallel, EncodeCosts)> {
        let images = prop::collection::vec(1usize..=4096, 0..24);
        let ways = prop::sample::select(VisionParallel::ALL.to_vec());
        (images, prop::sample::select(vec![1, 2, 4, 8]), ways, figures().prop_map(pixtral))
    }

    proptest! {
        #[test]
        fn every_image_is_encoded_exactly_once((images, tp, way, costs) in group()) {
            let plan = EncodePlan::new(&images, tp, way, &costs);
            prop_assert_eq!(plan.apart.len(), tp);
            let mut seen: Vec<usize> = plan.together.iter().chain(plan.apart.iter().flatten()).copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..images.len()).collect::<Vec<_>>());
        }

        #[test]
        fn no_rank_has_more_to_do_than_another_by_more_than_the_largest_image((images, tp, _, costs) in group()) {
            let plan = EncodePlan::new(&images, tp, VisionParallel::Image, &costs);
            let load = |share: &Vec<usize>| share.iter().map(|&image| costs.arithmetic(images[image])).sum::<f64>();
            let most = plan.apart.iter().map(load).fold(0.0, f64::max);
            let least = plan.apart.iter().map(load).fold(f64::MAX, f64::min);
            let largest = images.iter().map(|&image| costs.arithmetic(image)).fold(0.0, f64::max);
            prop_assert!(tp == 1 || most - least <= largest * (1.0 + 1e-9), "{} - {} > {}", most, least, largest);
        }

        #[test]
        fn where_either_way_gives_the_same_bits_the_cheaper_one_is_taken((images, tp, _, costs) in group()) {
            let costs = EncodeCosts { figures: GroupFigures { exact: true, ..costs.figures }, ..costs };
            let seconds = |way| costs.time(&EncodePlan::new(&images, tp, way, &costs), &images).total();
            let either = seconds(VisionParallel::Tensor).min(seconds(VisionParallel::Image));
            prop_assert_eq!(seconds(VisionParallel::Auto), either);
        }

        #[test]
        fn elsewhere_an_image_is_encoded_the_same_way_whatever_comes_with_it((images, tp, _, costs) in group()) {
            let costs = EncodeCosts { figures: GroupFigures { exact: false, ..costs.figures }, ..costs };
            let plan = EncodePlan::new(&images, tp, VisionParallel::Auto, &costs);
            for (place, &image) in images.iter().enumerate() {
                let alone = EncodePlan::new(&[image], tp, VisionParallel::Auto, &costs);
                prop_assert_eq!(plan.together.contains(&place), alone.together == [0]);
            }
        }
    }

    #[test]
    fn a_large_image_is_worth_its_sums_and_a_small_one_is_not() {
        // Of 1024 by 1024 pixels: 6.5 ms alone; 3.3 ms and 49 sums of 25 µs on two ranks.
        assert_eq!(plan(&[4096], 2, true).together, [0]);
        // Of 256 by 256: 0.3 ms alone; 0.15 ms and 49 sums of 7.7 µs.
        assert_eq!(plan(&[256], 2, true).apart, [vec![0], vec![]]);
    }

    #[test]
    fn images_that_load_ranks_alike_are_encoded_apart() {
        assert_eq!(plan(&[1024; 4], 4, true).apart, [[0], [1], [2], [3]]);
        assert_eq!(plan(&[300, 900, 400, 800], 2, true).apart, [[1, 0], [3, 2]], "the longest first");
        let uneven = plan(&[4096, 16], 4, true);
        assert_eq!(uneven.together, [0, 1], "three ranks would wait for one");
    }

    #[test]
    fn what_is_decided_image_by_image_goes_both_ways_in_one_step() {
        let plan = plan(&[4096, 256, 4096, 200, 144], 2, false);
        assert_eq!((plan.together, plan.apart), (vec![0, 2], vec![vec![1], vec![3, 4]]));
    }

    #[test]
    fn the_time_of_a_plan_is_that_of_its_busiest_rank_and_its_exchanges() {
        let costs = pixtral(NVLINK);
        let within = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 0.01, "{got} is not {expected}");
        // 435 million weights and 24 layers of 4 * 1024 operations a pair, for 4096 patches.
        let alone = (2.0 * 434.96e6 * 4096.0 + 24.0 * 4.0 * 1024.0 * 4096.0 * 4096.0) / 798e12;
        let images = [4096; 2];
        let time = |way| costs.time(&EncodePlan::new(&images, 2, way, &costs), &images);
        let apart = time(VisionParallel::Image);
        within(apart.work, alone);
        within(apart.waits, 2.0 * (6.5e-6 + 4096.0 * 5120.0 * 2.0 / 450e9));
        let together = time(VisionParallel::Tensor);
        within(together.work, alone);
        within(together.waits, 49.0 * 6.5e-6 + 2.0 * 4096.0 * (48.0 * 1024.0 + 5120.0) * 2.0 / 450e9);
    }

    #[test]
    fn a_way_has_a_name_and_nothing_else_is_one() {
        for way in VisionParallel::ALL {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        let refused = "batch".parse::<VisionParallel>().unwrap_err();
        assert_eq!(refused.to_string(), "`batch` is none of auto, tensor, image");
    }
}
