//! How an image lies in patches and in tokens.

use serde::{Deserialize, Serialize};

use crate::ImageKey;

/// An image's patches: `rows` by `cols`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// Patches from top to bottom, at least 1.
    pub rows: u32,
    /// Patches from left to right, at least 1.
    pub cols: u32,
}

impl Grid {
    /// Patches, which is also the number of feature rows the encoder makes.
    pub fn patches(self) -> usize {
        self.rows as usize * self.cols as usize
    }

    /// Prompt tokens: each row of `[IMG]`s ends with an `[IMG_BREAK]`, the last with `[IMG_END]`.
    pub fn tokens(self) -> usize {
        self.rows as usize * (self.cols as usize + 1)
    }

    /// The feature row behind the `offset`-th token of the image; `None` for a break or the end.
    pub fn feature_of(self, offset: usize) -> Option<usize> {
        let width = self.cols as usize + 1;
        let (row, col) = (offset / width, offset % width);
        (col < self.cols as usize).then_some(row * self.cols as usize + col)
    }
}

/// An image in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedImage {
    /// Which encoder output fills the `[IMG]` tokens.
    pub key: ImageKey,
    /// Position of the first `[IMG]` in the sequence.
    pub at: u32,
    /// Patches.
    pub grid: Grid,
}

impl PlacedImage {
    /// Position just behind the image's last token.
    pub fn end(&self) -> usize {
        self.at as usize + self.grid.tokens()
    }

    /// Whether a run of positions `[start, end)` touches the image.
    pub fn overlaps(&self, start: usize, end: usize) -> bool {
        start < self.end() && (self.at as usize) < end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_count_a_break_for_every_row() {
        let grid = Grid { rows: 3, cols: 4 };
        assert_eq!((grid.patches(), grid.tokens()), (12, 15));
    }

    #[test]
    fn features_skip_the_breaks() {
        let grid = Grid { rows: 2, cols: 2 };
        let features: Vec<_> = (0..grid.tokens()).map(|offset| grid.feature_of(offset)).collect();
        assert_eq!(features, [Some(0), Some(1), None, Some(2), Some(3), None]);
    }
}
