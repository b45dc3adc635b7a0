//! JSON in the bytes of Go's `encoding/json`, which the incumbents write: sorted keys, no space, `<`, `>`
//! and `&` escaped, numbers as they came.

//!
//! Works on the text itself: a number that went through a parser would come out in another spelling.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// serde_json's own limit, which skipped values escape.
const DEEPEST: usize = 128;

/// A map's fields; sorted, as Go sorts them. Of two with one name the last holds, as in Go.
pub type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// A value is no JSON, is nested too deeply or has half of a surrogate pair. Carries nothing: the text is secret.
#[derive(Debug)]
pub struct Unreadable;

/// The fields of a map.
pub fn fields(value: &RawValue) -> Result<Fields<'_>, Unreadable> {
    serde_json::from_str(value.get()).map_err(|_| Unreadable)
}

/// A text without its quotes; anything else as it is written.
pub fn plain(value: &RawValue) -> Result<String, Unreadable> {
    if value.get().starts_with('"') {
        return serde_json::from_str(value.get()).map_err(|_| Unreadable);
    }
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out)
}

/// Appends a value.
pub fn write(value: &RawValue, out: &mut String) -> Result<(), Unreadable> {
    write_at(value, out, 0)
}

fn write_at(value: &RawValue, out: &mut String, depth: usize) -> Result<(), Unreadable> {
    if depth > DEEPEST {
        return Err(Unreadable);
    }
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            out.push('{');
            for (index, (name, field)) in fields(value)?.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(&name, out);
                out.push(':');
                write_at(field, out, depth + 1)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| Unreadable)?;
            out.push('[');
            for (index, item) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_at(item, out, depth + 1)?;
            }
            out.push(']');
        }
        Some(b'"') => write_text(&Zeroizing::new(plain(value)?), out),
        // A number, `true`, `false` or `null`.
        _ => out.push_str(text),
    }
    Ok(())
}

/// Appends a string with its quotes (Go's `encoding/json/encode.go`, `appendString`).
fn write_text(text: &str, out: &mut String) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            '\0'..='\u{1f}' | '<' | '>' | '&' => {
                let code = c as usize;
                out.push_str("\\u00");
                out.extend(HEX.get(code >> 4));
                out.extend(HEX.get(code & 15));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = String::new();
        write(serde_json::from_str(text).unwrap(), &mut out).unwrap();
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
        assert_eq!(written("[1.10, 1e3 ,1E5]"), "[1.10,1e3,1E5]");
        assert_eq!(
            written("123456789012345678901234"),
            "123456789012345678901234"
        );
    }
}
