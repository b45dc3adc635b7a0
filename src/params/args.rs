//! `secretArgs`: a request's body, in the JSON that the incumbents make of it.
//!
//! Go reads numbers into floats and integers and writes them anew (`1e3` is `1000`, `1.50` is `1.5`), and
//! takes an unquoted date for a time. A server may tell `1000.0` from `1000`, so we write as Go writes.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use k8s_openapi::jiff::civil::{Date, Time};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_yaml::Spanned;

use super::written::letters;

/// A value of the arguments, as it is written.
pub enum Arg {
    Nothing,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Arg>>),
    Map(BTreeMap<String, Spanned<Arg>>),
}

impl<'de> Deserialize<'de> for Arg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Arg;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an argument")
            }

            fn visit_unit<E>(self) -> Result<Arg, E> {
                Ok(Arg::Nothing)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Arg, E> {
                Ok(Arg::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Arg, E> {
                Ok(Arg::Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Arg, E> {
                Ok(Arg::Integer(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Arg, E> {
                Ok(Arg::Float(value))
            }

            fn visit_str<E>(self, text: &str) -> Result<Arg, E> {
                Ok(Arg::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Arg, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Arg::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Arg, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    fields.insert(name, value);
                }
                Ok(Arg::Map(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The body's JSON, keys sorted. `source` is the text that the value was read from.
///
/// # Errors
/// It is no map, or has a number that JSON cannot carry.
pub fn body(written: &Spanned<Arg>, source: &str) -> Result<String, String> {
    let Arg::Map(_) = written.value else {
        return Err("is no map".to_owned());
    };
    let mut out = String::new();
    write(written, source, &mut out)?;
    Ok(out)
}

fn write(written: &Spanned<Arg>, source: &str, out: &mut String) -> Result<(), String> {
    match &written.value {
        Arg::Nothing => out.push_str("null"),
        Arg::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Arg::Integer(value) => out.push_str(&value.to_string()),
        Arg::Float(value) if value.is_finite() => out.push_str(&float(*value)),
        Arg::Float(_) => return Err("has a number that is not finite".to_owned()),
        Arg::Text(text) => {
            let time = is_plain(written, text, source)
                .then(|| time(text))
                .flatten();
            string(time.as_deref().unwrap_or(text), out);
        }
        Arg::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, source, out)?;
            }
            out.push(']');
        }
        Arg::Map(fields) => {
            out.push('{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                string(name, out);
                out.push(':');
                write(value, source, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn string(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string());
}

/// Neither quoted nor tagged: what stands in the source is the text itself.
fn is_plain(written: &Spanned<Arg>, text: &str, source: &str) -> bool {
    letters(source, written.defined) == Some(text)
}

/// A float as Go's `encoding/json` writes it: the shortest digits, with an exponent only where it is below
/// -6 or above 20.
fn float(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

/// The time that yaml.v3 takes an unquoted text for (its `resolve.go`, `parseTimestamp`), as Go writes one:
/// RFC 3339, in UTC where no zone is named.
fn time(text: &str) -> Option<String> {
    let mut rest = text;
    if rest.find('-') != Some(4) {
        return None;
    }
    let year = digits(&mut rest, 4, 4)?;
    after(&mut rest, '-')?;
    let month = digits(&mut rest, 1, 2)?;
    after(&mut rest, '-')?;
    let day = digits(&mut rest, 1, 2)?;
    let small = |number: u32| i8::try_from(number).ok();
    let date = Date::new(i16::try_from(year).ok()?, small(month)?, small(day)?).ok()?;
    if rest.is_empty() {
        return Some(format!("{date}T00:00:00Z"));
    }
    let zoned = rest.starts_with(['T', 't']);
    rest = rest.strip_prefix(['T', 't', ' '])?;
    let hour = digits(&mut rest, 1, 2)?;
    after(&mut rest, ':')?;
    let minute = digits(&mut rest, 1, 2)?;
    after(&mut rest, ':')?;
    let second = digits(&mut rest, 1, 2)?;
    Time::new(small(hour)?, small(minute)?, small(second)?, 0).ok()?;
    let mut whole = format!("{date}T{hour:02}:{minute:02}:{second:02}");
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(fraction.len());
        let (fraction, more) = fraction.split_at(end);
        if fraction.is_empty() || fraction.len() > 9 {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        if !fraction.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(whole, ".{fraction}");
        }
        rest = more;
    }
    let zone = match (zoned, rest) {
        (true, "Z") | (false, "") => "Z",
        (true, "+00:00" | "-00:00") => "Z",
        (true, zone) if is_zone(zone) => zone,
        _ => return None,
    };
    Some(whole + zone)
}

/// `+02:00`.
fn is_zone(text: &str) -> bool {
    let mut rest = text;
    let Some(tail) = rest.strip_prefix(['+', '-']) else {
        return false;
    };
    rest = tail;
    let hours = digits(&mut rest, 2, 2);
    let colon = after(&mut rest, ':');
    let minutes = digits(&mut rest, 2, 2);
    hours.is_some_and(|hours| hours <= 24)
        && colon.is_some()
        && minutes.is_some_and(|minutes| minutes < 60)
        && rest.is_empty()
}

fn digits(rest: &mut &str, least: usize, most: usize) -> Option<u32> {
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, more) = rest.split_at_checked(end.min(most))?;
    if number.len() < least {
        return None;
    }
    *rest = more;
    number.parse().ok()
}

fn after(rest: &mut &str, sign: char) -> Option<()> {
    *rest = rest.strip_prefix(sign)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_spelled_as_go_spells_them() {
        for (value, text) in [
            (1000.0, "1000"),
            (1.5, "1.5"),
            (-0.0, "-0"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e22, "1.5e+22"),
            (0.000_001, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn an_unquoted_date_is_a_time() {
        for (text, wanted) in [
            ("2030-01-02", "2030-01-02T00:00:00Z"),
            ("2030-1-2", "2030-01-02T00:00:00Z"),
            ("2030-01-02 03:04:05.120", "2030-01-02T03:04:05.12Z"),
            ("2030-01-02t3:4:5+02:00", "2030-01-02T03:04:05+02:00"),
            ("2030-01-02T03:04:05-00:00", "2030-01-02T03:04:05Z"),
        ] {
            assert_eq!(time(text).as_deref(), Some(wanted));
        }
        for text in [
            "",
            "2030",
            "2030-13-02",
            "2030-02-30",
            "230-01-02",
            "2030-01-02T03:04:05",
            "2030-01-02 03:04:05Z",
            "2030-01-02T03:04Z",
            "2030-01-02T25:04:05Z",
            "2030-01-02x",
            "2030-01-02T03:04:05.Z",
            "2030-01-02T03:04:05+2:00",
            "2030-01-02é",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
