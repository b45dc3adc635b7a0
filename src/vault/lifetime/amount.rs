//! Durations and moments as servers write them: whole and fractional numbers, numbers in quotes, Go's
//! durations, RFC 3339. Whatever is written, the result lies between nothing and [`LONGEST`].

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::clock::LONGEST;

/// Unix times above this are in milliseconds, in microseconds, in nanoseconds (seconds of the year 5138).
const TOO_LATE: f64 = 1e11;

/// A lifetime. Zero would mean without end, and the server floors: what has none left ends in a second.
pub fn ending(lifetime: Duration) -> Duration {
    lifetime.clamp(Duration::from_secs(1), LONGEST)
}

/// A time span of a foreign number or text, in seconds; `None` where it says none: zero, negative, unreadable.
pub fn seconds(value: &RawValue) -> Option<Duration> {
    let text = written(value)?;
    let span = number(&text).or_else(|| go_duration(&text))?;
    positive(span)
}

/// A moment of Unix time; `None` where it says none (zero, negative, Go's zero time, unreadable).
pub fn unix(value: &RawValue) -> Option<Duration> {
    let text = written(value)?;
    if let Some(mut number) = number(&text) {
        while number.is_finite() && number > TOO_LATE && number < 1e19 {
            number /= 1e3;
        }
        return positive(number);
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_second())
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

fn written(value: &RawValue) -> Option<Cow<'_, str>> {
    let raw = value.get();
    if raw.starts_with('"') {
        let text: String = serde_json::from_str(raw).ok()?;
        return Some(Cow::Owned(text.trim().to_owned()));
    }
    Some(Cow::Borrowed(raw))
}

fn number(text: &str) -> Option<f64> {
    // `inf` and `nan` are numbers to Rust alone.
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|_| plain)
}

fn positive(seconds: f64) -> Option<Duration> {
    if seconds.is_nan() || seconds <= 0.0 {
        return None;
    }
    let seconds = seconds.min(LONGEST.as_secs_f64());
    // What rounds to nothing says nothing.
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    (!span.is_zero()).then_some(span)
}

/// `1h30m`, `1.5h`, `90s`, and Vault's `7d`.
fn go_duration(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let end = tail.find(|c: char| c.is_ascii_digit());
        let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += number * unit;
        rest = tail;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_foreign_span_is_read_or_says_nothing() {
        for (text, wanted) in [
            ("3600", Some(3600.0)),
            ("3599.5", Some(3599.5)),
            ("\"3600\"", Some(3600.0)),
            ("\" 90 \"", Some(90.0)),
            ("\"1h30m\"", Some(5400.0)),
            ("\"1.5h\"", Some(5400.0)),
            ("\"7d\"", Some(604_800.0)),
            ("1e3", Some(1000.0)),
            ("18446744073709551615", Some(LONGEST.as_secs_f64())),
            ("1e400", Some(LONGEST.as_secs_f64())),
            ("0", None),
            ("-0", None),
            ("-5", None),
            ("\"-5s\"", None),
            ("\"\"", None),
            ("\"soon\"", None),
            ("\"inf\"", None),
            ("\"nan\"", None),
            ("null", None),
            ("true", None),
            ("[1]", None),
            ("{}", None),
        ] {
            let read = seconds(&raw(text)).map(|span| span.as_secs_f64());
            let near = match (read, wanted) {
                (Some(read), Some(wanted)) => (read - wanted).abs() < 1e-3,
                (None, None) => true,
                _ => false,
            };
            assert!(near, "{text}: {read:?}, not {wanted:?}");
        }
    }

    #[test]
    fn a_foreign_moment_is_read_or_says_nothing() {
        for (text, wanted) in [
            ("1767225600", Some(1_767_225_600)),
            ("\"1767225600\"", Some(1_767_225_600)),
            ("1767225600000", Some(1_767_225_600)),
            ("1767225600000000000", Some(1_767_225_600)),
            ("\"2026-01-01T00:00:00Z\"", Some(1_767_225_600)),
            (
                "\"2026-01-01T01:00:00.123456789+01:00\"",
                Some(1_767_225_600),
            ),
            ("18446744073709551615", Some(LONGEST.as_secs())),
            ("\"0001-01-01T00:00:00Z\"", None),
            ("\"1969-12-31T23:59:59Z\"", None),
            ("\"1h\"", None),
            ("0", None),
            ("-1", None),
            ("\"\"", None),
            ("null", None),
        ] {
            let read = unix(&raw(text)).map(|time| time.as_secs());
            assert_eq!(read, wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_foreign_number_breaks_it(text in "-?[0-9]{1,400}(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,5})?") {
            for value in [text.clone(), format!("\"{text}\""), format!("\"{text}h\"")] {
                // Not all are JSON (leading zeros).
                if let Ok(value) = RawValue::from_string(value) {
                    for read in [seconds(&value), unix(&value)].into_iter().flatten() {
                        prop_assert!(read > Duration::ZERO && read <= LONGEST);
                    }
                }
            }
        }

        #[test]
        fn no_foreign_text_breaks_it(text in any::<String>()) {
            let value = RawValue::from_string(serde_json::to_string(&text).unwrap()).unwrap();
            let _ = (seconds(&value), unix(&value));
        }

        #[test]
        fn every_u64_and_i64_is_read_or_says_nothing(positive in 1..=u64::MAX, negative in i64::MIN..=0) {
            let wanted = Duration::from_secs(positive).min(LONGEST);
            prop_assert!(seconds(&raw(&positive.to_string())).unwrap().abs_diff(wanted) < Duration::from_millis(1));
            prop_assert_eq!(seconds(&raw(&negative.to_string())), None);
        }
    }
}
