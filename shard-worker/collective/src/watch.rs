//! Waiting for a device: a bounded spin, then short sleeps.

use std::{
    hint, thread,
    time::{Duration, Instant},
};

use crate::CollectiveError;

/// Work that is as good as done is seen at once; a whole step is not worth a core.
const SPIN: Duration = Duration::from_micros(200);
const NAP: Duration = Duration::from_micros(20);

/// Waits until `done` says true, for at most `limit`, and as long as `check` finds nothing wrong.
pub(crate) fn watch(
    limit: Duration,
    done: &mut dyn FnMut() -> Result<bool, String>,
    mut check: impl FnMut() -> Result<(), CollectiveError>,
) -> Result<(), CollectiveError> {
    let start = Instant::now();
    loop {
        let is_done = done().map_err(CollectiveError::Device)?;
        // Work that was aborted looks done, so what is wrong is asked after.
        check()?;
        let elapsed = start.elapsed();
        match (is_done, elapsed < limit, elapsed < SPIN) {
            (true, _, _) => return Ok(()),
            (false, false, _) => return Err(CollectiveError::Overdue { deadline_ms: limit.as_millis() as u64 }),
            (false, true, true) => hint::spin_loop(),
            (false, true, false) => thread::sleep(NAP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AbortHandle;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_done_at_last_is_waited_for() {
        let mut asked = 0;
        let mut done = || {
            asked += 1;
            Ok(asked == 1000)
        };
        assert_eq!(watch(LONG, &mut done, || Ok(())), Ok(()));
        assert_eq!(asked, 1000);
    }

    #[test]
    fn what_is_never_done_is_overdue() {
        let limit = Duration::from_millis(30);
        assert_eq!(watch(limit, &mut || Ok(false), || Ok(())), Err(CollectiveError::Overdue { deadline_ms: 30 }));
    }

    #[test]
    fn work_that_an_abort_ended_is_not_done() {
        let abort = AbortHandle::new();
        let mut done = || {
            abort.abort();
            Ok(true)
        };
        assert_eq!(watch(LONG, &mut done, || abort.check()), Err(CollectiveError::Aborted));
    }

    #[test]
    fn a_device_that_fails_is_heard() {
        let mut done = || Err("an illegal address".to_owned());
        assert_eq!(watch(LONG, &mut done, || Ok(())), Err(CollectiveError::Device("an illegal address".into())));
    }
}
