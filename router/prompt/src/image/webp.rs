//! What a WebP file's chunks tell before anything is decoded.

/// Bytes before the first chunk: `RIFF`, a length, `WEBP`.
const HEAD: usize = 12;
/// Bytes of a frame of an animation before its own chunks.
const FRAME_HEAD: usize = 16;

/// What decoding a file depends on besides its width and height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// It may have an alpha channel of its own, or be an animation.
    pub(super) extended: bool,
    /// Pixels of the largest lossy picture in it: decoded as large as that says, whatever the file says.
    pub(super) lossy_pixels: u64,
    /// Bytes that are compressed without loss.
    pub(super) lossless_bytes: u64,
}

impl Contents {
    /// Of a file's chunks and those of its first frame: of an animation no other is decoded.
    pub(super) fn of(file: &[u8]) -> Self {
        let top = file.get(HEAD..).unwrap_or_default();
        let frame = chunks(top).find(|(kind, _)| kind == b"ANMF").and_then(|(_, data)| data.get(FRAME_HEAD..));
        let mut contents = Self::default();
        for (kind, data) in chunks(top).chain(chunks(frame.unwrap_or_default())) {
            match &kind {
                b"VP8X" => contents.extended = true,
                b"VP8 " => contents.lossy_pixels = contents.lossy_pixels.max(lossy_pixels(data)),
                b"VP8L" | b"ALPH" => contents.lossless_bytes += data.len() as u64,
                _ => {}
            }
        }
        contents
    }
}

/// Kind and data of one chunk after the other; each begins at an even place.
fn chunks(mut rest: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_first_chunk::<8>()?;
        let [kind @ .., a, b, c, d] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let (data, _) = behind.split_at(length.min(behind.len()));
        rest = behind.get(length.next_multiple_of(2)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// Of the frame header (RFC 6386, 9.1): a tag of three bytes, a start code of three, width and height of 14 bits each.
fn lossy_pixels(data: &[u8]) -> u64 {
    let side = |at: usize| data.get(at..at + 2).map_or(0, |bytes| u64::from(u16::from_le_bytes([bytes[0], bytes[1]]) & 0x3FFF));
    side(6) * side(8)
}
