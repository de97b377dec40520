//! The loop that drives a replica: schedule, run, apply; and between groups, wait.

use std::{
    mem::take,
    sync::Arc,
    time::{Duration, Instant},
};

use tessera_engine::{ConfigError, Engine, Event};
use tessera_proto::number_format;
use tessera_registry::Registry;
use tessera_service::{Health, Phase, metrics as names};
use tessera_types::{ModelSpec, SequenceId, StepOutput};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{error, info, warn};

use crate::{
    admission::Ask,
    config::{Config, StepTokens},
    group::{FormError, Former, Group, Loss, Siblings},
    metrics::Metrics,
    service::Command,
    session::{Message, Sessions, Weights, event_bound},
    state::{Condition, GroupState, ReplicaState},
    status::{self, away},
};

/// How often the house is kept while nothing happens: listeners that left, deadlines, the end.
const TICK: Duration = Duration::from_millis(50);
/// How long requests wait for the next group where another replica could take them.
const HAND_OVER: Duration = Duration::from_secs(1);
/// Groups that may be lost in a row without a token between them before their requests are given back.
const BARREN: u32 = 3;

/// One replica's engine, the streams it feeds, and what others see of it.
pub(crate) struct Driver {
    config: Arc<Config>,
    engine: Engine,
    sessions: Sessions,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<ReplicaState>,
    group: watch::Sender<GroupState>,
    health: Health,
    registry: Registry,
    siblings: Siblings,
    stop: CancellationToken,
    start: Instant,
    model: Option<Arc<ModelSpec>>,
    /// Since when there is no group; `None` while there is one.
    alone_since: Option<Instant>,
    draining_since: Option<Instant>,
    /// The bound of this drain.
    drain: Duration,
    /// Groups lost since the last token came.
    barren: u32,
    metrics: Metrics,
}

/// What a driver is connected to.
pub(crate) struct Wires {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) state: watch::Sender<ReplicaState>,
    pub(crate) group: watch::Sender<GroupState>,
    pub(crate) health: Health,
    pub(crate) registry: Registry,
    pub(crate) siblings: Siblings,
    pub(crate) stop: CancellationToken,
}

impl Driver {
    pub(crate) fn new(config: Arc<Config>, wires: Wires) -> Result<Self, ConfigError> {
        // Stands in until the first group says how large its cache is; nothing is submitted before.
        let engine = Engine::new(config.engine(&ModelSpec::bench_1b(), 1, StepTokens::default()))?;
        let metrics = Metrics::new(&config.replica, config.tp);
        let Wires { commands, state, group, health, registry, siblings, stop } = wires;
        Ok(Self {
            engine,
            sessions: Sessions::default(),
            commands,
            state,
            group,
            health,
            registry,
            siblings,
            stop,
            start: Instant::now(),
            model: None,
            alone_since: Some(Instant::now()),
            draining_since: None,
            drain: config.timeouts.drain,
            barren: 0,
            metrics,
            config,
        })
    }

    /// Until it is told to stop, or the model cannot be served at all.
    pub(crate) async fn run(mut self, mut former: Former) -> Result<(), RunError> {
        let mut last = None;
        let ended = loop {
            let mut group = match self.wait_for_group(&mut former, last.take()).await {
                Ok(Some(group)) => group,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
            if let Err(error) = self.begin(&group) {
                group.release().await;
                break Err(error.into());
            }
            match self.drive(&mut group, &former).await {
                Ok(()) => {
                    group.release().await;
                    break Ok(());
                }
                Err(loss) => {
                    self.lose(&group, &loss);
                    // The first to fail is seldom the one to blame; requests come and go meanwhile.
                    let _ = self.meanwhile(group.hear_out(&loss)).await;
                    self.note_loss(&group, &loss);
                    last = Some((group, loss));
                }
            }
        };
        self.fail_all(&away("the replica has stopped"));
        self.group.send_replace(GroupState::Stopped);
        ended
    }

    /// The step loop; ends with a loss, or when the replica was told to stop and nothing is left.
    async fn drive(&mut self, group: &mut Group, former: &Former) -> Result<(), Loss> {
        while !self.is_drained() {
            while let Some(plan) = self.engine.schedule(self.now()) {
                group.send(plan)?;
            }
            tokio::select! {
                output = group.next() => self.apply(output?)?,
                Some(command) = self.commands.recv() => self.obey(command),
                () = sleep(TICK) => {}
            }
            self.keep_house();
            if self.draining_since.is_none()
                && let Some(change) = former.better(group)
            {
                return Err(change);
            }
        }
        Ok(())
    }

    fn apply(&mut self, output: StepOutput) -> Result<(), Loss> {
        if !output.sampled.is_empty() {
            self.barren = 0;
        }
        self.engine.apply(self.now(), output)?;
        self.health.progressed();
        Ok(())
    }

    /// Forms a group. `None` when told to stop.
    async fn wait_for_group(&mut self, former: &mut Former, last: Option<(Group, Loss)>) -> Result<Option<Group>, FormError> {
        self.meanwhile(former.form(last)).await.transpose()
    }

    /// Waits for something while requests come and go. `None` when told to stop.
    async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(something);
        loop {
            tokio::select! {
                done = &mut something => return Some(done),
                Some(command) = self.commands.recv() => self.obey(command),
                () = sleep(TICK) => {}
            }
            self.keep_house();
            if self.draining_since.is_some() {
                return None;
            }
        }
    }

