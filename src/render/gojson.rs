//! JSON in the bytes of Go's `encoding/json`, which the incumbents write: sorted keys, no space, `<`, `>`
//! and `&` escaped, numbers as they came.

use serde_json::Value;

/// Appends a value.
pub fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        // Sorted already: serde_json's map is a BTreeMap unless `preserve_order` is on.
        Value::Object(fields) => {
            out.push('{');
            for (index, (name, field)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(name, out);
                out.push(':');
                write(field, out);
            }
            out.push('}');
        }
    }
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
        write(&serde_json::from_str(text).unwrap(), &mut out);
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
        assert_eq!(written("1.10"), "1.10");
        assert_eq!(
            written("123456789012345678901234"),
            "123456789012345678901234"
        );
    }
}
