//! Durations as Go's clients read them: `time.ParseDuration`, and `ParseDurationSecond` of
//! go-secure-stdlib's `parseutil`, by which `VAULT_CLIENT_TIMEOUT` is read.
//!
//! `tests/recorded/durations.json` holds what Go makes of some hundred texts.

use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const DAY: i64 = 24 * 3600;

/// The largest magnitude of a Go duration, in nanoseconds: that of the smallest `int64`.
const LARGEST: u64 = i64::MIN.unsigned_abs();

/// Reads the value of a flag of ours: a duration of Go's that is not negative.
///
/// # Errors
/// Says what is accepted.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write it as 200ms, 5s, 1.5m or 1h30m");
    let nanoseconds = nanoseconds(text).ok_or_else(wrong)?;
    let nanoseconds = u64::try_from(nanoseconds)
        .map_err(|_| format!("{text:?} is negative: write it as 200ms, 5s, 1.5m or 1h30m"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// Reads `VAULT_CLIENT_TIMEOUT`: whole seconds, whole days (`1d`) or a duration of Go's. A negative one is
/// `None`: to the incumbents' client it means no limit.
///
/// # Errors
/// Says what is accepted.
pub fn timeout(text: &str) -> Result<Option<Duration>, String> {
    let whole = |text: &str, seconds: i64| -> Option<i64> {
        let count: i64 = text.parse().ok()?;
        let second = i64::try_from(SECOND).ok()?;
        count.checked_mul(seconds)?.checked_mul(second)
    };
    let read = if text.parse::<i64>().is_ok() {
        whole(text, 1)
    } else if let Some(days) = text.strip_suffix('d') {
        whole(days, DAY)
    } else {
        nanoseconds(text)
    };
    let nanoseconds = read.ok_or_else(|| {
        format!("{text:?} is no duration: write it in seconds (60), or as 90s, 1.5m, 1h30m or 1d")
    })?;
    Ok(u64::try_from(nanoseconds).ok().map(Duration::from_nanos))
}

/// `time.ParseDuration`: nanoseconds; `None` where it refuses.
fn nanoseconds(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let unit = unit_of(unit)?;
        let whole: u64 = match whole {
            "" => 0,
            digits => digits.parse().ok()?,
        };
        let part = whole.checked_mul(unit)?.checked_add(part(fraction, unit))?;
        total = total.checked_add(part).filter(|total| *total <= LARGEST)?;
        rest = after;
    }
    match negative {
        true => 0_i64.checked_sub_unsigned(total),
        false => i64::try_from(total).ok(),
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

fn unit_of(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        // With the micro sign, and with the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3600 * SECOND,
        _ => return None,
    })
}

/// The digits behind a point, in nanoseconds: by floating point and without the digits that 63 bits do not
/// hold, as Go counts them, so that both come to the same nanosecond.
fn part(fraction: &str, unit: u64) -> u64 {
    let (mut value, mut scale): (u64, f64) = (0, 1.0);
    for digit in fraction.chars().filter_map(|digit| digit.to_digit(10)) {
        let next = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit)))
            .filter(|next| *next <= LARGEST);
        let Some(next) = next else { break };
        (value, scale) = (next, scale * 10.0);
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_duration_is_what_it_is_to_go() {
        let recorded = std::fs::read_to_string("tests/recorded/durations.json").unwrap();
        let recorded: Vec<Value> = serde_json::from_str(&recorded).unwrap();
        assert!(recorded.len() > 90, "{}", recorded.len());
        for row in recorded {
            let text = row["text"].as_str().unwrap();
            let not_negative = |nanoseconds: i64| u64::try_from(nanoseconds).ok();
            let nanoseconds = |value: Duration| u64::try_from(value.as_nanos()).unwrap();
            let flag = row["flag"].as_i64().and_then(not_negative);
            assert_eq!(parse(text).ok().map(nanoseconds), flag, "{text:?}");
            if text.is_empty() {
                // An empty variable is an absent one.
                continue;
            }
            let given = row["client_timeout"].as_i64().map(not_negative);
            let ours = timeout(text).ok();
            assert_eq!(ours.map(|ours| ours.map(nanoseconds)), given, "{text:?}");
        }
    }

    #[test]
    fn a_fault_quotes_the_value_and_says_what_is_accepted() {
        for wrong in ["", "5", "5d", "-5s", " 5s"] {
            let fault = parse(wrong).unwrap_err();
            assert!(fault.contains(&format!("{wrong:?}")), "{fault}");
            assert!(fault.contains("1.5m"), "{fault}");
        }
        assert!(timeout("1.5").unwrap_err().contains("1.5m"));
    }
}
