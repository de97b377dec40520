//! Images on their way from the request to the encoder: had, looked at, prepared.

mod address;
mod data_uri;
mod fetch;
mod guard;
mod room;

use bytes::Bytes;
use futures::future::try_join_all;
use tessera_prompt::{Header, ImageError, ImageLimits, grid_of};
use tessera_types::{Grid, ImageEncode, VisionSpec};
use tokio::{sync::Semaphore, time::Instant};

pub use self::{
    address::Network,
    fetch::{FetchPolicy, Hosts},
};
use self::{data_uri::DataUri, fetch::Fetcher, room::Room};
use crate::{
    RequestError, RouterConfig,
    admission::Permit,
    event::Timings,
    metrics::Metrics,
    request::{ImageData, ImageSource},
    workers::Workers,
};

/// Images fetched at once.
const MAX_FETCHES: usize = 64;

/// Has, looks at and prepares images.
pub(crate) struct Media {
    spec: Option<VisionSpec>,
    fetcher: Fetcher,
    limits: ImageLimits,
    /// Image work is long, and the event loop must not wait for it.
    workers: Workers,
    decoding: Room,
    /// What is being fetched is on nobody's account yet.
    fetches: Semaphore,
    metrics: Metrics,
}

/// An image whose header was read.
pub(crate) struct Probed {
    field: String,
    file: Bytes,
    /// Pixels from left to right, as given.
    pub(crate) width: u32,
    /// Pixels from top to bottom, as given.
    pub(crate) height: u32,
    /// Patches, as it will be encoded.
    pub(crate) grid: Grid,
    /// Bytes that decoding it takes at most.
    decoding_bytes: u64,
}

impl Media {
    pub(crate) fn new(spec: Option<VisionSpec>, config: &RouterConfig, workers: Workers, metrics: Metrics) -> Self {
        let limits = ImageLimits { max_bytes: config.limits.max_image_bytes, max_pixels: config.limits.max_image_pixels };
        let fetches = Semaphore::new(MAX_FETCHES);
        let (fetcher, decoding) = (Fetcher::new(config.fetch.clone()), Room::new(config.max_decoding_bytes));
        Self { spec, fetcher, limits, workers, decoding, fetches, metrics }
    }

    /// Whether any URL is fetched.
    pub(crate) fn fetches_urls(&self) -> bool {
        self.fetcher.enabled()
    }

    /// Patches of an image of that size, if it is within the limits.
    pub(crate) fn grid(&self, width: u32, height: u32) -> Result<Grid, String> {
        let spec = self.spec.as_ref().ok_or("the model has no vision encoder")?;
        let limit = self.limits.max_pixels;
        match u64::from(width) * u64::from(height) {
            0 => Err("must have pixels".into()),
            pixels if pixels > limit => Err(ImageError::Pixels { width, height, limit }.to_string()),
            _ => Ok(grid_of(width, height, spec)),
        }
    }

