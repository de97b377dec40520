//! Asking a replica how it is, for as long as it is known.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tessera_proto::internal::GetInfoRequest;
use tessera_service::reason;
use tokio::time::timeout;

use super::{Replica, Replicas};

/// Between two questions to a replica that is ready, and to one that is not.
const READY_EVERY: Duration = Duration::from_millis(500);
const UNREADY_EVERY: Duration = Duration::from_millis(100);
/// A replica that does not answer within this is not ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Keeps a replica's state current until it is forgotten.
pub(super) async fn watch(replica: Arc<Replica>, replicas: Weak<Replicas>) {
    replica.forgotten().run_until_cancelled(ask_forever(&replica, &replicas)).await;
}

async fn ask_forever(replica: &Replica, replicas: &Weak<Replicas>) {
    let mut client = replica.client();
    loop {
        let told = match timeout(ANSWER_WITHIN, client.get_info(GetInfoRequest {})).await {
            Ok(Ok(info)) => Ok(info.into_inner()),
            Ok(Err(status)) => Err(reason(&status)),
            Err(_) => Err(format!("nothing within {ANSWER_WITHIN:?}")),
        };
        let Some(replicas) = replicas.upgrade() else { return };
        replicas.note(replica, told);
        drop(replicas);
        let pause = if replica.is_ready() { READY_EVERY } else { UNREADY_EVERY };
        // One that somebody suspects is asked at once.
        let _ = timeout(pause, replica.doubted()).await;
    }
}
