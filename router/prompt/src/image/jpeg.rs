//! Whether a JPEG is whole. The decoder fills in grey for what is missing; the reference refuses such a file.

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];

/// Whether an end marker stands behind the beginning of the scans.
pub(super) fn is_whole(file: &[u8]) -> bool {
    let mut rest = file.get(2..).unwrap_or_default();
    // Segments before the scans are passed over by their length: one may hold a thumbnail with an end marker of its own.
    while let [0xFF, marker, high, low, ..] = *rest
        && marker != START_OF_SCAN
    {
        let segment = if marker == 0xFF { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
        match rest.get(segment..) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    // Within a scan 0xFF is always stuffed, so that the pair is nothing but the marker.
    rest.windows(2).any(|pair| pair == END_OF_IMAGE)
}
