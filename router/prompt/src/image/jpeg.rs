//! What stands in a JPEG before its scans, and whether it is whole. The decoder fills in grey for what is missing; the
//! reference refuses such a file.

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];

/// What the segments before the scans tell; the most that it could be where they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Colours, as they are stored.
    pub(super) components: u8,
    /// The picture comes in more than one scan.
    pub(super) many_scans: bool,
}

/// The frame of a file whose decoded picture is grey, or has colours.
pub(super) fn frame(file: &[u8], grey: bool) -> Frame {
    let most = Frame { components: if grey { 1 } else { 4 }, many_scans: true };
    let mut headers = Vec::new();
    let scans = before_scans(file, |kind, header| headers.push((kind, header[5])));
    match (&headers[..], scans) {
        // Baseline, or extended: the first scan says how many components come in it.
        ([(0xC0 | 0xC1, components)], Some([_, _, _, _, in_first, ..])) => {
            Frame { components: *components, many_scans: in_first != components }
        }
        _ => most,
    }
}

/// Whether an end marker stands behind the beginning of the scans.
pub(super) fn is_whole(file: &[u8]) -> bool {
    // Within a scan 0xFF is always stuffed, so that the pair is nothing but the marker.
    before_scans(file, |_, _| {}).is_some_and(|scans| scans.windows(2).any(|pair| pair == END_OF_IMAGE))
}

/// Passes over the segments before the scans, by their length: one may hold a thumbnail with markers of its own. `frame`
/// hears of each frame header, with its marker. What comes behind them; `None` where they break off.
fn before_scans(file: &[u8], mut frame: impl FnMut(u8, [u8; 6])) -> Option<&[u8]> {
    let mut rest = file.get(2..)?;
    while let [0xFF, marker, high, low, ..] = *rest
        && marker != START_OF_SCAN
    {
        // All of 0xC0 to 0xCF but tables, an extension and arithmetic conditioning.
        if let (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF, Some(header)) = (marker, rest[4..].first_chunk()) {
            frame(marker, *header);
        }
        let segment = if marker == 0xFF { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
        rest = rest.get(segment..)?;
    }
    Some(rest)
}
