//! The `grpc-timeout` header: at most eight digits and a unit, as gRPC's wire protocol has it.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The server's own timer for the header answers with CANCELLED; the request's ends a little earlier, with
/// DEADLINE_EXCEEDED and the reason.
const MARGIN: Duration = Duration::from_millis(5);

/// How long the request may take, if the client says so in a form that can be read.
pub(super) fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Some(timeout.saturating_sub(MARGIN.min(timeout / 4)))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "m", "10", "-1S", "123456789S", "1.5S", "1é"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
