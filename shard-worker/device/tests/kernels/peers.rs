//! What a GPU offers to others of its group.

use tessera_device::{Device, PeerOffer};

use crate::{device, turn, workspace};

/// Words that say where in its memory a group's header lies, and the handle of that memory.
const PLACE: std::ops::Range<usize> = 10..12;
const HANDLE: std::ops::Range<usize> = 12..PeerOffer::WORDS;

/// A rank of the group before may be late, and must not write where the next group looks.
#[test]
fn each_group_has_a_header_of_its_own_in_the_one_window_which_outlives_the_device() {
    let _turn = turn();
    let offers = || {
        let device = device(workspace(), false);
        [device.offer_peers().unwrap(), device.offer_peers().unwrap()]
    };
    let all = [offers(), offers()].concat();
    for (at, offer) in all.iter().enumerate() {
        assert_eq!(offer.words()[HANDLE], all[0].words()[HANDLE], "another window");
        assert!(all[..at].iter().all(|before| before.words()[PLACE] != offer.words()[PLACE]), "the header of a group before");
    }
}
