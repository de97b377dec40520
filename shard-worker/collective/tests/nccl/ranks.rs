//! Ranks as processes, as the test sees them: this test's own executable, started again.

use std::{
    env,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use crate::child;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What a group of ranks does.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) size: usize,
    pub(crate) work: &'static str,
    pub(crate) deadline: Duration,
    /// More of the environment.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
}

impl Group {
    pub(crate) fn new(size: usize, work: &'static str) -> Self {
        Self { size, work, deadline: LONG, settings: Vec::new() }
    }

    /// Starts rank 0, which makes the id, then the others with it.
    pub(crate) fn start(&self) -> Vec<Rank> {
        let mut first = self.rank(0, "");
        let id = first.says("id");
        let others = (1..self.size).map(|rank| self.rank(rank, &id));
        std::iter::once(first).chain(others.collect::<Vec<_>>()).collect()
    }

    /// Starts one rank; the one without an id makes one.
    pub(crate) fn rank(&self, rank: usize, id: &str) -> Rank {
        let mut command = command(self.work);
        command.envs(tessera_test_gpu::environment(self.size));
        command.envs(self.settings.iter().copied()).env(child::ID, id).env(child::RANK, rank.to_string());
        command.env(child::SIZE, self.size.to_string()).env(child::DEADLINE, self.deadline.as_millis().to_string());
        Rank::start(&mut command)
    }
}

/// This executable as a child that does `work`.
pub(crate) fn command(work: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child::as_a_child", "--nocapture"]).env(child::WORK, work);
    command.stdout(Stdio::piped());
    command
}

/// A rank, killed at the latest when dropped.
pub(crate) struct Rank {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Rank {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What the rank says next under this title. A child that never says it ends by its own watchdog.
    pub(crate) fn says(&mut self, title: &str) -> String {
        self.next_line_of(&[title])[title.len() + 2..].to_owned()
    }

    /// What the rank says next under one of the titles, with its title.
    pub(crate) fn next_line_of(&mut self, titles: &[&str]) -> String {
        let wanted = |line: &String| titles.iter().any(|title| line.starts_with(&format!("{title}: ")));
        let said = self.lines.by_ref().map(Result::unwrap).find(wanted);
        said.unwrap_or_else(|| panic!("the rank ended without one of {titles:?}"))
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for the end of a rank that has nothing to complain of.
    pub(crate) fn ends_well(mut self) {
        let rest: Vec<_> = self.lines.by_ref().map_while(Result::ok).collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {rest:?}");
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