    /// Starts a group off: with an empty engine the first time, with everything that ran before otherwise, unless that
    /// ran on other weights.
    fn begin(&mut self, group: &Group) -> Result<(), ConfigError> {
        let same = self.model.as_ref().map(|spec| *spec == group.spec && self.state.borrow().fingerprint == group.fingerprint);
        if same == Some(false) {
            warn!(epoch = %group.epoch, "the weights have changed; what ran on the old ones is given back to the routers");
            self.fail_all(&away("the weights have changed"));
        }
        if same != Some(true) {
            self.engine = Engine::new(self.config.engine(&group.spec, group.kv_blocks, group.step_tokens))?;
        }
        // Other workers may have less room for what a step computes with.
        self.engine.bound_steps(self.config.step_tokens(group.step_tokens));
        self.engine.reset(self.now(), group.epoch, group.kv_blocks as usize);
        let cause = if self.model.is_none() { "start" } else { "loss" };
        metrics::counter!(names::GROUPS_FORMED_TOTAL, "cause" => cause).increment(1);
        self.sessions.resumed();
        self.model = Some(group.spec.clone());
        self.alone_since = None;
        self.health.enter(Phase::Serving);
        self.state.send_modify(|state| {
            (state.epoch, state.workers, state.formed) = (group.epoch, group.workers(), Some(Instant::now()));
            (state.spec, state.fingerprint) = (Some(group.spec.clone()), group.fingerprint.clone());
            state.groups += 1;
        });
        self.group.send_replace(GroupState::Ready { epoch: group.epoch, kv_blocks: group.kv_blocks });
        self.keep_house();
        Ok(())
    }

    fn lose(&mut self, group: &Group, loss: &Loss) {
        if loss.is_planned() {
            info!(%loss, "the group is re-formed; what was running is replayed");
        } else {
            error!(%loss, "the group was lost; what was running is replayed");
            self.barren += 1;
        }
        if self.barren >= BARREN {
            // Perhaps one of them is what no group survives; the routers know how often each was tried.
            self.fail_all(&Status::internal(format!("{BARREN} groups in a row were lost without a token: {loss}")));
            self.barren = 0;
        }
        self.state.send_modify(|state| state.workers.clear());
        self.alone_since = Some(Instant::now());
        if self.draining_since.is_none() {
            self.health.enter(Phase::Starting);
        }
        self.note_loss(group, loss);
        self.keep_house();
    }

