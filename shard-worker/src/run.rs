//! One coordinator's stream of plans. When it ends, however it ends, so does the group whose plans it carried.

use std::{sync::Arc, time::Instant};

use tessera_proto::internal as wire;
use tessera_service::trace_context;
use tessera_types::{Epoch, StepPlan};
use tokio::sync::watch;
use tonic::Streaming;
use tracing::{Span, debug, info_span};

use crate::{
    fence::Fence,
    rank::{Answers, Command, Commands},
    work::Work,
};

pub(crate) struct Run {
    pub(crate) commands: Commands,
    pub(crate) fence: Arc<Fence>,
    pub(crate) work: Work,
    pub(crate) left: watch::Sender<Epoch>,
    pub(crate) answers: Answers<wire::StepResult>,
    /// Of the whole run, a child of the coordinator's.
    pub(crate) span: Span,
}

impl Run {
    /// Passes plans to the device thread until either direction of the stream ends. The group whose run it is may be
    /// told before any plan is.
    pub(crate) async fn follow(self, mut plans: Streaming<wire::StepPlan>, mut epoch: Option<Epoch>) {
        tokio::select! {
            () = self.pass_on(&mut plans, &mut epoch) => {}
            () = self.answers.closed() => debug!("the coordinator takes no more results"),
        }
        if let Some(epoch) = epoch {
            self.fence.leave(epoch);
            self.left.send_replace(epoch);
        }
    }

    async fn pass_on(&self, plans: &mut Streaming<wire::StepPlan>, epoch: &mut Option<Epoch>) {
        loop {
            let plan = match plans.message().await {
                Ok(Some(plan)) => StepPlan::try_from(plan),
                Ok(None) => return,
                Err(status) => return debug!(%status, "the coordinator is gone"),
            };
            let plan = match plan {
                Ok(plan) => Box::new(plan),
                Err(error) => {
                    // A stream that takes no more answers is ending anyway.
                    let _ = self.answers.try_send(Err(error.into()));
                    return;
                }
            };
            *epoch = Some(plan.epoch);
            let given = Instant::now();
            let Ok(place) = self.commands.reserve().await else { return };
            self.work.began();
            let span = self.step_span(&plan);
            place.send(Command::Step { plan, given, answers: self.answers.clone(), span });
        }
    }

    /// A step's span, made only where it goes to somebody: steps are many.
    fn step_span(&self, plan: &StepPlan) -> Span {
        if trace_context::is_sampled(&self.span) {
            info_span!(parent: &self.span, "step", step = plan.step.0, chunks = plan.chunks.len(), images = plan.encode.len())
        } else {
            Span::none()
        }
    }
}
