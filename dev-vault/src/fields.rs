//! The parameters of a request or a stored role, read as Vault reads them
//! (OpenBao `sdk/framework/field_data.go`).

use std::time::Duration;

use serde_json::{Map, Value};

use crate::text;

/// A view of parameters.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// A text; empty where there is none.
    pub fn text(self, name: &str) -> &'a str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A duration; zero means the same as none.
    pub fn duration(self, name: &str) -> Option<Duration> {
        let duration = self.0.get(name).and_then(text::duration)?;
        (!duration.is_zero()).then_some(duration)
    }

    /// What the server says of the first of these durations that it cannot read.
    pub fn unreadable_duration(self, names: &[&str]) -> Option<String> {
        let values = names.iter().filter_map(|name| self.0.get(*name));
        values
            .filter(|value| !value.is_null() && text::duration(value).is_none())
            .map(|value| format!("time: invalid duration {value}"))
            .next()
    }

    pub fn flag(self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            Value::Bool(value) => Some(*value),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub fn number(self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A list, or a text with commas.
    pub fn list(self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
            Some(Value::String(text)) => text
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_in_each_of_their_writings() {
        let Value::Object(map) = json!({
            "ttl": "1h", "none": 0, "bad": "soon", "yes": "true", "uses": "3", "many": "a, b,", "one": ["c"],
        }) else {
            panic!("not a map");
        };
        let fields = Fields(&map);
        assert_eq!(fields.duration("ttl"), Some(Duration::from_secs(3600)));
        assert_eq!(fields.duration("none"), None);
        assert_eq!(fields.unreadable_duration(&["ttl", "none"]), None);
        assert_eq!(
            fields.unreadable_duration(&["ttl", "bad"]).unwrap(),
            "time: invalid duration \"soon\""
        );
        assert_eq!(fields.flag("yes"), Some(true));
        assert_eq!(fields.number("uses"), Some(3));
        assert_eq!(fields.list("many"), ["a", "b"]);
        assert_eq!(fields.list("one"), ["c"]);
    }
}