    /// Has every image, and reads its header. Those behind URLs are fetched at the same time.
    pub(crate) async fn probe(
        &self,
        images: Vec<(String, ImageSource)>,
        permit: &Permit,
        timings: &mut Timings,
    ) -> Result<Vec<Probed>, RequestError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let any_url = images.iter().any(|(_, image)| matches!(image.data, ImageData::Url(_)));
        let probed = try_join_all(images.into_iter().map(|(field, image)| self.probe_one(field, image, permit))).await?;
        let spent = started.elapsed().as_micros() as u64;
        *(if any_url { &mut timings.image_fetch_us } else { &mut timings.image_decode_us }) += spent;
        Ok(probed)
    }

    async fn probe_one(&self, field: String, image: ImageSource, permit: &Permit) -> Result<Probed, RequestError> {
        let wrong = |problem: String| RequestError::invalid(field.clone(), problem);
        let data = match image.data {
            ImageData::Url(url) => ImageData::Bytes(self.fetch(&url, permit).await?.map_err(wrong)?),
            data => data,
        };
        let limits = self.limits;
        let looked = self.workers.run(move || look(data, &image.mime, &limits)).await?;
        let (file, Header { width, height, decoding_bytes }) = looked.map_err(wrong)?;
        let grid = self.grid(width, height).map_err(wrong)?;
        Ok(Probed { field, file, width, height, grid, decoding_bytes })
    }

    async fn fetch(&self, url: &str, permit: &Permit) -> Result<Result<Bytes, String>, RequestError> {
        let _one = self.fetches.acquire().await.map_err(|error| RequestError::internal(error.to_string()))?;
        let fetched = self.fetcher.fetch(url, self.limits.max_bytes).await;
        if let Ok(file) = &fetched {
            permit.hold(file.len())?;
        }
        Ok(fetched.map_err(|error| error.to_string()))
    }

    /// What images take once they are prepared: three floats a pixel.
    pub(crate) fn prepared_bytes(&self, images: &[Probed]) -> usize {
        let patch = self.spec.as_ref().map_or(0, |spec| spec.patch_size);
        images.iter().map(|image| image.grid.patches() * patch * patch * 3 * size_of::<f32>()).sum()
    }

    /// Decodes, scales and normalises every image, several at a time.
    pub(crate) async fn prepare(&self, images: Vec<Probed>) -> Result<Vec<ImageEncode>, RequestError> {
        try_join_all(images.into_iter().map(|image| self.prepare_one(image))).await
    }

    async fn prepare_one(&self, image: Probed) -> Result<ImageEncode, RequestError> {
        let Some(spec) = self.spec.clone() else { return Err(RequestError::internal("an image for a model without vision")) };
        let limits = self.limits;
        let room = self.decoding.take(image.decoding_bytes).await;
        let room = room.map_err(|problem| RequestError::invalid(image.field.clone(), problem))?;
        let work = move || {
            let _room = room;
            let started = Instant::now();
            (tessera_prompt::prepare(&image.file, &spec, &limits), started.elapsed(), image.field)
        };
        let (prepared, spent, field) = self.workers.run(work).await?;
        self.metrics.image(spent);
        let prepared = prepared.map_err(|error| RequestError::invalid(field, error.to_string()))?;
        Ok(ImageEncode { key: prepared.key, grid: prepared.grid, pixels: prepared.pixels })
    }
}

/// An image's file, with what its header tells.
fn look(data: ImageData, mime: &str, limits: &ImageLimits) -> Result<(Bytes, Header), String> {
    let file = match data {
        ImageData::Bytes(file) => file,
        ImageData::DataUri(uri) => DataUri::parse(&uri)?.decode(limits.max_bytes)?.into(),
        ImageData::Url(_) | ImageData::Missing => return Err("has no data, URL or data URI".into()),
    };
    let mime = claimed(mime);
    match sniff(&file) {
        Some(found) if !mime.is_empty() && mime != found => return Err(format!("is said to be {mime}, but is {found}")),
        _ => {}
    }
    let header = tessera_prompt::probe(&file, limits).map_err(|error| error.to_string())?;
    Ok((file, header))
}

/// The type that a client claims, by its registered name; empty when it claims none.
fn claimed(mime: &str) -> String {
    let mime = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match mime.as_str() {
        "image/jpg" | "image/pjpeg" => "image/jpeg".into(),
        "application/octet-stream" => String::new(),
        _ => mime,
    }
}

/// The type that a file's first bytes show.
fn sniff(file: &[u8]) -> Option<&'static str> {
    match file {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_goes_by_its_registered_name() {
        for (given, name) in [
            ("image/jpg", "image/jpeg"),
            ("Image/PJPEG;q=1", "image/jpeg"),
            ("image/png", "image/png"),
            ("application/octet-stream", ""),
            ("", ""),
        ] {
            assert_eq!(claimed(given), name, "{given}");
        }
    }
}
