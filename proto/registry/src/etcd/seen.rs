//! What a transaction finds at its keys, and what follows from it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Compare, LeaseId, Revision, Write};

/// A key that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) created: Revision,
    pub(super) modified: Revision,
    pub(super) lease: LeaseId,
    pub(super) value: String,
}

/// All keys of a transaction, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) revision: Revision,
    pub(super) found: BTreeMap<String, Found>,
}

impl Seen {
    /// Whether every condition holds.
    pub(super) fn meets(&self, conditions: &[Compare]) -> bool {
        conditions.iter().all(|condition| match condition {
            Compare::Exists(key) => self.found.contains_key(key),
            Compare::Absent(key) => !self.found.contains_key(key),
            Compare::Created(key, revision) => self.found.get(key).is_some_and(|found| found.created == *revision),
        })
    }

    /// When the key was last put; 0 where it is not there.
    pub(super) fn modified(&self, key: &str) -> Revision {
        self.found.get(key).map_or(Revision(0), |found| found.modified)
    }

    /// The one revision after `before` in which all writes were made, if what is there shows it. Deletions alone leave
    /// nothing to show.
    pub(super) fn shows(&self, writes: &[Write], before: Revision) -> Option<Revision> {
        let mut revision = None;
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    let found = self.found.get(key).filter(|found| found.lease == *lease && found.value == *value)?;
                    if found.modified <= before || revision.is_some_and(|revision| revision != found.modified) {
                        return None;
                    }
                    revision = Some(found.modified);
                }
                Write::Delete(key) if self.found.contains_key(key) => return None,
                Write::Delete(_) => {}
            }
        }
        revision
    }
}

/// Every key that a transaction is about, once.
pub(super) fn keys(conditions: &[Compare], writes: &[Write]) -> Vec<String> {
    let asked = conditions.iter().map(|condition| match condition {
        Compare::Exists(key) | Compare::Absent(key) | Compare::Created(key, _) => key,
    });
    asked.chain(writes.iter().map(written)).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The key that is written.
pub(super) fn written(write: &Write) -> &String {
    match write {
        Write::Put { key, .. } | Write::Delete(key) => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(entries: &[(&str, &str, i64, u64)]) -> Seen {
        let found = entries.iter().map(|&(key, value, lease, modified)| {
            let (created, modified) = (Revision(modified), Revision(modified));
            (key.to_owned(), Found { created, modified, lease: LeaseId(lease), value: value.into() })
        });
        Seen { revision: Revision(100), found: found.collect() }
    }

    fn put(key: &str, value: &str) -> Write {
        Write::Put { key: key.into(), value: value.into(), lease: LeaseId(7) }
    }

    #[test]
    fn a_commit_whose_answer_was_lost_is_read_back_from_its_keys() {
        let writes = [put("a", "x"), put("b", "y"), Write::Delete("c".into())];
        let shows = |entries: &[_]| seen(entries).shows(&writes, Revision(5));
        assert_eq!(shows(&[("a", "x", 7, 9), ("b", "y", 7, 9)]), Some(Revision(9)));
    }

    #[test]
    fn what_others_wrote_is_never_taken_for_ones_own() {
        let writes = [put("a", "x"), put("b", "y"), Write::Delete("c".into())];
        let shows = |entries: &[_]| seen(entries).shows(&writes, Revision(5));
        assert_eq!(shows(&[]), None);
        assert_eq!(shows(&[("a", "x", 7, 9)]), None, "half of it");
        assert_eq!(shows(&[("a", "x", 7, 9), ("b", "z", 7, 9)]), None, "another value");
        assert_eq!(shows(&[("a", "x", 7, 9), ("b", "y", 8, 9)]), None, "another's lease");
        assert_eq!(shows(&[("a", "x", 7, 8), ("b", "y", 7, 9)]), None, "two revisions");
        assert_eq!(shows(&[("a", "x", 7, 5), ("b", "y", 7, 5)]), None, "from before");
        assert_eq!(shows(&[("a", "x", 7, 9), ("b", "y", 7, 9), ("c", "", 7, 3)]), None, "not deleted");
        assert_eq!(seen(&[]).shows(&[Write::Delete("c".into())], Revision(5)), None, "anyone may have deleted it");
    }
}
