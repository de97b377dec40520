//! Weights in panels of 32 outputs.
//!
//! A panel is a line of 32 weights for each step of the inner dimension, so that a lane owns an output and the whole
//! panel is one sequential read. The last panel is padded with zeros.
#![allow(unsafe_code)]

use crate::cpu::buffer::Buffer;
use crate::cpu::element::{Element, PANEL};
use crate::cpu::parts::Parts;
use crate::cpu::pool::Pool;
use crate::{DeviceError, MatrixSource};

/// Weights `[panels][inner][PANEL]`.
pub(super) struct Packed<E: Element> {
    inner: usize,
    panels: usize,
    numbers: Buffer<E>,
}

impl<E: Element> Packed<E> {
    /// Packs `sources`, stacked to `[out, inner]`.
    pub(super) fn new(pool: &Pool, sources: &[MatrixSource<'_>], out: usize, inner: usize) -> Result<Self, DeviceError> {
        let panels = out.div_ceil(PANEL);
        let mut numbers = Buffer::zeroed(panels * inner * PANEL, "a weight")?;
        let parts = Parts::new(&mut numbers);
        pool.run(out * inner, panels, |panel| {
            // SAFETY: a panel belongs to one task.
            let lines = unsafe { parts.claim(panel * inner * PANEL..(panel + 1) * inner * PANEL) };
            fill(lines.as_chunks_mut().0, sources, panel * PANEL);
        })?;
        Ok(Self { inner, panels, numbers })
    }

    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    pub(super) fn panels(&self) -> usize {
        self.panels
    }

    /// The lines of a panel.
    pub(super) fn panel(&self, panel: usize) -> &[[E; PANEL]] {
        let lines: &[[E; PANEL]] = self.numbers.as_chunks().0;
        &lines[panel * self.inner..(panel + 1) * self.inner]
    }
}

/// Fills a panel with outputs from `first` on.
fn fill<E: Element>(lines: &mut [[E; PANEL]], sources: &[MatrixSource<'_>], first: usize) {
    /// Steps transposed at a time: the reads stay sequential, the writes in the nearest cache.
    const STEPS: usize = 64;
    let inner = lines.len();
    let mut start = 0;
    for source in sources {
        for row in first.max(start)..(first + PANEL).min(start + source.rows.len()) {
            let slot = E::slot(row - first);
            let mut numbers = [E::default(); STEPS];
            for step in (0..inner).step_by(STEPS) {
                let steps = STEPS.min(inner - step);
                source.read(row - start, step..step + steps, &mut numbers[..steps]);
                for (line, number) in lines[step..step + steps].iter_mut().zip(numbers) {
                    line[slot] = number;
                }
            }
        }
        start += source.rows.len();
    }
}
