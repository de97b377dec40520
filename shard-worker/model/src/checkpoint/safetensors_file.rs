//! One safetensors file: its header, and positioned reads of slices of its tensors.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tessera_device::SourceDtype;

use super::{CheckpointError, Fingerprint, TensorSlice};

/// The format's own limit on a header.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes read at once where a tensor is only looked at.
const PIECE: usize = 1 << 20;
/// The most bytes read of a slice before someone hears of it.
const STRETCH: usize = 64 << 20;
/// Samples of a file's data that its fingerprint takes, and the bytes of each.
const SAMPLES: u64 = 16;
const SAMPLE: usize = 4096;
/// Bytes before the header: its length.
const LENGTH: u64 = 8;

#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
    bytes_read: AtomicU64,
}

impl SafetensorsFile {
    /// Reads the header and compares the file's length with it.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |error: std::io::Error| CheckpointError::Io { file: path.into(), error: error.to_string() };
        let corrupt = |detail: String| CheckpointError::Header { file: path.into(), detail };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut length = [0; LENGTH as usize];
        if size < LENGTH {
            return Err(corrupt(format!("the file has only {size} bytes")));
        }
        file.read_exact_at(&mut length, 0).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || LENGTH + length > size {
            return Err(corrupt(format!("a header of {length} bytes in a file of {size}")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, LENGTH).map_err(io)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| corrupt(error.to_string()))?;
        let opened = Self { path: path.into(), file, metadata, data_start: LENGTH + length, bytes_read: AtomicU64::new(0) };
        opened.check_length(size)?;
        Ok(opened)
    }

    fn check_length(&self, got: u64) -> Result<(), CheckpointError> {
        let expected = self.data_start + self.metadata.data_len() as u64;
        if got > expected {
            let detail = format!("it describes {expected} bytes, the file has {got}");
            return Err(CheckpointError::Header { file: self.path.clone(), detail });
        }
        if got == expected {
            return Ok(());
        }
        let end = |name: &String| self.metadata.info(name).map_or(0, |info| self.data_start + info.data_offsets.1 as u64);
        let tensor = self.metadata.offset_keys().into_iter().find(|name| end(name) > got).unwrap_or_default();
        Err(CheckpointError::Truncated { file: self.path.clone(), tensor, expected, got })
    }

