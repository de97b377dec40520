//! The fields of a JSON body, taken one by one, so that every complaint names its field.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::RequestError;

/// Values take tens of times their text in memory: a body may have so many. A prompt of token ids for the longest of
/// contexts has fewer.
const MAX_VALUES: usize = 1 << 18;

/// An object's fields. What is never taken is ignored, as OpenAI's own server and its peers do.
pub(crate) struct Fields {
    path: String,
    values: Map<String, Value>,
}

impl Fields {
    /// The body of a request.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let text = str::from_utf8(body).map_err(|error| {
            RequestError::unreadable(format!("the body is not UTF-8: byte {} begins no character", error.valid_up_to()))
        })?;
        if values(body) > MAX_VALUES {
            return Err(RequestError::unreadable(format!("the body has more than {MAX_VALUES} values")));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(values)) => Ok(Self { path: String::new(), values }),
            Ok(_) => Err(RequestError::unreadable("the body must be a JSON object")),
            Err(error) => Err(RequestError::unreadable(format!("the body is not JSON: {error}"))),
        }
    }

    /// An object inside another, at `path`.
    pub(crate) fn inside(path: String, value: Value) -> Result<Self, RequestError> {
        match value {
            Value::Object(values) => Ok(Self { path: path + ".", values }),
            _ => Err(RequestError::invalid(path, "must be an object")),
        }
    }

    /// Takes a field; one that is null counts as missing.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, RequestError> {
        match self.raw(name) {
            None => Ok(None),
            Some(value) => serde_json::from_value(whole(value)).map(Some).map_err(|error| self.invalid(name, error.to_string())),
        }
    }

    /// Takes a field that must be there.
    pub(crate) fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, RequestError> {
        self.take(name)?.ok_or_else(|| self.invalid(name, "is missing"))
    }

    /// Takes a field as it is.
    pub(crate) fn raw(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    /// Refuses a field whose value asks for something that is not there.
    pub(crate) fn unsupported(&mut self, name: &str, asks: impl Fn(&Value) -> bool) -> Result<(), RequestError> {
        match self.raw(name) {
            Some(value) if asks(&value) => Err(self.invalid(name, "is not supported by this server")),
            _ => Ok(()),
        }
    }

    /// A complaint about a field.
    pub(crate) fn invalid(&self, name: &str, problem: impl Into<String>) -> RequestError {
        RequestError::invalid(self.name(name), problem)
    }

    /// The field's full path.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }
}

/// A whole number as one, however it is written: some languages know no other numbers than floats.
fn whole(value: Value) -> Value {
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < MAX_WHOLE => Value::from(number as i64),
        _ => value,
    }
}

/// Below this, a float that has no fraction is exact.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// How many values a JSON text has, or a few fewer: whatever begins or separates values, outside strings.
fn values(text: &[u8]) -> usize {
    let (mut count, mut inside, mut escaped) = (0, false, false);
    for &byte in text {
        match (inside, escaped, byte) {
            (true, true, _) => escaped = false,
            (true, false, b'\\') => escaped = true,
            (_, _, b'"') => inside = !inside,
            (false, _, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

/// Whether a value is anything but null, false, empty, or zero.
pub(crate) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_be_written_as_a_float_and_another_is_no_integer() {
        let mut fields = Fields::parse(br#"{"a": 3.0, "b": 3.5, "c": -2.0, "d": 0.5, "e": 1e3}"#).unwrap();
        assert_eq!(fields.take::<u32>("a"), Ok(Some(3)));
        assert_eq!(fields.take::<u32>("b").unwrap_err().field.unwrap(), "b");
        assert_eq!(fields.take::<f32>("c"), Ok(Some(-2.0)));
        assert_eq!(fields.take::<f32>("d"), Ok(Some(0.5)));
        assert_eq!(fields.take::<u32>("e"), Ok(Some(1000)));
    }

    #[test]
    fn a_body_of_too_many_values_is_refused_and_one_long_string_is_not() {
        let wide = format!(r#"{{"x": [{}]}}"#, vec![r#"{"":0}"#; MAX_VALUES].join(","));
        assert!(Fields::parse(wide.as_bytes()).err().unwrap().problem.contains("values"));
        let text = format!(r#"{{"prompt": "{}"}}"#, r#"\"[{,"#.repeat(MAX_VALUES));
        assert!(Fields::parse(text.as_bytes()).is_ok());
        let ids = format!(r#"{{"prompt": [{}]}}"#, vec!["1000"; 131_072].join(","));
        assert!(Fields::parse(ids.as_bytes()).is_ok());
    }
}
