//! JSON in the bytes of Go's `encoding/json`, which the incumbents write: sorted keys, no space, `<`, `>`
//! and `&` escaped, numbers as they came.
//!
//! Works on the text itself: a number that went through a parser would come out in another spelling, and a
//! million keys in a map type take many times the text. A value is measured before it is written, so that
//! its memory can be reserved, and is allocated once.

use std::borrow::Cow;

use zeroize::{Zeroize, Zeroizing};

use super::scan::{Entries, Scanner};

/// serde_json's own limit, which skipped values escape.
const DEEPEST: usize = 128;

/// A value is no JSON, is nested too deeply or has half of a surrogate pair. Carries nothing: the text is secret.
#[derive(Debug)]
pub struct Unreadable;

/// What the writing of a value takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// The text; of a map with two equal keys, both.
    pub size: usize,
    /// At most, besides, while it is written: the largest text with escapes, and what sorting needs.
    pub extra: usize,
}

/// A text without its escapes.
pub fn unescaped(quoted: &str) -> Result<Cow<'_, str>, Unreadable> {
    if quoted.contains('\\') {
        let text = serde_json::from_str(quoted).map_err(|_| Unreadable)?;
        return Ok(Cow::Owned(text));
    }
    let inner = quoted
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    inner.map(Cow::Borrowed).ok_or(Unreadable)
}

/// Measures a value.
pub fn measure(value: &str) -> Result<Measure, Unreadable> {
    let mut measure = Measure::default();
    measure_next(&mut Scanner::new(value), &mut measure, 0)?;
    Ok(measure)
}

/// Measures a text without its quotes, or anything else as it is written.
pub fn measure_plain(value: &str) -> Result<Measure, Unreadable> {
    if !value.starts_with('"') {
        return measure(value);
    }
    let text = unescaped(value)?;
    let (size, extra) = (text.len(), owned(text));
    Ok(Measure { size, extra })
}

/// What a text took that had to be unescaped, about: the parser gathers it in a buffer that grows.
fn owned(text: Cow<'_, str>) -> usize {
    match text {
        Cow::Borrowed(_) => 0,
        Cow::Owned(mut text) => {
            let bytes = 2 * text.len();
            text.zeroize();
            bytes
        }
    }
}

/// Appends a value.
pub fn write(value: &str, out: &mut String) -> Result<(), Unreadable> {
    write_next(&mut Scanner::new(value), out, 0)
}

fn measure_next(
    scanner: &mut Scanner<'_>,
    measure: &mut Measure,
    depth: usize,
) -> Result<(), Unreadable> {
    if depth > DEEPEST {
        return Err(Unreadable);
    }
    match scanner.peek() {
        b'{' => {
            scanner.takes(b'{');
            let begin = measure.size;
            let mut entries = 0_usize;
            let mut order = Order::default();
            measure.size += 1;
            while !scanner.takes(b'}') {
                scanner.takes(b',');
                scanner.peek();
                let name = scanner.string()?;
                order.note(name)?;
                measure_text(name, measure)?;
                scanner.takes(b':');
                measure.size += 2;
                entries += 1;
                measure_next(scanner, measure, depth + 1)?;
            }
            // A comma for each but the first, the brace for the last.
            measure.size += usize::from(entries == 0);
            if order.is_broken {
                let sorting = measure.size - begin + 2 * entries * size_of::<Entry>();
                measure.extra = measure.extra.max(sorting);
            }
        }
        b'[' => {
            scanner.takes(b'[');
            measure.size += 1;
            let mut items = 0_usize;
            while !scanner.takes(b']') {
                scanner.takes(b',');
                items += 1;
                measure.size += 1;
                measure_next(scanner, measure, depth + 1)?;
            }
            measure.size += usize::from(items == 0);
        }
        b'"' => measure_text(scanner.string()?, measure)?,
        _ => measure.size += scanner.scalar()?.len(),
    }
    Ok(())
}

