//! Streams that are always open: every client asks one thing after the other, and compares what it gets.

mod pulse;
mod question;
mod stream;

pub use pulse::Silence;
pub use question::{Question, picture, questions, reference_of_the_first_picture};
pub use stream::{Answer, Broken, Lives, Sequence, ask};

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::fleet::{Door, Doors};

/// Between two attempts of a client whose router went away, or that was told to come back.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the streams may take to go on, or to end; far more than they need.
const SOON: Duration = Duration::from_secs(120);

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    doors: Doors,
    questions: Vec<Question>,
    stop: AtomicBool,
    lives: Vec<Lives>,
    report: Mutex<Report>,
    /// By client.
    answered: Vec<AtomicU64>,
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests whose answer is that of an undisturbed cluster.
    pub right: u64,
    /// Requests asked again because their own router was killed, or had left before they ended.
    pub asked_again: u64,
    /// Requests not accepted at first, with a time to come back at.
    pub refused: u64,
    /// What the last of them was told.
    pub last_refusal: String,
    /// Everything that should not be.
    pub failures: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { right, asked_again, refused, last_refusal, failures } = self;
        let failed = failures.len();
        write!(f, "{right} right, {asked_again} asked again at another router, {refused} refused for now, {failed} failed")?;
        if last_refusal.is_empty() { Ok(()) } else { write!(f, "; refused at last: {last_refusal}") }
    }
}

impl Load {
    /// Opens `streams` streams to the routers.
    pub fn start(doors: Doors, questions: &[Question], streams: usize) -> Self {
        let shared = Arc::new(Shared {
            doors,
            questions: questions.to_vec(),
            stop: AtomicBool::new(false),
            lives: (0..streams).map(|_| Lives::default()).collect(),
            report: Mutex::new(Report::default()),
            answered: (0..streams).map(|_| AtomicU64::new(0)).collect(),
        });
        let clients = (0..streams).map(|client| shared.clone().run(client)).collect();
        Self { shared, clients }
    }

    /// Waits until every client has got a token after now.
    ///
    /// # Errors
    /// Who has not.
    pub async fn flows(&self) -> Result<()> {
        let tokens = || self.shared.lives.iter().map(|lives| lives.pulse.tokens()).collect::<Vec<_>>();
        let (before, until) = (tokens(), Instant::now() + SOON);
        loop {
            let stuck: Vec<_> = before.iter().zip(tokens()).enumerate().filter(|(_, (before, now))| **before == *now).collect();
            if stuck.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < until, "clients that get no token: {stuck:?}; {:?}", self.shared.report.lock());
            sleep(PAUSE).await;
        }
    }

    /// Silences count from now on.
    pub fn mark(&self) {
        self.shared.lives.iter().for_each(|lives| lives.pulse.mark());
    }

    /// Each client's longest silence since the mark.
    pub fn silences(&self) -> Vec<Silence> {
        self.shared.lives.iter().map(|lives| lives.pulse.longest()).collect()
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    /// Waits until every client has been answered something that it asked after now.
    ///
    /// # Errors
    /// Who has not.
    pub async fn answers(&self) -> Result<()> {
        let answered = || self.shared.answered.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
        let (before, until) = (answered(), Instant::now() + SOON);
        loop {
            // Each had one request open: with two answered, the second was asked meanwhile.
            let stuck: Vec<_> =
                before.iter().zip(answered()).enumerate().filter(|(_, (before, now))| *now < **before + 2).collect();
            if stuck.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < until, "clients that get no answer: {stuck:?}; {:?}", self.shared.report.lock());
            sleep(PAUSE).await;
        }
    }

    /// What clients have seen up to now, in words.
    pub fn so_far(&self) -> String {
        let report = self.shared.report.lock();
        format!("{report} so far:\n{}", report.failures.join("\n"))
    }

    /// Lets every client finish what it asked, and tells what they saw.
    ///
    /// # Errors
    /// When one does not finish.
    pub async fn stop(mut self) -> Result<Report> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let all = async { while self.clients.join_next().await.is_some() {} };
        ensure!(timeout(SOON, all).await.is_ok(), "a client does not end; {:?}", self.shared.report.lock());
        Ok(self.shared.report.lock().clone())
    }
}

impl Shared {
    async fn run(self: Arc<Self>, client: usize) {
        for round in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let question = &self.questions[(client + round) % self.questions.len()];
            self.answer(client, client + round, question).await;
        }
    }

    /// Asks until it is answered, for as long as nobody but its own router is to blame.
    async fn answer(&self, client: usize, first: usize, question: &Question) {
        for attempt in first.. {
            let door = &self.doors[attempt % self.doors.len()];
            let lives = door.lives();
            if !door.is_open() {
                sleep(PAUSE / 10).await;
                continue;
            }
            let asked = ask(&door.address, &question.request, &self.lives[client]).await;
            if !self.note(question, door, lives, asked) {
                sleep(PAUSE).await;
                continue;
            }
            self.answered[client].fetch_add(1, Ordering::SeqCst);
            return;
        }
    }

    /// Takes down what came of a request; false when it is to be asked again.
    fn note(&self, question: &Question, door: &Door, lives: u64, asked: Result<Answer, Broken>) -> bool {
        let mut report = self.report.lock();
        let problem = match asked {
            Ok(answer) => question.answer.differs(&answer),
            Err(_) if door.lives() != lives => {
                report.asked_again += 1;
                return false;
            }
            // It was told to leave while the request was on its way there, or had more to say than it had time for.
            Err(Broken::Later(_) | Broken::Unreached(_) | Broken::Typed(_)) if !door.is_open() => {
                report.asked_again += 1;
                return false;
            }
            Err(Broken::Later(status)) => {
                report.refused += 1;
                report.last_refusal = format!("{}: {}", status.code(), status.message());
                return false;
            }
            Err(broken) => Some(broken.to_string()),
        };
        match problem {
            None => report.right += 1,
            Some(problem) => report.failures.push(format!("{} at {}: {problem}", question.name, door.address)),
        }
        true
    }
}
