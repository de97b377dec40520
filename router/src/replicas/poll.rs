//! Asking a replica how it is, for as long as it is known.

use std::{sync::Arc, time::Duration};

use tessera_proto::internal::GetInfoRequest;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::Replica;

/// Between two questions to a replica that is ready, and to one that is not.
const READY_EVERY: Duration = Duration::from_millis(500);
const UNREADY_EVERY: Duration = Duration::from_millis(100);
/// A replica that does not answer within this is not ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Keeps a replica's state current until it is forgotten.
pub(super) async fn watch_load(replica: Arc<Replica>, changes: watch::Sender<u64>) {
    let forgotten = replica.forgotten.clone();
    forgotten.run_until_cancelled(ask_forever(&replica, &changes)).await;
}

async fn ask_forever(replica: &Replica, changes: &watch::Sender<u64>) {
    let mut client = replica.client();
    loop {
        let info = match timeout(ANSWER_WITHIN, client.get_info(GetInfoRequest {})).await {
            Ok(Ok(info)) => info.into_inner(),
            Ok(Err(_)) | Err(_) => Default::default(),
        };
        if replica.note(&info) {
            tracing::info!(replica = %replica.id(), ready = info.ready, "a replica changed");
            changes.send_modify(|count| *count += 1);
        }
        sleep(if info.ready { READY_EVERY } else { UNREADY_EVERY }).await;
    }
}
