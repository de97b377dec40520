//! The vision encoder: a rank's slice of it, or all.

use std::ops::Range;

use tessera_device::{Device, Heads, Rows, Spans};
use tessera_types::{ImageEncode, VisionShard, VisionSpec};

use crate::ModelError;
use crate::adapter::Adapter;
use crate::layer::{Layer, LayerSizes, Scratch};
use crate::ranks::Reduce;
use crate::slices::VisionSlices;
use crate::weights::Loader;

pub(crate) struct Vision<D: Device> {
    patch_conv: D::Matrix,
    ln_pre: D::Vector,
    layers: Vec<Layer<D>>,
    adapter: Adapter<D>,
    rotary: D::Rotary,
    sizes: LayerSizes,
    patch_size: usize,
    channels: usize,
    /// Patches along the longest side there can be.
    side: usize,
}

impl<D: Device> Vision<D> {
    pub(crate) fn load(
        loader: &mut Loader<'_, D>,
        spec: &VisionSpec,
        shard: &VisionShard,
        slices: &VisionSlices,
    ) -> Result<Self, ModelError> {
        let heads = Heads { heads: shard.heads.len(), kv_heads: shard.heads.len(), head_dim: spec.head_dim() };
        let side = spec.max_patches_per_side();
        Ok(Self {
            patch_conv: loader.matrix(std::slice::from_ref(&slices.patch_conv))?,
            ln_pre: loader.vector(&slices.ln_pre)?,
            layers: slices.layers.iter().map(|layer| Layer::load(loader, layer)).collect::<Result<_, _>>()?,
            adapter: Adapter::load(loader, slices)?,
            rotary: loader.device.rotary_2d(spec.head_dim(), spec.rope_theta, side)?,
            sizes: LayerSizes { dim: spec.dim, heads, ffn: shard.ffn.len(), eps: spec.norm_eps },
            patch_size: spec.patch_size,
            channels: spec.channels,
            side,
        })
    }

    /// Patches of the largest image that can be.
    pub(crate) fn most_patches(&self) -> usize {
        self.side * self.side
    }

    /// Width of what [`Vision::features`] makes.
    pub(crate) fn feature_width(&self) -> usize {
        self.adapter.dim()
    }

    /// Sums of [`Vision::features`] over what ranks have, for each of its passes.
    pub(crate) fn sums(&self) -> usize {
        2 * self.layers.len() + 1
    }

    /// Features at the decoder's width, one tensor an image. Images go through the encoder in passes of as many as have
    /// no more patches than the largest image can: that bounds the memory, while small images still share a pass.
    pub(crate) fn features(
        &self,
        device: &D,
        ranks: &mut impl Reduce,
        images: &[ImageEncode],
    ) -> Result<Vec<D::Tensor>, ModelError> {
        let mut features = Vec::with_capacity(images.len());
        for group in self.groups(images) {
            self.pass(device, ranks, group, &mut features)?;
        }
        Ok(features)
    }

    fn groups<'i>(&self, images: &'i [ImageEncode]) -> Vec<&'i [ImageEncode]> {
        let limit = self.most_patches();
        let (mut groups, mut first, mut patches) = (Vec::new(), 0, 0);
        for (i, image) in images.iter().enumerate() {
            if i > first && patches + image.grid.patches() > limit {
                groups.push(&images[first..i]);
                (first, patches) = (i, 0);
            }
            patches += image.grid.patches();
        }
        if first < images.len() {
            groups.push(&images[first..]);
        }
        groups
    }

    /// Features of images, one behind the other, at the encoder's width: `[patches, vision width]`.
    pub(crate) fn encode(&self, device: &D, ranks: &mut impl Reduce, images: &[ImageEncode]) -> Result<D::Tensor, ModelError> {
        let spans = spans(images);
        let rows = spans.last().map_or(0, |span| span.end);
        let mut x = self.embed(device, images, rows)?;
        let positions = self.positions(images);
        let placed = device.place(Rows { tokens: &[], positions: &positions, spans: Spans::Images(&spans) })?;
        let mut scratch = Scratch::new(device, rows, &self.sizes)?;
        let heads = self.sizes.heads;
        for layer in &self.layers {
            layer.forward(device, ranks, self.sizes.eps, &mut scratch, &mut x, |qkv, attended| {
                device.rotate(qkv, heads, &self.rotary, &placed)?;
                device.attend_images(qkv, heads, &placed, attended)
            })?;
        }
        scratch.settle(device, &mut x)?;
        Ok(x)
    }

    fn pass(
        &self,
        device: &D,
        ranks: &mut impl Reduce,
        images: &[ImageEncode],
        features: &mut Vec<D::Tensor>,
    ) -> Result<(), ModelError> {
        let encoded = self.encode(device, ranks, images)?;
        let adapted = self.adapter.forward(device, ranks, &encoded)?;
        let (_, dim) = device.shape(&adapted);
        for span in spans(images) {
            let mut image = device.lasting(span.len(), dim)?;
            let to: Vec<usize> = (0..span.len()).collect();
            device.copy_rows(&adapted, &span.collect::<Vec<_>>(), &mut image, &to)?;
            features.push(image);
        }
        Ok(())
    }

    /// The patch convolution as a product: a patch's pixels, channel by channel, are a row.
    fn embed(&self, device: &D, images: &[ImageEncode], rows: usize) -> Result<D::Tensor, ModelError> {
        let width = self.channels * self.patch_size * self.patch_size;
        let mut values = Vec::with_capacity(rows * width);
        for image in images {
            self.patches(image, &mut values);
        }
        let mut patches = device.working(rows, width)?;
        device.write(&mut patches, &values)?;
        let mut embedded = device.tensor(rows, self.sizes.dim)?;
        device.matmul(&patches, &self.patch_conv, &mut embedded)?;
        let mut x = device.tensor(rows, self.sizes.dim)?;
        device.rms_norm(&embedded, &self.ln_pre, self.sizes.eps, &mut x)?;
        Ok(x)
    }

    fn patches(&self, image: &ImageEncode, values: &mut Vec<f32>) {
        let side = self.patch_size;
        let (rows, cols) = (image.grid.rows as usize, image.grid.cols as usize);
        let (pixels, _) = image.pixels.as_chunks::<4>();
        for (row, col) in (0..rows * cols).map(|patch| (patch / cols, patch % cols)) {
            for line in (0..self.channels * side).map(|line| (line / side * rows + row) * side + line % side) {
                let start = (line * cols + col) * side;
                values.extend(pixels[start..start + side].iter().map(|pixel| f32::from_le_bytes(*pixel)));
            }
        }
    }

    /// Of patch `(r, c)`: `r * side + c`.
    fn positions(&self, images: &[ImageEncode]) -> Vec<u32> {
        let side = self.side as u32;
        let patches = |image: &ImageEncode| {
            let grid = image.grid;
            (0..grid.rows).flat_map(move |row| (0..grid.cols).map(move |col| row * side + col))
        };
        images.iter().flat_map(patches).collect()
    }
}

/// Rows of each image.
fn spans(images: &[ImageEncode]) -> Vec<Range<usize>> {
    let mut end = 0;
    let span = |image: &ImageEncode| {
        let start = end;
        end += image.grid.patches();
        start..end
    };
    images.iter().map(span).collect()
}
