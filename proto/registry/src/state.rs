//! The in-memory store as a pure state machine: time comes in, changes come out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use crate::{Change, Compare, Entry, LeaseId, RegistryError, Revision, Write};

/// Changes kept for watches that begin in the past.
const HISTORY: usize = 4096;

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Duration,
    keys: BTreeSet<String>,
}

/// Keys, leases and the recent past. Times are durations since the state was made.
#[derive(Debug, Default)]
pub(crate) struct State {
    revision: Revision,
    entries: BTreeMap<String, (Entry, LeaseId)>,
    leases: HashMap<LeaseId, Lease>,
    granted: i64,
    history: VecDeque<Change>,
    /// The newest revision that `history` no longer tells of.
    forgotten: Revision,
}

impl State {
    /// Empty, with revisions that count on from `revision`.
    pub(crate) fn after(revision: Revision) -> Self {
        Self { revision, ..Self::default() }
    }

    pub(crate) fn grant(&mut self, now: Duration, ttl: Duration) -> LeaseId {
        self.granted += 1;
        let lease = LeaseId(self.granted);
        self.leases.insert(lease, Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
        lease
    }

    pub(crate) fn keep_alive(&mut self, now: Duration, lease: LeaseId) -> Result<(), RegistryError> {
        let held = self.leases.get_mut(&lease).ok_or(RegistryError::LeaseEnded(lease))?;
        held.ends = now + held.ttl;
        Ok(())
    }

    /// Ends a lease; its keys go in one revision.
    pub(crate) fn revoke(&mut self, lease: LeaseId) -> Vec<Change> {
        let Some(ended) = self.leases.remove(&lease) else { return Vec::new() };
        if ended.keys.is_empty() {
            return Vec::new();
        }
        self.revision.0 += 1;
        let changes = ended.keys.into_iter().map(|key| self.delete(key)).collect();
        self.remember(changes)
    }

    /// Ends every lease whose time is over.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<Change> {
        let mut over: Vec<LeaseId> = self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        over.sort_unstable();
        over.into_iter().flat_map(|lease| self.revoke(lease)).collect()
    }

    /// A transaction: its revision and changes, or `None` when a condition does not hold. As in etcd, one that changes
    /// nothing makes no revision.
    pub(crate) fn commit(
        &mut self,
        conditions: &[Compare],
        writes: Vec<Write>,
    ) -> Result<Option<(Revision, Vec<Change>)>, RegistryError> {
        if !conditions.iter().all(|condition| self.holds(condition)) {
            return Ok(None);
        }
        let ended = |write: &&Write| matches!(write, Write::Put { lease, .. } if !self.leases.contains_key(lease));
        if let Some(Write::Put { lease, .. }) = writes.iter().find(ended) {
            return Err(RegistryError::LeaseEnded(*lease));
        }
        if writes.iter().any(|write| self.changes(write)) {
            self.revision.0 += 1;
        }
        let changes = writes.into_iter().filter_map(|write| self.write(write)).collect();
        let changes = self.remember(changes);
        Ok(Some((self.revision, changes)))
    }

    pub(crate) fn list(&self, prefix: &str) -> (Revision, Vec<Entry>) {
        let from_prefix = self.entries.range(prefix.to_owned()..);
        let entries = from_prefix.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, (entry, _))| entry.clone());
        (self.revision, entries.collect())
    }

    /// Changes under a prefix after a revision, as far as they are remembered.
    pub(crate) fn since(&self, prefix: &str, after: Revision) -> Result<Vec<Change>, RegistryError> {
        if after < self.forgotten {
            return Err(RegistryError::Compacted(after));
        }
        let wanted = |change: &&Change| change.revision() > after && change.key().starts_with(prefix);
        Ok(self.history.iter().filter(wanted).cloned().collect())
    }

    fn holds(&self, condition: &Compare) -> bool {
        match condition {
            Compare::Exists(key) => self.entries.contains_key(key),
            Compare::Absent(key) => !self.entries.contains_key(key),
            Compare::Created(key, revision) => self.entries.get(key).is_some_and(|(entry, _)| entry.created == *revision),
        }
    }

    fn changes(&self, write: &Write) -> bool {
        match write {
            Write::Put { .. } => true,
            Write::Delete(key) => self.entries.contains_key(key),
        }
    }

    fn write(&mut self, write: Write) -> Option<Change> {
        match write {
            Write::Delete(key) => self.entries.contains_key(&key).then(|| self.delete(key)),
            Write::Put { key, value, lease } => {
                let before = self.entries.get(&key);
                let created = before.map_or(self.revision, |(entry, _)| entry.created);
                if let Some((_, old)) = before
                    && let Some(old) = self.leases.get_mut(old)
                {
                    old.keys.remove(&key);
                }
                if let Some(held) = self.leases.get_mut(&lease) {
                    held.keys.insert(key.clone());
                }
                let entry = Entry { key: key.clone(), value, created, modified: self.revision };
                self.entries.insert(key, (entry.clone(), lease));
                Some(Change::Put(entry))
            }
        }
    }

    fn delete(&mut self, key: String) -> Change {
        if let Some((_, lease)) = self.entries.remove(&key)
            && let Some(lease) = self.leases.get_mut(&lease)
        {
            lease.keys.remove(&key);
        }
        Change::Delete { key, revision: self.revision }
    }

    fn remember(&mut self, changes: Vec<Change>) -> Vec<Change> {
        self.history.extend(changes.iter().cloned());
        while self.history.len() > HISTORY {
            if let Some(oldest) = self.history.pop_front() {
                self.forgotten = oldest.revision();
            }
        }
        changes
    }
}

#[cfg(test)]
mod fencing;
#[cfg(test)]
mod tests;