fn measure_text(quoted: &str, measure: &mut Measure) -> Result<(), Unreadable> {
    let text = unescaped(quoted)?;
    measure.size += 2;
    let lengths = text
        .chars()
        .map(|c| escape(c).map_or(c.len_utf8(), str::len));
    measure.size += lengths.sum::<usize>();
    measure.extra = measure.extra.max(owned(text));
    Ok(())
}

fn write_next(scanner: &mut Scanner<'_>, out: &mut String, depth: usize) -> Result<(), Unreadable> {
    if depth > DEEPEST {
        return Err(Unreadable);
    }
    match scanner.peek() {
        b'{' => write_map(scanner, out, depth)?,
        b'[' => {
            scanner.takes(b'[');
            out.push('[');
            while !scanner.takes(b']') {
                if scanner.takes(b',') {
                    out.push(',');
                }
                write_next(scanner, out, depth + 1)?;
            }
            out.push(']');
        }
        b'"' => write_text(scanner.string()?, out)?,
        _ => out.push_str(scanner.scalar()?),
    }
    Ok(())
}

/// Writes the fields in their order, as a server does that is written in Go, and sorts them where they are not.
fn write_map(scanner: &mut Scanner<'_>, out: &mut String, depth: usize) -> Result<(), Unreadable> {
    scanner.takes(b'{');
    let begin = out.len();
    let mut order = Order::default();
    out.push('{');
    while !scanner.takes(b'}') {
        if scanner.takes(b',') {
            out.push(',');
        }
        scanner.peek();
        let name = scanner.string()?;
        order.note(name)?;
        write_text(name, out)?;
        scanner.takes(b':');
        out.push(':');
        write_next(scanner, out, depth + 1)?;
    }
    out.push('}');
    if order.is_broken {
        sort(out, begin)?;
    }
    Ok(())
}

/// Where a written field stands: its beginning, the end of its name, its end.
type Entry = [u32; 3];

/// Sorts the fields of the map that was written last. Of two with one name the last holds, as in Go.
fn sort(out: &mut String, begin: usize) -> Result<(), Unreadable> {
    let map = Zeroizing::new(out.get(begin..).ok_or(Unreadable)?.to_owned());
    let at = |part: &str| {
        u32::try_from(part.as_ptr().addr() - map.as_ptr().addr()).map_err(|_| Unreadable)
    };
    let end = |part: &str| u32::try_from(part.len()).map_err(|_| Unreadable);
    let mut entries: Vec<Entry> = Vec::with_capacity(Entries::of(&map).count());
    for entry in Entries::of(&map) {
        let (name, value) = entry?;
        let begin = at(name)?;
        entries.push([begin, begin + end(name)?, at(value)? + end(value)?]);
    }
    let part = |from: u32, to: u32| map.get(from as usize..to as usize).unwrap_or_default();
    // A written name is readable.
    let name = |entry: &Entry| unescaped(part(entry[0], entry[1])).unwrap_or_default();
    // The last of equal ones stays last.
    entries.sort_by(|one, other| name(one).cmp(&name(other)));
    out.truncate(begin);
    out.push('{');
    let mut entries = entries.iter().peekable();
    let mut first = true;
    while let Some(entry) = entries.next() {
        if entries.peek().is_some_and(|next| name(next) == name(entry)) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(part(entry[0], entry[2]));
    }
    out.push('}');
    Ok(())
}

/// Whether names came as Go sorts them, none twice.
#[derive(Default)]
struct Order<'a> {
    last: Option<Cow<'a, str>>,
    is_broken: bool,
}

impl<'a> Order<'a> {
    fn note(&mut self, name: &'a str) -> Result<(), Unreadable> {
        if !self.is_broken {
            let name = unescaped(name)?;
            self.is_broken = self.last.as_ref().is_some_and(|last| *last >= name);
            self.last = Some(name);
        }
        Ok(())
    }
}

/// Appends a string with its quotes.
fn write_text(quoted: &str, out: &mut String) -> Result<(), Unreadable> {
    let text = unescaped(quoted)?;
    out.push('"');
    for c in text.chars() {
        match escape(c) {
            Some(escaped) => out.push_str(escaped),
            None => out.push(c),
        }
    }
    out.push('"');
    owned(text);
    Ok(())
}

