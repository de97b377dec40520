//! What images go through: ranks encode them together, each its part of every image, or apart, each other images.

use std::collections::HashMap;

use tessera_device::Device;
use tessera_types::{
    EncodeCosts, EncodePlan, GroupFigures, ImageEncode, ImageKey, ModelSpec, Rank, ShardPlan, VisionParallel, VisionShard,
};

use crate::ModelError;
use crate::apart::Apart;
use crate::ranks::Ranks;
use crate::slices::ShardSlices;
use crate::vision::Vision;
use crate::weights::Loader;

pub(crate) struct Encoder<D: Device> {
    /// This rank's slice, where images may be encoded together.
    sliced: Option<Vision<D>>,
    /// All weights, where they may be encoded apart.
    whole: Option<Vision<D>>,
    parallel: VisionParallel,
    costs: EncodeCosts,
}

impl<D: Device> Encoder<D> {
    /// `None` for a model that has no vision encoder.
    pub(crate) fn load(
        loader: &mut Loader<'_, D>,
        spec: &ModelSpec,
        plan: &ShardPlan,
        slices: &ShardSlices,
        figures: GroupFigures,
    ) -> Result<Option<Self>, ModelError> {
        let (Some(vision), Some(shard), Some(costs)) = (&spec.vision, &plan.vision, EncodeCosts::new(spec, figures)) else {
            return Ok(None);
        };
        let whole = VisionShard::whole(vision, spec.decoder.dim);
        let mut load = |shard, slices| Vision::load(loader, vision, shard, slices);
        Ok(Some(Self {
            sliced: slices.vision.as_ref().map(|slices| load(shard, slices)).transpose()?,
            whole: slices.whole_vision.as_ref().map(|slices| load(&whole, slices)).transpose()?,
            parallel: plan.vision_parallel,
            costs,
        }))
    }

    /// Features at the decoder's width of every image, on every rank.
    pub(crate) fn features(
        &self,
        device: &D,
        ranks: &mut Ranks,
        images: &[ImageEncode],
    ) -> Result<HashMap<ImageKey, D::Tensor>, ModelError> {
        let patches: Vec<usize> = images.iter().map(|image| image.grid.patches()).collect();
        let plan = EncodePlan::new(&patches, ranks.size(), self.parallel, &self.costs);
        let mut features = HashMap::with_capacity(images.len());
        if let Some(sliced) = &self.sliced {
            let together = picked(images, &plan.together);
            let encoded = sliced.features(device, ranks, &together)?;
            features.extend(together.iter().map(|image| image.key).zip(encoded));
        }
        if let Some(whole) = &self.whole {
            let shares: Vec<_> = plan.apart.iter().map(|share| picked(images, share)).collect();
            apart(whole, device, ranks, &shares, &mut features)?;
        }
        Ok(features)
    }

    /// Features at the encoder's width, `[patches, vision width]` one image behind the other. For inspection.
    pub(crate) fn encode(&self, device: &D, ranks: &mut Ranks, images: &[ImageEncode]) -> Result<Option<D::Tensor>, ModelError> {
        match (&self.sliced, &self.whole) {
            (Some(sliced), _) => sliced.encode(device, ranks, images).map(Some),
            // Every rank all of it.
            (None, Some(whole)) => whole.encode(device, &mut Apart::new(ranks, usize::MAX), images).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// Encodes this rank's share with all weights, then hands every image round.
fn apart<D: Device>(
    whole: &Vision<D>,
    device: &D,
    ranks: &mut Ranks,
    shares: &[Vec<ImageEncode>],
    features: &mut HashMap<ImageKey, D::Tensor>,
) -> Result<(), ModelError> {
    let own = ranks.rank();
    let patches = |share: &Vec<ImageEncode>| share.iter().map(|image| image.grid.patches()).sum::<usize>();
    let busiest = shares.iter().map(patches).max().unwrap_or(0);
    // A pass of as many patches as there can be meets the others at every sum.
    let mut alone = Apart::new(ranks, whole.most_patches());
    let share = shares.get(usize::from(own.0)).map_or(&[][..], Vec::as_slice);
    let mut encoded = whole.features(device, &mut alone, share)?.into_iter();
    alone.end(busiest * whole.sums())?;
    for (owner, share) in (0..).map(Rank).zip(shares) {
        for image in share {
            let made = if owner == own { encoded.next() } else { None };
            let mut tensor = match made {
                Some(tensor) => tensor,
                None => device.lasting(image.grid.patches(), whole.feature_width())?,
            };
            ranks.hand_round(device, owner, &mut tensor)?;
            features.insert(image.key, tensor);
        }
    }
    Ok(())
}

fn picked(images: &[ImageEncode], which: &[usize]) -> Vec<ImageEncode> {
    which.iter().filter_map(|&image| images.get(image)).cloned().collect()
}
