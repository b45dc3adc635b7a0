//! Spans of time as a journal file states them: whatever number stands there, it is read as a span.
//!
//! The journal writes a `Duration` as serde does, `{"secs":1,"nanos":0}`. Reading it by serde's own rules would
//! refuse the whole record, and with it a living credential, for one number that is out of range.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// A span of a journal file. A negative one is the shortest there is, not zero: a term of zero never ends.
#[derive(Clone, Copy)]
pub struct Span(pub Duration);

#[derive(Deserialize)]
struct Written {
    secs: Number,
    nanos: Number,
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let whole = span(&written.secs, Duration::from_secs);
        Ok(Self(whole.saturating_add(span(
            &written.nanos,
            Duration::from_nanos,
        ))))
    }
}

/// A span of `units`, as exact as the number is.
fn span(number: &Number, units: fn(u64) -> Duration) -> Duration {
    if let Some(number) = number.as_u64() {
        return units(number);
    }
    // Out of f64's range, and its sign is all there is to know.
    let number = number.as_f64().unwrap_or_else(|| {
        let negative = number.to_string().starts_with('-');
        if negative { -1.0 } else { f64::MAX }
    });
    if number <= 0.0 {
        return Duration::from_nanos(1);
    }
    let seconds = number * units(1).as_secs_f64();
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Reads spans, each clamped to [`super::LONGEST`]: for `deserialize_with`.
///
/// # Errors
/// What stands there is no list of spans.
pub fn spans<'de, D, C>(deserializer: D) -> Result<C, D::Error>
where
    D: Deserializer<'de>,
    C: FromIterator<Duration>,
{
    let spans: Vec<Span> = Vec::deserialize(deserializer)?;
    Ok(spans
        .into_iter()
        .map(|span| super::clamped(span.0))
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{LONGEST, Moment};
    use super::*;

    fn read(secs: &str, nanos: &str) -> Duration {
        let text = format!(r#"{{"secs":{secs},"nanos":{nanos}}}"#);
        serde_json::from_str::<Span>(&text).unwrap().0
    }

    #[test]
    fn every_number_is_a_span() {
        for (secs, nanos, wanted) in [
            ("0", "0", Duration::ZERO),
            ("3600", "7", Duration::new(3600, 7)),
            ("1.5", "0", Duration::from_millis(1500)),
            ("1e3", "0", Duration::from_secs(1000)),
            ("18446744073709551615", "0", Duration::from_secs(u64::MAX)),
            ("18446744073709551615", "4294967295", Duration::MAX),
            ("18446744073709551616", "0", Duration::MAX),
            ("1e400", "0", Duration::MAX),
            ("-1e400", "0", Duration::from_nanos(1)),
            ("-1", "0", Duration::from_nanos(1)),
            ("0", "5e9", Duration::from_secs(5)),
        ] {
            assert_eq!(read(secs, nanos), wanted, "{secs} {nanos}");
        }
        for text in [
            "{}",
            "null",
            "1",
            r#"{"secs":"1","nanos":0}"#,
            r#"{"secs":null,"nanos":0}"#,
        ] {
            assert!(serde_json::from_str::<Span>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_is_written_as_it_is_read(secs in any::<u64>(), nanos in 0_u32..1_000_000_000) {
            let moment = Moment::from_boot(Duration::from_secs(secs).saturating_add(Duration::from_nanos(nanos.into())));
            let text = serde_json::to_string(&moment).unwrap();
            prop_assert_eq!(serde_json::from_str::<Moment>(&text).unwrap(), moment);
            prop_assert!(moment <= Moment::NEVER);
        }

        #[test]
        fn no_sum_overflows(a in any::<u64>(), b in any::<u64>(), c in any::<u64>()) {
            let [a, b, c] = [a, b, c].map(Duration::from_secs);
            let moment = Moment::from_boot(a).plus(b).minus(c).plus(Duration::MAX);
            let unix = Duration::from_secs(1_800_000_000);
            // A time of day, and a timer.
            prop_assert!(unix + moment.since(Moment::from_boot(c)) < Duration::MAX);
            let _ = std::time::Instant::now() + moment.since(Moment::from_boot(Duration::ZERO));
            prop_assert!(super::super::clamped(a) <= LONGEST);
        }

        #[test]
        fn no_text_breaks_it(secs in "-?[0-9]{1,40}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?", nanos in "-?[0-9]{1,25}") {
            let text = format!(r#"{{"secs":{secs},"nanos":{nanos}}}"#);
            if let Ok(moment) = serde_json::from_str::<Moment>(&text) {
                prop_assert!(moment <= Moment::NEVER);
            }
        }
    }
}
