//! How Vault writes times and durations, and how it reads them.

use std::time::Duration;

use rand::RngExt;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A duration parameter: seconds as a number or text, or Go's `1h30m`; days too.
pub fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(number) => number.as_u64().map(Duration::from_secs),
        Value::String(text) => duration_text(text),
        _ => None,
    }
}

fn duration_text(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total += Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?);
        rest = tail;
    }
    Some(total)
}

/// As the server's warnings write one: `1h`, `1m`, `1m30s`, `7s`.
pub fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let text: String = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// RFC 3339 with nanoseconds; `since` is the time since 1970.
pub fn timestamp(since: Duration) -> String {
    let nanos = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A random identifier of `length` base-62 digits.
pub fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length)
        .filter_map(|_| BASE62.get(rng.random_range(0..BASE62.len())))
        .map(|byte| char::from(*byte))
        .collect()
}

/// A random UUID in its usual writing.
pub fn uuid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (value, seconds) in [
            (json!(60), 60),
            (json!("60"), 60),
            (json!("1h30m"), 5400),
            (json!("2d"), 172_800),
        ] {
            assert_eq!(duration(&value), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(duration(&json!("soon")), None);
        assert_eq!(shown(Duration::from_secs(60)), "1m");
        assert_eq!(shown(Duration::from_secs(3607)), "1h7s");
    }
}
