//! Complaints about what may last: at once, and then ever more seldom.

use std::time::{Duration, Instant};

/// Before a complaint is repeated for the first time; then twice as long, and so on up to the last.
const AGAIN: Duration = Duration::from_secs(30);
const SELDOM: Duration = Duration::from_secs(1800);

/// A complaint about something that may last: made at once, and the longer it lasts, the more seldom.
#[derive(Debug, Default)]
pub struct Complaint(Option<Made>);

#[derive(Debug)]
struct Made {
    kind: String,
    again: Instant,
    pause: Duration,
}

impl Complaint {
    /// Whether the problem is to be told of at `now`; if so, it counts as told. What is of the same kind is the same problem,
    /// in whatever words.
    pub fn is_due(&mut self, kind: &str, now: Instant) -> bool {
        let pause = match &self.0 {
            Some(made) if made.kind == kind && now < made.again => return false,
            Some(made) if made.kind == kind => (made.pause * 2).min(SELDOM),
            _ => AGAIN,
        };
        self.0 = Some(Made { kind: kind.to_owned(), again: now + pause, pause });
        true
    }

    /// The problem is over.
    pub fn settle(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_at_once_and_then_ever_more_seldom_and_what_changes_is_told_anew() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let mut told = |second: u64, problem: &str| complaint.is_due(problem, start + Duration::from_secs(second));
        let seconds: Vec<_> = (0..300).filter(|&second| told(second, "refused")).collect();
        assert_eq!(seconds, [0, 30, 90, 210]);
        assert!(told(300, "reset") && !told(301, "reset") && told(302, "refused"));
        let rest: Vec<_> = (303..20_000).filter(|&second| told(second, "refused")).collect();
        assert_eq!(rest.windows(2).map(|two| two[1] - two[0]).max(), Some(1800));
        complaint.settle();
        assert!(complaint.is_due("refused", start));
    }
}
