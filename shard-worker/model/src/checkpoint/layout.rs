//! A checkpoint folder: which layout it has, and where its tensors lie.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tessera_types::ModelSpec;

use super::names::HuggingFaceNames;
use super::safetensors_file::SafetensorsFile;
use super::slice::interleaved;
use super::{CheckpointError, Fingerprint, SliceBytes, TensorSlice};

/// How a checkpoint folder is laid out: a configuration, and the weights in one file, or in several and an index of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `params.json` and `consolidated.safetensors` or `consolidated-*-of-*.safetensors`.
    Mistral,
    /// `config.json` and `model.safetensors` or `model-*-of-*.safetensors`.
    HuggingFace,
}

impl Layout {
    /// Tells a folder's layout by its files. A folder with both is read as Mistral's, the one without permuted rows.
    pub fn detect(folder: &Path) -> Result<Self, CheckpointError> {
        let has = |file: &str| folder.join(file).is_file();
        let [mistral, hugging_face] = [Self::Mistral, Self::HuggingFace];
        let whole = |layout: &Self| has(layout.configuration()) && (has(layout.index()) || has(layout.single()));
        if let Some(layout) = [mistral, hugging_face].into_iter().find(whole) {
            return Ok(layout);
        }
        let configured = [mistral, hugging_face].into_iter().find(|layout| has(layout.configuration()));
        let layout = configured.ok_or_else(|| CheckpointError::NoLayout(folder.into()))?;
        let why = format!("{} is there, but neither this nor {}", layout.configuration(), layout.index());
        Err(CheckpointError::MissingFile { file: folder.join(layout.single()), why })
    }

    fn configuration(self) -> &'static str {
        match self {
            Self::Mistral => "params.json",
            Self::HuggingFace => "config.json",
        }
    }

    fn single(self) -> &'static str {
        match self {
            Self::Mistral => "consolidated.safetensors",
            Self::HuggingFace => "model.safetensors",
        }
    }

    /// Where it says which file each tensor is in.
    fn index(self) -> &'static str {
        match self {
            Self::Mistral => "consolidated.safetensors.index.json",
            Self::HuggingFace => "model.safetensors.index.json",
        }
    }
}

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    layout: Layout,
    spec: ModelSpec,
    names: Option<HuggingFaceNames>,
    files: Vec<SafetensorsFile>,
    /// The file of each tensor.
    places: HashMap<String, usize>,
    /// What to name when a tensor is in no file.
    listing: PathBuf,
    fingerprint: Fingerprint,
}

impl Checkpoint {
    /// Reads the configuration and every file's header.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let layout = Layout::detect(folder)?;
        let (spec, text) = configuration(folder, layout)?;
        let index = folder.join(layout.index());
        let (listing, files, places) =
            if index.is_file() { indexed(folder, index)? } else { single(folder.join(layout.single()))? };
        let names = (layout == Layout::HuggingFace).then(|| HuggingFaceNames::detect(|name| places.contains_key(name)));
        let mut fingerprint = Fingerprint::of(text.as_bytes());
        for file in &files {
            file.add_to(&mut fingerprint)?;
        }
        let opened = Self { layout, spec, names, files, places, listing, fingerprint };
        opened.check_ties()?;
        Ok(opened)
    }

    /// A checkpoint that ties its embeddings may hold the output matrix too, but no other one: programs differ in which
    /// of the two they would use.
    fn check_ties(&self) -> Result<(), CheckpointError> {
        let name = |name: &str| self.names.map_or_else(|| name.to_owned(), |names| names.of(name));
        let (embedding, output) = (name("tok_embeddings.weight"), name("output.weight"));
        let (Some(&of_embedding), Some(&of_output)) = (self.places.get(&embedding), self.places.get(&output)) else {
            return Ok(());
        };
        let (embeds, puts_out) = (&self.files[of_embedding], &self.files[of_output]);
        if !self.spec.decoder.tied_embeddings || embeds.holds_the_same(&embedding, puts_out, &output)? {
            return Ok(());
        }
        Err(CheckpointError::Tied { file: self.listing.clone(), embedding, output })
    }

    /// How the folder is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The model's shape.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What tells this checkpoint from others.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Bytes of tensors read so far.
    pub fn bytes_read(&self) -> u64 {
        self.files.iter().map(SafetensorsFile::bytes_read).sum()
    }

    /// Bytes a slice has, once its tensor is there with the right shape and numbers that are read.
    pub fn check(&self, slice: &TensorSlice) -> Result<u64, CheckpointError> {
        let (file, tensor) = self.locate(slice)?;
        Ok((slice.len() * file.check(&tensor, slice)?.size()) as u64)
    }

    /// Reads a slice.
    ///
    /// # Errors
    /// Those of the file, and of `told`, which hears of bytes read.
    pub fn read<E: From<CheckpointError>>(
        &self,
        slice: &TensorSlice,
        told: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<SliceBytes, E> {
        let (file, tensor) = self.locate(slice)?;
        let (bytes, dtype) = file.read(&tensor, slice, told)?;
        let order = match (self.layout, slice.rotary_head) {
            (Layout::HuggingFace, Some(head_dim)) => interleaved(slice.rows.len(), head_dim),
            _ => (0..slice.rows.len() as u32).collect(),
        };
        Ok(SliceBytes { bytes, dtype, columns: slice.columns.len(), order })
    }

    fn locate(&self, slice: &TensorSlice) -> Result<(&SafetensorsFile, String), CheckpointError> {
        let tensor = self.names.map_or_else(|| slice.name.clone(), |names| names.of(&slice.name));
        match self.places.get(&tensor) {
            Some(&file) => Ok((&self.files[file], tensor)),
            None => Err(CheckpointError::MissingTensor { file: self.listing.clone(), tensor }),
        }
    }
}

