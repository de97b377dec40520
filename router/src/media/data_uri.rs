//! `data:` URIs, as RFC 2397 has them, base64 only.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Padding is optional, since clients disagree about it.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// A `data:` URI taken apart, its content still encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DataUri<'a> {
    body: &'a str,
}

impl<'a> DataUri<'a> {
    pub(crate) fn parse(uri: &'a str) -> Result<Self, String> {
        let scheme = uri.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:"));
        let rest = scheme.and_then(|_| uri.get(5..)).ok_or("must begin with `data:`")?;
        let (head, body) = rest.split_once(',').ok_or("has no comma between its type and its content")?;
        // The type is not looked at: many clients say the same one for every image, and the content tells.
        if !head.split(';').skip(1).any(|parameter| parameter.trim().eq_ignore_ascii_case("base64")) {
            return Err("must be base64, as in `data:image/png;base64,…`".into());
        }
        Ok(Self { body: body.trim() })
    }

    /// The content, unless it has more than `limit` bytes.
    pub(crate) fn decode(&self, limit: usize) -> Result<Vec<u8>, String> {
        if self.body.len() / 4 * 3 > limit.saturating_add(3) {
            return Err(format!("must have at most {limit} bytes, has about {}", self.body.len() / 4 * 3));
        }
        BASE64.decode(self.body).map_err(|error| format!("is not base64: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_what_was_encoded_with_or_without_padding() {
        for uri in ["data:image/png;base64,aGk=", "DATA:image/png;charset=x;BASE64,aGk"] {
            assert_eq!(DataUri::parse(uri).unwrap().decode(100).unwrap(), b"hi");
        }
    }

    #[test]
    fn what_is_broken_is_said() {
        assert!(DataUri::parse("dat").unwrap_err().contains("data:"));
        assert!(DataUri::parse("data:image/png;base64").unwrap_err().contains("comma"));
        assert!(DataUri::parse("data:image/png,hello").unwrap_err().contains("base64"));
        assert!(DataUri::parse("data:;base64,@@@@").unwrap().decode(100).unwrap_err().contains("base64"));
        assert!(DataUri::parse("data:;base64,AAAAAAAAAAAAAAAA").unwrap().decode(4).unwrap_err().contains("at most 4"));
    }
}
