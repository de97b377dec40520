//! Transactions that are made once, although every answer may be lost.
//!
//! An endpoint that does not answer may still make the transaction, now or when it wakes, so another attempt must not
//! make it a second time, and "a condition does not hold" must not be said of a transaction that its own writes made
//! fail. Every attempt therefore begins by reading its keys, and is bound to what it read: it goes through only while no
//! written key was touched since. Of two attempts that read the same, one at most goes through; and what a lost answer
//! hid is seen by the next read: the writes lie there under the caller's lease, all of one revision. Where keys cannot
//! tell (deletions, or another came in between), the caller hears `Unavailable`, never `None`.
//!
//! An endpoint that wakes late can find its keys absent again, as it had read them, and put them once more. It can do so
//! only under the lease that the attempt was made with, so that the keys go with it.

use etcd_client::{Client, Compare as EtcdCompare, CompareOp, Error, KeyValue, ResponseHeader, Txn, TxnOp, TxnOpResponse};
use tokio::time::{Instant, timeout_at};

use super::{
    failure::Failure,
    pool::{CALL, Pool},
    seen::{Found, Seen, keys, written},
};
use crate::{Compare, LeaseId, RegistryError, Revision, Write};

/// Makes all writes in one revision if every condition holds.
pub(super) async fn commit(pool: &Pool, conditions: &[Compare], writes: &[Write]) -> Result<Option<Revision>, RegistryError> {
    let lease = writes.iter().find_map(|write| match write {
        Write::Put { lease, .. } => Some(*lease),
        Write::Delete(_) => None,
    });
    let keys = keys(conditions, writes);
    let until = Instant::now() + CALL;
    // From before the first attempt whose answer was lost, and why it was.
    let mut doubt: Option<(Revision, String)> = None;
    let attempts = async {
        loop {
            let (endpoint, seen) = pool.ask(|client| look(client, &keys)).await?;
            if let Some((before, _)) = &doubt
                && let Some(revision) = seen.shows(writes, *before)
            {
                return Ok(Some(revision));
            }
            if !seen.meets(conditions) {
                return match doubt.take() {
                    Some((_, problem)) => Err(unknown(&problem)),
                    None => Ok(None),
                };
            }
            let txn = transaction(conditions, writes, &seen);
            match pool.attempt(endpoint, |client| run(client, txn)).await {
                Ok(Some(revision)) => return Ok(Some(revision)),
                // Another was faster: look again whether the conditions hold.
                Ok(None) | Err(Failure::Stale(_)) => {}
                Err(Failure::Unknown(problem)) => {
                    doubt = Some(doubt.take().unwrap_or((seen.revision, problem)));
                }
                Err(failure) => return Err(failure),
            }
        }
    };
    match timeout_at(until, attempts).await {
        Ok(outcome) => outcome.map_err(|failure| failure.into_error(lease)),
        Err(_) => Err(unknown("no endpoint answered in time").into_error(lease)),
    }
}

fn unknown(problem: &str) -> Failure {
    Failure::Unknown(format!("whether the transaction was made is unknown: {problem}"))
}

/// Reads the keys, all of one revision.
async fn look(client: Client, keys: &[String]) -> Result<Seen, Error> {
    let gets: Vec<_> = keys.iter().map(|key| TxnOp::get(key.as_str(), None)).collect();
    let answer = client.kv_client().txn(Txn::new().and_then(gets)).await?;
    let mut seen = Seen { revision: answered_at(answer.header()), ..Seen::default() };
    for response in answer.op_responses() {
        let TxnOpResponse::Get(response) = response else { continue };
        for pair in response.kvs() {
            seen.found.insert(text(pair.key()), found(pair));
        }
    }
    Ok(seen)
}

fn found(pair: &KeyValue) -> Found {
    Found {
        created: revision(pair.create_revision()),
        modified: revision(pair.mod_revision()),
        lease: LeaseId(pair.lease()),
        value: text(pair.value()),
    }
}

async fn run(client: Client, txn: Txn) -> Result<Option<Revision>, Error> {
    let answer = client.kv_client().txn(txn).await?;
    Ok(answer.succeeded().then(|| answered_at(answer.header())))
}

fn transaction(conditions: &[Compare], writes: &[Write], seen: &Seen) -> Txn {
    let asked = conditions.iter().map(|condition| match condition {
        Compare::Exists(key) => EtcdCompare::create_revision(key.as_str(), CompareOp::Greater, 0),
        Compare::Absent(key) => EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::Created(key, revision) => EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, revision.0 as i64),
    });
    let untouched = writes
        .iter()
        .map(written)
        .map(|key| EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, seen.modified(key).0 as i64));
    let operations = writes.iter().map(|write| match write {
        Write::Put { key, value, lease } => {
            TxnOp::put(key.as_str(), value.as_str(), Some(etcd_client::PutOptions::new().with_lease(lease.0)))
        }
        Write::Delete(key) => TxnOp::delete(key.as_str(), None),
    });
    Txn::new().when(asked.chain(untouched).collect::<Vec<_>>()).and_then(operations.collect::<Vec<_>>())
}

/// The revision that an answer speaks of.
pub(super) fn answered_at(header: Option<&ResponseHeader>) -> Revision {
    revision(header.map_or(0, ResponseHeader::revision))
}

/// etcd counts in signed numbers, and never below 0.
pub(super) fn revision(of_etcd: i64) -> Revision {
    Revision(u64::try_from(of_etcd).unwrap_or_default())
}

/// Keys and values are text here; what is not cannot be read as a record either.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