    /// Tells who is to blame, as far as that is known by now.
    fn note_loss(&mut self, group: &Group, loss: &Loss) {
        let (ranks, problem) = group.lost(loss);
        self.state.send_modify(|state| state.last_loss.clone_from(&problem));
        self.group.send_replace(GroupState::Lost { ranks, problem });
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(ask, reply) => {
                let answer = self.submit(*ask);
                // A router that no longer waits has dropped its end; the session is then found abandoned.
                let _ = reply.send(answer);
            }
            Command::Stop { request, index } => {
                if let Some(sequence) = self.sessions.sequence(&request, index) {
                    self.engine.cancel(self.now(), sequence);
                }
            }
            Command::Drain { bound } => {
                self.drain = bound.unwrap_or(self.config.timeouts.drain);
                self.stop.cancel();
            }
        }
    }

    fn submit(&mut self, ask: Ask) -> Result<mpsc::Receiver<Message>, Status> {
        let Ask { id, mut request, patience } = ask;
        if self.draining_since.is_some() {
            return Err(away("the replica is stopping"));
        }
        if self.model.is_none() || self.is_past_recovery() {
            return Err(away("the group is forming"));
        }
        if self.sessions.contains(&id) {
            return Err(Status::already_exists(format!("request {id} runs already")));
        }
        let now = self.now();
        request.deadline = patience.map(|patience| now + patience);
        let bound = event_bound(&request, self.engine.config().max_context);
        let admission = self.engine.submit(now, request).map_err(|refusal| status::refusal(&refusal))?;
        let format = number_format(&self.config.dtype, &self.config.quantization, &self.config.kv_cache_dtype);
        let weights = Weights { fingerprint: self.state.borrow().fingerprint.clone(), format };
        Ok(self.sessions.open(id, admission, bound, weights))
    }

    /// Everything that follows from what has happened: deadlines, listeners that left, events, the end.
    fn keep_house(&mut self) {
        let now = self.now();
        if self.stop.is_cancelled() && self.draining_since.is_none() {
            info!("draining");
            self.draining_since = Some(Instant::now());
            self.health.enter(Phase::Draining);
        }
        self.engine.tick(now);
        let abandoned = self.sessions.abandoned();
        self.cancel(abandoned);
        if self.is_past_recovery() || self.is_past_drain() {
            self.fail_all(&away("the replica has no workers, or is stopping"));
        }
        self.publish();
    }

    /// Tells listeners what the engine has told; sequences that lose their listener by it are cancelled.
    fn tell(&mut self) {
        loop {
            let events = self.engine.take_events();
            if events.is_empty() {
                return;
            }
            for event in events {
                if let Event::RequestFinished { timings, .. } = &event {
                    metrics::histogram!(names::QUEUE_SECONDS).record(timings.queue.as_secs_f64());
                }
                let orphans = self.sessions.tell(event);
                orphans.into_iter().for_each(|sequence| self.engine.cancel(self.now(), sequence));
            }
        }
    }

    fn cancel(&mut self, sequences: Vec<SequenceId>) {
        sequences.into_iter().for_each(|sequence| self.engine.cancel(self.now(), sequence));
        self.tell();
    }

    fn fail_all(&mut self, status: &Status) {
        let orphans = self.sessions.fail_all(status);
        self.cancel(orphans);
    }

    fn publish(&mut self) {
        let stats = self.engine.stats();
        let (lost, problem) = match &*self.group.borrow() {
            GroupState::Lost { ranks, problem } => (ranks.clone(), problem.clone()),
            _ => Default::default(),
        };
        let registry_away = self.registry.away_since().map(Into::into);
        let condition = Condition {
            max_context: self.engine.config().context(),
            kv_blocks: stats.blocks_total,
            kv_blocks_used: stats.blocks_used,
            running: stats.running,
            waiting: stats.waiting,
            queued_tokens: stats.queued_tokens,
            ready: self.alone_since.is_none() && self.draining_since.is_none(),
            draining: self.draining_since.is_some(),
        };
        self.health.work_waits(!self.engine.is_idle());
        self.state.send_if_modified(|state| {
            let now = (condition, lost, problem, registry_away);
            let before = (state.condition, take(&mut state.lost), take(&mut state.problem), state.registry_away);
            let changed = before != now;
            (state.condition, state.lost, state.problem, state.registry_away) = now;
            changed
        });
        self.metrics.publish(&stats, &self.state.borrow());
    }

    /// Whether requests had better go elsewhere: soon where another replica serves, else only after long.
    fn is_past_recovery(&self) -> bool {
        let Some(alone) = self.alone_since.map(|since| since.elapsed()) else { return false };
        alone > self.config.timeouts.recovery || (alone > HAND_OVER && self.siblings.serve())
    }

    fn is_past_drain(&self) -> bool {
        self.draining_since.is_some_and(|since| since.elapsed() > self.drain)
    }

    fn is_drained(&self) -> bool {
        self.draining_since.is_some() && self.sessions.is_empty()
    }

    /// The engine's clock.
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Why a driver ended by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Form(#[from] FormError),
}
