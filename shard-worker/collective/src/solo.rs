//! A group of one.

use std::time::Duration;

use tessera_types::{DeviceSlice, Rank};

use crate::{
    AbortHandle, Collective, CollectiveError, GroupConfig,
    call::Call,
    watch::{until_idle, watch},
};

/// The collective of a rank that has no others: everything is done already, in either memory.
#[derive(Debug)]
pub struct Solo {
    deadline: Duration,
    abort: AbortHandle,
}

impl Default for Solo {
    fn default() -> Self {
        Self::new(GroupConfig::DEADLINE, AbortHandle::new())
    }
}

impl Solo {
    pub(crate) fn new(deadline: Duration, abort: AbortHandle) -> Self {
        Self { deadline, abort }
    }
}

impl Collective for Solo {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce_sum(&mut self, _values: &mut [f32]) -> Result<(), CollectiveError> {
        self.abort.check()
    }

    fn all_gather(&mut self, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError> {
        self.abort.check()?;
        Call::all_gather(1, part, whole)?;
        whole.copy_from_slice(part);
        Ok(())
    }

    fn broadcast(&mut self, root: Rank, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.abort.check()?;
        Call::broadcast(1, root.0.into(), bytes.len()).map(drop)
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn leave(&mut self, is_idle: &mut dyn FnMut() -> Result<bool, String>) {
        self.abort.abort();
        until_idle(&self.abort.last_resort(), is_idle);
    }

    fn joins_devices(&self) -> bool {
        true
    }

    fn all_reduce_device(&mut self, _values: DeviceSlice) -> Result<(), CollectiveError> {
        self.abort.check()
    }

    fn all_gather_device(&mut self, part: DeviceSlice, whole: DeviceSlice) -> Result<(), CollectiveError> {
        self.abort.check()?;
        if part != whole {
            return Err(CollectiveError::Mismatch(format!("a group of one gathers in place, not {part:?} into {whole:?}")));
        }
        Ok(())
    }

    fn broadcast_device(&mut self, root: Rank, values: DeviceSlice) -> Result<(), CollectiveError> {
        self.abort.check()?;
        Call::broadcast(1, root.0.into(), values.bytes()).map(drop)
    }

    fn watch(&mut self, done: &mut dyn FnMut() -> Result<bool, String>) -> Result<(), CollectiveError> {
        watch(self.deadline, "the work on the device", || {
            let is_done = done().map_err(CollectiveError::Device)?;
            self.abort.check().map(|()| is_done)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::LastResort;

    /// What the last resort was told when a group of one was left whose device answers so.
    fn told(is_idle: &mut dyn FnMut() -> Result<bool, String>) -> Option<String> {
        let (tell, told) = mpsc::channel();
        let act = move |why: &str| tell.send(why.to_owned()).unwrap();
        let abort = AbortHandle::with_last_resort(LastResort::new(Duration::from_millis(30), act));
        Solo::new(GroupConfig::DEADLINE, abort.clone()).leave(is_idle);
        assert!(abort.is_aborted());
        told.try_recv().ok()
    }

    #[test]
    fn a_device_that_never_ends_its_work_is_the_last_resorts() {
        let why = told(&mut || Ok(false)).unwrap();
        assert!(why.contains("still at work"), "{why}");
        let mut asked = 0;
        assert_eq!(
            told(&mut || {
                asked += 1;
                Ok(asked == 10)
            }),
            None
        );
        assert_eq!(told(&mut || Err("the device is gone".into())), None);
    }
}
