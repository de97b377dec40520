//! Bearer keys, where the operator wants them.

use std::io;
use std::path::Path;

use crate::RequestError;

/// The keys that callers may show; none lets everyone in.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<String>);

impl ApiKeys {
    /// One key a line; empty lines and lines that begin with `#` are skipped. A file without a key is an error,
    /// since it would open the door that it was to close.
    pub fn read(path: &Path) -> io::Result<Self> {
        let lines = std::fs::read_to_string(path)?;
        let keys: Vec<_> = lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if keys.is_empty() {
            return Err(io::Error::other(format!("{} holds no key", path.display())));
        }
        Ok(Self(keys.into_iter().map(str::to_owned).collect()))
    }

    /// Checks the value of an `authorization` header.
    pub(crate) fn check(&self, authorization: Option<&[u8]>) -> Result<(), RequestError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let value = authorization.ok_or_else(|| RequestError::unauthenticated("an API key is needed, as a bearer token"))?;
        let key = value
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, key)| key.trim_ascii());
        // Every key is compared, so that the time taken does not tell which one was nearly right.
        let known = key.is_some_and(|key| self.0.iter().fold(false, |known, ours| known | same(ours.as_bytes(), key)));
        if known { Ok(()) } else { Err(RequestError::unauthenticated("the API key is not one of this server's")) }
    }
}

/// Compares in a time that does not depend on where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_keys_in_the_file_open_the_door() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "# ours\n\nalpha\n  beta \n").unwrap();
        let keys = ApiKeys::read(&path).unwrap();
        assert!(keys.check(Some(b"Bearer alpha")).is_ok() && keys.check(Some(b"bearer beta")).is_ok());
        for wrong in [None, Some(&b"alpha"[..]), Some(b"Bearer alph"), Some(b"Bearer "), Some(b"Bearer # ours")] {
            assert!(keys.check(wrong).is_err(), "{wrong:?}");
        }
        assert!(ApiKeys::default().check(None).is_ok());
        std::fs::write(&path, "# none\n").unwrap();
        assert!(ApiKeys::read(&path).is_err());
    }
}
