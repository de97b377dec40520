//! What a replica's weights are known by, and since when: whichever has had its weights longest decides which are served.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A replica that has said nothing for so long no longer decides: it may be gone, and nobody can be sent there.
const SILENCE: Duration = Duration::from_secs(15);

/// A replica's weights, as it told them.
#[derive(Debug, Default)]
pub(super) struct Weights(Option<Told>);

#[derive(Debug)]
struct Told {
    name: Arc<str>,
    /// Since when it has them, as far as that is known.
    since: Instant,
    /// When it last said so.
    last: Instant,
}

/// What weights are known by, from what a replica says; one that does not say is taken at its word.
pub(crate) fn weights(fingerprint: &str, format: &str) -> Option<Arc<str>> {
    (!fingerprint.is_empty()).then(|| format!("{fingerprint} in {format}").into())
}

impl Weights {
    /// Takes in what it says at `now`. The first that are heard of count from when its group was formed, `age` ago, so that
    /// routers agree whenever they were started; others than before from now on, and so do the same ones after a long
    /// silence: others may have been served meanwhile.
    pub(super) fn tell(&mut self, name: Option<Arc<str>>, age: Duration, now: Instant) {
        let before = self.0.take();
        self.0 = name.map(|name| {
            let since = match before {
                None => now.checked_sub(age).unwrap_or(now),
                Some(told) if told.name == name && told.is_heard(now) => told.since,
                Some(_) => now,
            };
            Told { name, since, last: now }
        });
    }

    /// What they are known by.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        self.0.as_ref().map(|told| told.name.clone())
    }

    /// Since when it has had which, unless it has been silent for long; one that does not answer once has what it had.
    pub(super) fn held(&self, now: Instant) -> Option<(Instant, Arc<str>)> {
        self.0.as_ref().filter(|told| told.is_heard(now)).map(|told| (told.since, told.name.clone()))
    }
}

impl Told {
    fn is_heard(&self, now: Instant) -> bool {
        now.duration_since(self.last) < SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_count_from_when_they_were_first_told_until_they_change_or_nothing_is_heard_for_long() {
        let (mut weights, start) = (Weights::default(), Instant::now());
        let second = |second| start + Duration::from_secs(second);
        let held = |name: &str, at| Some((second(at), name.into()));
        let mut told = |name: Option<&str>, age, at| {
            weights.tell(name.map(Into::into), Duration::from_secs(age), second(at));
            [0, 10, 20].map(|after| weights.held(second(at + after)))
        };
        assert_eq!(told(Some("a"), 4, 5), [held("a", 1), held("a", 1), None], "ten seconds of silence change nothing");
        assert_eq!(told(Some("a"), 0, 15)[0], held("a", 1), "a group that was formed anew with the same");
        assert_eq!(told(Some("b"), 9, 16)[0], held("b", 16));
        assert_eq!(told(Some("b"), 34, 50)[0], held("b", 50), "after a long silence");
        assert_eq!(told(None, 0, 51), [None, None, None]);
    }
}
