//! The model being served, as far as the front door needs to know it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tessera_prompt::{Tokenizer, TokenizerError};
use tessera_proto::internal::GetInfoResponse;
use tessera_types::{ModelConfigError, ModelSpec};

use crate::{ModelSource, RequestError, RouterConfig};

/// Why a model's folder cannot be served from.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No tokenizer, or a broken one.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Neither layout's configuration is there.
    #[error("{0} has neither params.json nor config.json")]
    NoConfig(PathBuf),
    /// A configuration that cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A configuration that does not describe a model Tessera can run.
    #[error("{path}: {error}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ModelConfigError,
    },
}

/// The model being served.
pub(crate) struct Model {
    /// The name clients ask for.
    pub(crate) name: String,
    /// Its shape.
    pub(crate) spec: ModelSpec,
    /// What its tokens mean.
    pub(crate) tokenizer: Arc<Tokenizer>,
}

impl Model {
    /// Reads the tokenizer and the shape.
    pub(crate) fn load(config: &RouterConfig) -> Result<Self, ModelError> {
        let (spec, tokenizer) = match &config.model {
            ModelSource::Shape(spec) => ((**spec).clone(), Tokenizer::bytes()),
            ModelSource::Folder(folder) => (read_spec(folder)?, Tokenizer::from_folder(folder)?),
        };
        Ok(Self { name: config.model_name.clone(), spec, tokenizer: Arc::new(tokenizer) })
    }

    /// What tells the model that a replica serves from this one, as a predicate of the replica; `None` where nothing does.
    /// What a replica leaves out it is believed.
    pub(crate) fn unlike(&self, info: &GetInfoResponse) -> Option<String> {
        if !info.model.is_empty() && info.model != self.name {
            return Some(format!("serves the model `{}`, not `{}`", info.model, self.name));
        }
        if info.model_spec.is_empty() {
            return None;
        }
        match serde_json::from_str::<ModelSpec>(&info.model_spec) {
            // How long a context may be, the layouts' configurations of one model may say differently.
            Ok(spec) if spec.decoder == self.spec.decoder && spec.vision == self.spec.vision => None,
            Ok(_) => Some(format!("serves a model of another shape than `{}`", self.name)),
            Err(error) => Some(format!("tells a shape that cannot be read: {error}")),
        }
    }

    /// Refuses any name but its own; an empty one stands for it.
    pub(crate) fn check_name(&self, asked: &str) -> Result<(), RequestError> {
        if asked.is_empty() || asked == self.name {
            return Ok(());
        }
        Err(RequestError::model_not_found(asked, &self.name))
    }
}

/// A folder may hold both layouts' configurations: they describe one model.
fn read_spec(folder: &Path) -> Result<ModelSpec, ModelError> {
    type Parse = fn(&str) -> Result<ModelSpec, ModelConfigError>;
    let layouts: [(&str, Parse); 2] =
        [("params.json", ModelSpec::from_mistral_params), ("config.json", ModelSpec::from_hugging_face_config)];
    for (name, parse) in layouts {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text).map_err(|error| ModelError::Config { path, error }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ModelError::Read { path, error }),
        }
    }
    Err(ModelError::NoConfig(folder.to_owned()))
}