    /// Names of its tensors.
    pub(crate) fn tensors(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Bytes of tensors read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// How a tensor is stored, once its shape is what the slice says.
    pub(crate) fn check(&self, tensor: &str, slice: &TensorSlice) -> Result<SourceDtype, CheckpointError> {
        let info = self.info(tensor)?;
        if info.shape != slice.shape {
            return Err(CheckpointError::Shape {
                file: self.path.clone(),
                tensor: tensor.into(),
                expected: slice.shape.clone(),
                found: info.shape.clone(),
            });
        }
        match info.dtype {
            Dtype::F32 => Ok(SourceDtype::F32),
            Dtype::BF16 => Ok(SourceDtype::Bf16),
            Dtype::F16 => Ok(SourceDtype::F16),
            other => Err(CheckpointError::Dtype { file: self.path.clone(), tensor: tensor.into(), found: format!("{other:?}") }),
        }
    }

    /// Adds the header, the length, the time of change and samples of the data.
    pub(crate) fn add_to(&self, fingerprint: &mut Fingerprint) -> Result<(), CheckpointError> {
        let io = |error: std::io::Error| CheckpointError::Io { file: self.path.clone(), error: error.to_string() };
        let about = self.file.metadata().map_err(io)?;
        let changed = about.modified().map_err(io)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        fingerprint.changed(changed.as_nanos());
        fingerprint.content(&about.len().to_le_bytes());
        let mut header = vec![0; self.data_start as usize];
        self.file.read_exact_at(&mut header, 0).map_err(io)?;
        fingerprint.content(&header);
        let len = about.len() - self.data_start;
        let mut sample = [0; SAMPLE];
        for i in 0..SAMPLES.min(len) {
            let offset = len * i / SAMPLES;
            let sample = &mut sample[..SAMPLE.min((len - offset) as usize)];
            self.file.read_exact_at(sample, self.data_start + offset).map_err(io)?;
            fingerprint.content(sample);
        }
        Ok(())
    }

    /// Reads a slice: one read where whole rows are wanted, else one a row, and none longer than a stretch, after which
    /// `told` hears of it.
    pub(crate) fn read<E: From<CheckpointError>>(
        &self,
        tensor: &str,
        slice: &TensorSlice,
        told: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<(Vec<u8>, SourceDtype), E> {
        let dtype = self.check(tensor, slice)?;
        let (stride, wanted) = (slice.stride(), slice.columns.len());
        let (runs, run) = if wanted == stride { (1, slice.len()) } else { (slice.rows.len(), wanted) };
        let start = self.data_start + self.info(tensor)?.data_offsets.0 as u64;
        let first = slice.rows.start * stride + slice.columns.start;
        let mut bytes = vec![0; slice.len() * dtype.size()];
        if bytes.is_empty() {
            return Ok((bytes, dtype));
        }
        let mut untold = 0;
        for (i, target) in bytes.chunks_exact_mut(run * dtype.size()).enumerate().take(runs) {
            let mut offset = start + ((first + i * stride) * dtype.size()) as u64;
            for target in target.chunks_mut(STRETCH) {
                self.read_at(tensor, target, offset)?;
                offset += target.len() as u64;
                untold += target.len();
                self.bytes_read.fetch_add(target.len() as u64, Ordering::Relaxed);
                if untold >= STRETCH {
                    told(std::mem::take(&mut untold) as u64)?;
                }
            }
        }
        told(untold as u64)?;
        Ok((bytes, dtype))
    }

    /// Whether a tensor is stored as another one is, of this file or of another. Reads both, up to the first difference.
    pub(crate) fn holds_the_same(&self, tensor: &str, other: &Self, others: &str) -> Result<bool, CheckpointError> {
        let (mine, theirs) = (self.info(tensor)?, other.info(others)?);
        if mine.dtype != theirs.dtype || mine.shape != theirs.shape {
            return Ok(false);
        }
        let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
        let len = mine.data_offsets.1 - mine.data_offsets.0;
        for done in (0..len).step_by(PIECE) {
            let piece = PIECE.min(len - done);
            self.read_at(tensor, &mut a[..piece], self.data_start + (mine.data_offsets.0 + done) as u64)?;
            other.read_at(others, &mut b[..piece], other.data_start + (theirs.data_offsets.0 + done) as u64)?;
            if a[..piece] != b[..piece] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_at(&self, tensor: &str, target: &mut [u8], offset: u64) -> Result<(), CheckpointError> {
        self.file.read_exact_at(target, offset).map_err(|error| CheckpointError::Read {
            file: self.path.clone(),
            tensor: tensor.into(),
            error: error.to_string(),
        })
    }

    fn info(&self, tensor: &str) -> Result<&TensorInfo, CheckpointError> {
        let missing = || CheckpointError::MissingTensor { file: self.path.clone(), tensor: tensor.into() };
        self.metadata.info(tensor).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_tensor_is_told_of_in_stretches_and_can_be_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.safetensors");
        let numbers = 40_000_000;
        let header = format!(r#"{{"long":{{"dtype":"F32","shape":[{numbers}],"data_offsets":[0,{}]}}}}"#, 4 * numbers);
        let mut start = (header.len() as u64).to_le_bytes().to_vec();
        start.extend(header.as_bytes());
        std::fs::write(&path, &start).unwrap();
        // A hole: it takes no room on disk.
        let whole = (start.len() + 4 * numbers) as u64;
        File::options().write(true).open(&path).unwrap().set_len(whole).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        let slice = TensorSlice::vector("long", numbers);
        let mut told = Vec::new();
        let tell = &mut |bytes| {
            told.push(bytes);
            Ok::<_, CheckpointError>(())
        };
        file.read("long", &slice, tell).unwrap();
        assert_eq!(told, [64 << 20, 64 << 20, 160_000_000 - (128 << 20)]);
        let read = file.bytes_read();
        let given_up = CheckpointError::NoLayout(path.clone());
        assert_eq!(file.read("long", &slice, &mut |_| Err(given_up.clone())), Err(given_up.clone()));
        assert_eq!(file.bytes_read() - read, 64 << 20);
    }
}