/// How Go writes a character that it escapes (`encoding/json/encode.go`, `appendString`).
fn escape(c: char) -> Option<&'static str> {
    const CONTROL: [&str; 32] = [
        "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007",
        "\\b", "\\t", "\\n", "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011",
        "\\u0012", "\\u0013", "\\u0014", "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019",
        "\\u001a", "\\u001b", "\\u001c", "\\u001d", "\\u001e", "\\u001f",
    ];
    match c {
        '"' => Some("\\\""),
        '\\' => Some("\\\\"),
        '<' => Some("\\u003c"),
        '>' => Some("\\u003e"),
        '&' => Some("\\u0026"),
        '\u{2028}' => Some("\\u2028"),
        '\u{2029}' => Some("\\u2029"),
        _ => CONTROL.get(c as usize).copied(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    /// Written, after it was measured.
    fn written(text: &str) -> String {
        let value: &RawValue = serde_json::from_str(text).unwrap();
        let measure = measure(value.get()).unwrap();
        let mut out = String::with_capacity(measure.size);
        let room = out.capacity();
        write(value.get(), &mut out).unwrap();
        assert_eq!(out.capacity(), room, "it was not moved: {text}");
        if !text.contains("\"a\":3") {
            assert_eq!(out.len(), measure.size, "{text}");
        }
        out
    }

    #[test]
    fn as_go_writes_it() {
        assert_eq!(
            written(r#"{ "b": 1, "a": [true, null] }"#),
            r#"{"a":[true,null],"b":1}"#
        );
        assert_eq!(
            written(r#""<a href=\"x\">&\u2028\u0001\b\f\n\u007f/é""#),
            "\"\\u003ca href=\\\"x\\\"\\u003e\\u0026\\u2028\\u0001\\b\\f\\n\u{7f}/é\""
        );
        assert_eq!(written(r#"{"a":1,"b":2,"a":3}"#), r#"{"a":3,"b":2}"#);
        assert_eq!(written(r#"{"a":1,"a":2,"a":3}"#), r#"{"a":3}"#);
        assert_eq!(written("[1.10, 1e3 ,1E5]"), "[1.10,1e3,1E5]");
        assert_eq!(
            written("123456789012345678901234"),
            "123456789012345678901234"
        );
    }

    #[test]
    fn maps_within_maps_are_sorted_by_what_their_names_say() {
        assert_eq!(
            written(
                r#" { "z" : { "\u0062":[{"d":{},"c":[ ]}], "\"":1 } ,"<": "a\\", "\u003b" :2} "#
            ),
            r#"{";":2,"\u003c":"a\\","z":{"\"":1,"b":[{"c":[],"d":{}}]}}"#
        );
        assert_eq!(
            written(r#"{"a":{"c":1,"b":2},"d":[{"f":1,"e":2}]}"#),
            r#"{"a":{"b":2,"c":1},"d":[{"e":2,"f":1}]}"#
        );
    }

    #[test]
    fn what_serde_json_reads_is_written_without_loss() {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        let value = leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(serde_json::Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        });
        proptest!(|(value in value)| {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let out = written(&pretty);
            let again: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(again, value);
        });
    }

    #[test]
    fn too_deep_is_unreadable_and_overflows_no_stack() {
        for depth in [DEEPEST + 1, 100_000] {
            let deep = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            assert!(measure(&deep).is_err() && write(&deep, &mut String::new()).is_err());
        }
        let deep = format!("{}1{}", "[".repeat(DEEPEST), "]".repeat(DEEPEST));
        assert_eq!(written(&deep), deep);
    }

    #[test]
    fn text_that_is_no_json_ends() {
        for text in [
            "", "{", "[", "[1", "{\"a\"", "{\"a\":", "\"", "\"\\", "}", ",", "{1:2}", "[}", "[:]",
        ] {
            assert!(measure(text).is_err(), "{text}");
            assert!(write(text, &mut String::new()).is_err(), "{text}");
        }
    }
}
