//! Values that clap has no type for.

use std::net::SocketAddr;

/// A tensor parallel degree.
pub(super) fn parse_degree(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(degree @ (1 | 2 | 4 | 8)) => Ok(degree),
        _ => Err("must be 1, 2, 4 or 8: every rank has an equal share of heads and rows".into()),
    }
}

/// An address to listen on.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give IP:PORT, such as 127.0.0.1:7070, or 0.0.0.0:7070 for every interface".to_owned())
}

/// Bytes from `512MiB`, `8GiB`, `1000000`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1_u64 << 40,
        _ => return Err(format!("`{unit}` is no unit of memory; use KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` does not begin with a whole number"))?;
    number.checked_mul(scale).ok_or_else(|| format!("`{text}` is too large"))
}

/// `1024x768` as width and height.
pub(super) fn parse_dimensions(text: &str) -> Result<(u32, u32), String> {
    let parse = || {
        let (width, height) = text.split_once(['x', 'X'])?;
        Some((width.parse().ok()?, height.parse().ok()?))
    };
    match parse() {
        Some((width, height)) if (1..=8192).contains(&width) && (1..=8192).contains(&height) => Ok((width, height)),
        _ => Err(format!("`{text}` is not WIDTHxHEIGHT with sides from 1 to 8192")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_dimensions_are_read_or_refused_with_the_reason() {
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("3g"), Ok(3 << 30));
        assert!(parse_size("5 parsecs").unwrap_err().contains("parsecs"));
        assert_eq!(parse_dimensions("640x480"), Ok((640, 480)));
        assert!(parse_dimensions("640").is_err());
    }
}
