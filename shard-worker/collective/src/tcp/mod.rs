//! Ranks of several hosts, over TCP.
//!
//! The ranks are the corners of a hypercube: rank `r` has a link to `r ^ 1`, `r ^ 2` and `r ^ 4`. Going through the
//! dimensions in order, with the lower corner's numbers first, adds them as the binary tree in rank order does.

mod join;
mod link;
mod poll;

use std::sync::{Arc, Weak};

use tessera_types::Rank;

use crate::{AbortHandle, Collective, CollectiveError, GroupConfig, call::Call, pieces::pieces};
use link::{Link, Patience};

/// Numbers that are under way at a time: what one exchange needs beside the caller's buffer.
const PIECE_NUMBERS: usize = 1 << 20;
/// From here on each rank adds a part only: twice the exchanges, but half the bytes or less.
const SHARED_NUMBERS: usize = 16 * 1024;

/// The TCP collective of one rank.
pub(crate) struct Tcp {
    rank: usize,
    size: usize,
    /// To `rank ^ (1 << k)`, by `k`.
    links: Arc<Vec<Link>>,
    sequence: u32,
    scratch: Vec<f32>,
    patience: Patience,
}

impl Tcp {
    /// Joins the group; returns when every rank is there.
    pub(crate) fn join(
        config: &GroupConfig,
        addresses: &[std::net::SocketAddr],
        abort: AbortHandle,
    ) -> Result<Self, CollectiveError> {
        let (rank, size) = (usize::from(config.rank.0), config.size);
        let patience = Patience::new(config.deadline, abort);
        let links = Arc::new(join::links(config, addresses, &patience)?);
        let mut tcp = Self { rank, size, links, sequence: 0, scratch: Vec::new(), patience };
        let links = Arc::downgrade(&tcp.links);
        tcp.patience.abort.on_abort(move || {
            if let Some(links) = Weak::upgrade(&links) {
                links.iter().for_each(Link::close);
            }
        });
        tcp.together(|tcp| tcp.reduce(Call::join(), 0, &mut []))?;
        Ok(tcp)
    }

    /// Runs an operation. A rank that failed closes its links: the others would wait for it in vain.
    fn together(&mut self, operation: impl FnOnce(&mut Self) -> Result<(), CollectiveError>) -> Result<(), CollectiveError> {
        let done = self.patience.abort.check().and_then(|()| operation(self));
        done.inspect_err(|_| self.links.iter().for_each(Link::close))
    }

    /// Whether this rank is the lower corner in a dimension.
    fn is_lower(&self, dimension: usize) -> bool {
        self.rank & (1 << dimension) == 0
    }

    /// Gives `send` to the neighbour in a dimension and gets as much as `receive` holds.
    fn exchange(&mut self, call: Call, dimension: usize, send: &[u8], receive: &mut [u8]) -> Result<(), CollectiveError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.links[dimension].exchange(&self.patience, call, self.sequence, Some(send), Some(receive))
    }

    /// Sums whole vectors in every dimension from this one on.
    fn reduce(&mut self, call: Call, dimension: usize, values: &mut [f32]) -> Result<(), CollectiveError> {
        for dimension in dimension..self.links.len() {
            self.add(call, dimension, values, None)?;
        }
        Ok(())
    }

    /// Adds what the neighbour has of `keep` to it, and gives it `give`; without `give` both keep all.
    fn add(&mut self, call: Call, dimension: usize, keep: &mut [f32], give: Option<&[f32]>) -> Result<(), CollectiveError> {
        let mut theirs = std::mem::take(&mut self.scratch);
        theirs.resize(keep.len(), 0.0);
        let send = bytemuck::cast_slice(give.unwrap_or(keep));
        self.exchange(call, dimension, send, bytemuck::cast_slice_mut(&mut theirs))?;
        // Two numbers have the same sum in either order; the tree of more is in the order of the dimensions.
        keep.iter_mut().zip(&theirs).for_each(|(own, theirs)| *own += theirs);
        self.scratch = theirs;
        Ok(())
    }

    /// Halves the vector with each neighbour, sums the half it keeps, and gets the other half's sum back.
    fn reduce_shared(&mut self, call: Call, dimension: usize, values: &mut [f32]) -> Result<(), CollectiveError> {
        if dimension == self.links.len() {
            return Ok(());
        }
        let (low, high) = values.split_at_mut(values.len() / 2);
        let (keep, give) = if self.is_lower(dimension) { (low, high) } else { (high, low) };
        self.add(call, dimension, keep, Some(give))?;
        self.reduce_shared(call, dimension + 1, keep)?;
        self.exchange(call, dimension, bytemuck::cast_slice(keep), bytemuck::cast_slice_mut(give))
    }

    /// Doubles in each dimension what this rank has, beginning with its own part.
    fn gather(&mut self, call: Call, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError> {
        let len = part.len();
        whole[self.rank * len..(self.rank + 1) * len].copy_from_slice(part);
        for dimension in 0..self.links.len() {
            let block = len << dimension;
            // Of the pair of blocks this rank has one and its neighbour the other.
            let pair = (self.rank >> (dimension + 1)) * 2 * block;
            let (low, high) = whole[pair..pair + 2 * block].split_at_mut(block);
            let (own, theirs) = if self.is_lower(dimension) { (low, high) } else { (high, low) };
            self.exchange(call, dimension, bytemuck::cast_slice(own), bytemuck::cast_slice_mut(theirs))?;
        }
        Ok(())
    }

    /// Passes the root's bytes on, dimension by dimension: who has them gives them to the neighbour.
    fn spread(&mut self, call: Call, root: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let place = self.rank ^ root;
        for dimension in 0..self.links.len() {
            self.sequence = self.sequence.wrapping_add(1);
            let (send, receive) = match place >> dimension {
                0 => (Some(&*bytes), None),
                1 => (None, Some(&mut *bytes)),
                _ => continue,
            };
            self.links[dimension].exchange(&self.patience, call, self.sequence, send, receive)?;
        }
        Ok(())
    }
}

impl Collective for Tcp {
    fn rank(&self) -> Rank {
        Rank(self.rank as u16)
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let call = Call::all_reduce(values);
        self.together(|tcp| {
            for piece in pieces(values.len(), PIECE_NUMBERS) {
                let run = &mut values[piece];
                if run.len() < SHARED_NUMBERS { tcp.reduce(call, 0, run)? } else { tcp.reduce_shared(call, 0, run)? }
            }
            Ok(())
        })
    }

    fn all_gather(&mut self, part: &[f32], whole: &mut [f32]) -> Result<(), CollectiveError> {
        let call = Call::all_gather(self.size, part, whole)?;
        self.together(|tcp| tcp.gather(call, part, whole))
    }

    fn broadcast(&mut self, root: Rank, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let root = usize::from(root.0);
        let call = Call::broadcast(self.size, root, bytes.len())?;
        self.together(|tcp| tcp.spread(call, root, bytes))
    }

    fn abort_handle(&self) -> AbortHandle {
        self.patience.abort.clone()
    }
}
