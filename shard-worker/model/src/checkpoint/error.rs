//! What can be wrong with a checkpoint.

use std::path::PathBuf;

use tessera_types::ModelConfigError;

/// A checkpoint that cannot be read; names the file and, where there is one, the tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// A folder without any layout's files.
    #[error("{}: not a checkpoint: neither params.json (Mistral) nor config.json (Hugging Face) is there", .0.display())]
    NoLayout(PathBuf),
    /// A file that the layout needs.
    #[error("{}: the file is missing; {why}", .file.display())]
    MissingFile {
        /// The file.
        file: PathBuf,
        /// Who needs it.
        why: String,
    },
    /// The operating system refused.
    #[error("{}: {error}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What came back.
        error: String,
    },
    /// A configuration that does not describe a model Tessera can run.
    #[error("{}: {error}", .file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The value at fault.
        error: ModelConfigError,
    },
    /// A header that is no safetensors header.
    #[error("{}: corrupt safetensors header: {detail}", .file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A file that ends before its tensors do.
    #[error("{}: truncated: {got} of {expected} bytes; tensor {tensor} is cut off", .file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// The first tensor that is not all there.
        tensor: String,
        /// Bytes the header promises.
        expected: u64,
        /// Bytes there are.
        got: u64,
    },
    /// An index that is no index.
    #[error("{}: corrupt index: {detail}", .file.display())]
    Index {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A tensor that is in no file.
    #[error("{}: tensor {tensor} is missing", .file.display())]
    MissingTensor {
        /// The file that should name it.
        file: PathBuf,
        /// The tensor, as the layout names it.
        tensor: String,
    },
    /// Embeddings that the configuration ties to an output matrix which is there and is another one.
    #[error("{}: the configuration ties tensor {output} to {embedding}, but both are there and differ", .file.display())]
    Tied {
        /// The file that names them.
        file: PathBuf,
        /// The embedding.
        embedding: String,
        /// The output matrix.
        output: String,
    },
    /// A tensor of another shape than the configuration's.
    #[error("{}: tensor {tensor} has shape {found:?}, the configuration makes it {expected:?}", .file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// Numbers of a kind that is not read.
    #[error("{}: tensor {tensor} is stored as {found}; F32, BF16 and F16 are read", .file.display())]
    Dtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// In the file.
        found: String,
    },
    /// A tensor whose bytes could not be read.
    #[error("{}: tensor {tensor}: {error}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What came back.
        error: String,
    },
}
