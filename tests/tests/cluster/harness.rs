//! What every test of this binary does.

use anyhow::{Result, ensure};
use tessera_tests::{
    fleet::{Fleet, Plan},
    load::{Load, Question, Report, questions, reference_of_the_first_picture},
};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// One cluster at a time: there are few cores.
static ALONE: Mutex<()> = Mutex::const_new(());
static QUESTIONS: OnceCell<Vec<Question>> = OnceCell::const_new();
/// Streams that are always open.
pub(crate) const STREAMS: usize = 8;

pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// One of every kind, with the answers of an undisturbed cluster.
pub(crate) async fn asked() -> Result<&'static [Question]> {
    let asked = QUESTIONS.get_or_try_init(|| questions(1, 300)).await?;
    let picture = asked.iter().find(|question| question.name.starts_with("a picture")).expect("a picture");
    let tokens = &picture.answer.sequences[&0].tokens;
    ensure!(tokens.starts_with(&reference_of_the_first_picture()?), "the undisturbed answer is wrong: {tokens:?}");
    Ok(asked)
}

/// A fleet with streams open, before anything happens to it.
pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    pub(crate) load: Load,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    pub(crate) async fn of(plan: Plan) -> Result<Self> {
        let alone = alone().await;
        let questions = asked().await?;
        let fleet = Fleet::start(plan).await?;
        let load = Load::start(fleet.doors(), questions, STREAMS);
        load.flows().await?;
        Ok(Self { fleet, load, _alone: alone })
    }

    /// Ends the streams: all must have been right, and none refused.
    pub(crate) async fn ends_well(self) -> Result<Report> {
        self.load.flows().await?;
        let report = self.load.stop().await?;
        ensure!(report.failures.is_empty(), "{report}:\n{}", report.failures.join("\n"));
        ensure!(report.refused == 0 && report.right as usize >= STREAMS, "{report}");
        Ok(report)
    }
}
