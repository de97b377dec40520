//! Loading the model on all ranks at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tessera_proto::{
    MAX_MESSAGE_BYTES,
    internal::{self as wire, load_event::Event, shard_worker_client::ShardWorkerClient},
};
use tessera_service::trace_context;
use tessera_types::ModelSpec;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};
use tonic::{Request, Status};
use tracing::{Instrument, info, info_span};

use super::{FormError, Member, RankError, pace::Pace};
use crate::{config::StepTokens, state::GroupState};

/// After one rank's failure, how long the others' is waited for.
const HEAR_OUT: Duration = Duration::from_secs(1);

/// What all ranks loaded.
pub(super) struct Model {
    pub(super) spec: Arc<ModelSpec>,
    /// Of the weights' contents.
    pub(super) fingerprint: String,
    /// The least of any rank.
    pub(super) kv_blocks: u32,
    pub(super) step_tokens: StepTokens,
}

/// How far the ranks are together.
struct Progress {
    /// Bytes done and in all, by rank.
    ranks: Vec<(u64, u64)>,
    moved: Instant,
}

impl Progress {
    /// Of all ranks, as far as they have said.
    fn sum(&self) -> (u64, u64) {
        self.ranks.iter().fold((0, 0), |sum, rank| (sum.0 + rank.0, sum.1 + rank.1))
    }

    /// The rank that has done the least.
    fn behind(&self) -> Option<usize> {
        (0..self.ranks.len()).min_by_key(|&rank| self.ranks[rank].0)
    }
}

/// Loads on every rank and hears every rank out; when one has failed, the others for a moment only, since they may
/// be waiting for it. Ends early, too, when no rank gets on for `stall`.
pub(super) async fn load(
    members: &[Member],
    requests: Vec<wire::LoadRequest>,
    stall: Duration,
    state: &watch::Sender<GroupState>,
) -> Result<Model, FormError> {
    let (progress, moved) = watch::channel(Progress { ranks: vec![(0, 0); members.len()], moved: Instant::now() });
    let span = info_span!("load_group", ranks = members.len(), epoch = requests.first().map(|request| request.epoch));
    let ranks = members.iter().zip(requests).map(|(member, request)| load_rank(member, request, &progress));
    tokio::select! {
        heard = hear(ranks.collect()).instrument(span.clone()) => heard.and_then(agree),
        () = stalled(moved, stall, state).instrument(span.clone()) => {
            Err(FormError::Load { ranks: members.iter().map(|member| late(member, stall)).collect() })
        }
    }
}

async fn hear(
    mut ranks: FuturesUnordered<impl Future<Output = Result<wire::Loaded, RankError>>>,
) -> Result<Vec<wire::Loaded>, FormError> {
    let mut loaded = Vec::new();
    while let Some(rank) = ranks.next().await {
        match rank {
            Ok(rank) => loaded.push(rank),
            Err(first) => {
                let others = ranks.take_until(sleep(HEAR_OUT)).filter_map(async |rank| rank.err()).collect::<Vec<_>>();
                let mut ranks = others.await;
                ranks.push(first);
                ranks.sort_by_key(|error| error.rank);
                return Err(FormError::Load { ranks });
            }
        }
    }
    Ok(loaded)
}

async fn load_rank(
    member: &Member,
    request: wire::LoadRequest,
    progress: &watch::Sender<Progress>,
) -> Result<wire::Loaded, RankError> {
    let failed = |status: Status| RankError::new(member, &status);
    let mut client = ShardWorkerClient::new(member.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut request = Request::new(request);
    trace_context::inject(request.metadata_mut());
    let mut events = client.load(request).await.map_err(failed)?.into_inner();
    while let Some(message) = events.message().await.map_err(failed)? {
        match message.event {
            Some(Event::Progress(done)) => progress.send_modify(|progress| {
                progress.ranks[usize::from(member.rank.0)] = (done.bytes_done, done.bytes_total);
                progress.moved = Instant::now();
            }),
            Some(Event::Loaded(loaded)) => return Ok(loaded),
            None => {}
        }
    }
    Err(failed(Status::unavailable("ended loading without a result")))
}

/// Tells of progress; ends when there was none for too long.
async fn stalled(mut progress: watch::Receiver<Progress>, stall: Duration, state: &watch::Sender<GroupState>) {
    let began = Instant::now();
    let mut pace = Pace::new(began);
    loop {
        let (moved, done, behind) = {
            let now = progress.borrow_and_update();
            (now.moved, now.sum(), now.behind())
        };
        state.send_replace(GroupState::Loading { bytes_done: done.0, bytes_total: done.1 });
        if pace.is_due(Instant::now(), done) {
            let percent = (100 * done.0).checked_div(done.1).unwrap_or(0);
            let gb_per_second = done.0 as f64 / 1e9 / began.elapsed().as_secs_f64();
            info!(bytes_done = done.0, bytes_total = done.1, behind, "loading: {percent} %, {gb_per_second:.2} GB/s");
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = sleep_until(pace.latest().into()) => {}
            () = sleep_until((moved + stall).into()) => return,
        }
    }
}

fn late(member: &Member, stall: Duration) -> RankError {
    RankError::new(member, &Status::deadline_exceeded(format!("no rank got on with loading for {stall:?}")))
}

fn agree(loaded: Vec<wire::Loaded>) -> Result<Model, FormError> {
    let specs = loaded.iter().map(|rank| serde_json::from_str::<ModelSpec>(&rank.model_spec));
    let mut specs = specs.collect::<Result<Vec<_>, _>>().map_err(|error| FormError::Shape(error.to_string()))?;
    let Some(spec) = specs.pop() else { return Err(FormError::Shape("there are no ranks".into())) };
    if specs.iter().any(|other| *other != spec) {
        return Err(FormError::Shape(loaded.into_iter().map(|rank| rank.model_spec).collect::<Vec<_>>().join(" and ")));
    }
    let fingerprint = loaded.first().map_or_else(String::new, |first| first.model_fingerprint.clone());
    if loaded.iter().any(|rank| rank.model_fingerprint != fingerprint) {
        return Err(FormError::Shape("the checkpoint's files differ between the ranks' hosts".into()));
    }
    let step_tokens = StepTokens::of(&loaded);
    match loaded.iter().map(|rank| rank.kv_blocks).min() {
        Some(kv_blocks) if kv_blocks > 0 => Ok(Model { spec: Arc::new(spec), fingerprint, kv_blocks, step_tokens }),
        _ => Err(FormError::Shape("a rank has no room for a single cache block".into())),
    }
}
