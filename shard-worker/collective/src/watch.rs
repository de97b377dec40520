//! Waiting for a device: a bounded spin, then short sleeps.

use std::{
    hint, thread,
    time::{Duration, Instant},
};

use crate::{CollectiveError, LastResort};

/// Work that is as good as done is seen at once; a whole step is not worth a core.
const SPIN: Duration = Duration::from_micros(200);
const NAP: Duration = Duration::from_micros(20);

/// Waits until `done` says true, for at most `limit`.
pub(crate) fn watch(
    limit: Duration,
    operation: &'static str,
    mut done: impl FnMut() -> Result<bool, CollectiveError>,
) -> Result<(), CollectiveError> {
    let start = Instant::now();
    while !done()? {
        match start.elapsed() {
            elapsed if elapsed >= limit => {
                return Err(CollectiveError::Overdue { operation, deadline_ms: limit.as_millis() as u64 });
            }
            elapsed if elapsed < SPIN => hint::spin_loop(),
            _ => thread::sleep(NAP),
        }
    }
    Ok(())
}

/// Waits for a device whose group has ended. What it still does there is short, unless it hangs.
pub(crate) fn until_idle(last_resort: &LastResort, is_idle: &mut dyn FnMut() -> Result<bool, String>) {
    let idle = watch(last_resort.limit(), "the device's last work", || is_idle().map_err(CollectiveError::Device));
    if let Err(CollectiveError::Overdue { deadline_ms, .. }) = idle {
        last_resort.follow(&format!("the device was still at work {deadline_ms} ms after its group had ended"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_done_at_last_is_waited_for() {
        let mut asked = 0;
        let done = || {
            asked += 1;
            Ok(asked == 1000)
        };
        assert_eq!(watch(LONG, "work", done), Ok(()));
        assert_eq!(asked, 1000);
    }

    #[test]
    fn what_is_never_done_is_overdue() {
        let overdue = CollectiveError::Overdue { operation: "work", deadline_ms: 30 };
        assert_eq!(watch(Duration::from_millis(30), "work", || Ok(false)), Err(overdue));
    }

    #[test]
    fn what_fails_is_not_waited_for() {
        assert_eq!(watch(LONG, "work", || Err(CollectiveError::Aborted)), Err(CollectiveError::Aborted));
    }
}
