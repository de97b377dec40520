//! An object inside a configuration: typed values, each refused with its path.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::ModelConfigError;

/// Reads the whole file.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, ModelConfigError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ModelConfigError::Json("another kind of value".into())),
        Err(error) => Err(ModelConfigError::Json(error.to_string())),
    }
}

/// An object with its path. A value that is null counts as left out.
pub(super) struct Section<'a> {
    path: String,
    values: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The configuration itself.
    pub(super) fn root(values: &'a Map<String, Value>) -> Self {
        Self { path: String::new(), values }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, key: &str, expected: impl Into<String>, got: impl ToString) -> ModelConfigError {
        ModelConfigError::Value { field: self.field(key), expected: expected.into(), got: got.to_string() }
    }

    pub(super) fn unsupported(&self, key: &str, got: impl ToString, why: &'static str) -> ModelConfigError {
        ModelConfigError::Unsupported { field: self.field(key), got: got.to_string(), why }
    }

    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'a>>, ModelConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Section { path: self.field(key), values })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    pub(super) fn size(&self, key: &str, default: usize, most: usize) -> Result<usize, ModelConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_u64().filter(|&n| (1..=most as u64).contains(&n)) {
            Some(n) => Ok(n as usize),
            None => Err(self.wrong(key, format!("a whole number from 1 to {most}"), value)),
        }
    }

    pub(super) fn number(&self, key: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64, ModelConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let (least, most) = (range.start(), range.end());
        let expected = || format!("a number from {least:e} to {most:e}");
        value.as_f64().filter(|n| range.contains(n)).ok_or_else(|| self.wrong(key, expected(), value))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value))
    }

    /// Refuses any other value than these.
    pub(super) fn must_be<V>(&self, key: &str, allowed: &[V], why: &'static str) -> Result<(), ModelConfigError>
    where
        Value: PartialEq<V>,
    {
        match self.get(key) {
            Some(value) if !allowed.iter().any(|allowed| value == allowed) => Err(self.unsupported(key, value, why)),
            _ => Ok(()),
        }
    }

    /// Refuses what would switch something on.
    pub(super) fn must_be_off(&self, keys: &[&str], why: &'static str) -> Result<(), ModelConfigError> {
        let off = |value: &Value| match value {
            Value::Bool(on) => !on,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Null => true,
        };
        for &key in keys {
            if let Some(value) = self.get(key).filter(|value| !off(value)) {
                return Err(self.unsupported(key, value, why));
            }
        }
        Ok(())
    }
}