/// The shape that a folder's configuration tells; weights need not be there.
pub fn shape(folder: &Path) -> Result<ModelSpec, CheckpointError> {
    let has = |file: &str| folder.join(file).is_file();
    let layout = match [Layout::Mistral, Layout::HuggingFace].map(|layout| has(layout.configuration())) {
        // With both, the weights decide which one counts.
        [true, true] => Layout::detect(folder).unwrap_or(Layout::Mistral),
        [true, false] => Layout::Mistral,
        [false, true] => Layout::HuggingFace,
        [false, false] => return Err(CheckpointError::NoLayout(folder.into())),
    };
    Ok(configuration(folder, layout)?.0)
}

/// The shape, and the text that tells it.
fn configuration(folder: &Path, layout: Layout) -> Result<(ModelSpec, String), CheckpointError> {
    let file = folder.join(layout.configuration());
    let text = read_text(&file)?;
    let spec = match layout {
        Layout::Mistral => ModelSpec::from_mistral_params(&text),
        Layout::HuggingFace => ModelSpec::from_hugging_face_config(&text),
    };
    let spec = spec.map_err(|error| CheckpointError::Config { file, error })?;
    Ok((spec, text))
}

type Files = (PathBuf, Vec<SafetensorsFile>, HashMap<String, usize>);

fn single(path: PathBuf) -> Result<Files, CheckpointError> {
    let file = SafetensorsFile::open(&path)?;
    let places = file.tensors().into_iter().map(|tensor| (tensor, 0)).collect();
    Ok((path, vec![file], places))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn indexed(folder: &Path, path: PathBuf) -> Result<Files, CheckpointError> {
    let corrupt = |detail: String| CheckpointError::Index { file: path.clone(), detail };
    let index: Index = serde_json::from_str(&read_text(&path)?).map_err(|error| corrupt(error.to_string()))?;
    let mut files: Vec<SafetensorsFile> = Vec::new();
    let mut opened: HashMap<&str, usize> = HashMap::new();
    let mut places = HashMap::new();
    for (tensor, name) in &index.weight_map {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(corrupt(format!("tensor {tensor} is said to be in {name:?}, which is no file name")));
        }
        let file = match opened.get(name.as_str()) {
            Some(&file) => file,
            None => {
                files.push(open_shard(&folder.join(name), tensor, &path)?);
                opened.insert(name, files.len() - 1);
                files.len() - 1
            }
        };
        places.insert(tensor.clone(), file);
    }
    Ok((path, files, places))
}

fn open_shard(path: &Path, tensor: &str, index: &Path) -> Result<SafetensorsFile, CheckpointError> {
    if !path.is_file() {
        let why = format!("{} says that it holds tensor {tensor}", index.display());
        return Err(CheckpointError::MissingFile { file: path.into(), why });
    }
    SafetensorsFile::open(path)
}

fn read_text(path: &Path) -> Result<String, CheckpointError> {
    std::fs::read_to_string(path).map_err(|error| CheckpointError::Io { file: path.into(), error: error.to_string() })
}
