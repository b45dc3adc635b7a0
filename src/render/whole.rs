//! The whole response, as Go writes the API client's `Secret` (vault/api `secret.go`): its fields in its
//! order, and no others.

use std::collections::HashMap;

use super::gojson::{self, Measure, Unreadable};
use super::measure::pick;

/// The fields that are always there, with what stands for an absent one.
const ALWAYS: [(&str, &str); 6] = [
    ("request_id", "\"\""),
    ("lease_id", "\"\""),
    ("lease_duration", "0"),
    ("renewable", "false"),
    ("data", "null"),
    ("warnings", "null"),
];
const MOUNT_TYPE: &str = "mount_type";

/// The fields in their order, with their values.
fn fields(reply: &str) -> Result<Vec<(&'static str, &str)>, Unreadable> {
    let names = ALWAYS.iter().map(|(name, _)| *name);
    let mut given: HashMap<&str, Option<&str>> =
        names.chain([MOUNT_TYPE]).map(|name| (name, None)).collect();
    pick(reply, &mut given)?;
    let mut given = |name, nothing: &[&str]| {
        let value = given.remove(name).flatten();
        value.filter(|value| !nothing.contains(value))
    };
    let mut fields: Vec<_> = ALWAYS
        .into_iter()
        .map(|(name, absent)| (name, given(name, &["null"]).unwrap_or(absent)))
        .collect();
    fields.extend(given(MOUNT_TYPE, &["null", "\"\""]).map(|value| (MOUNT_TYPE, value)));
    Ok(fields)
}

/// Measures it.
pub fn measure(reply: &str) -> Result<Measure, Unreadable> {
    let mut whole = Measure { size: 1, extra: 0 };
    for (name, value) in fields(reply)? {
        let Measure { size, extra } = gojson::measure(value)?;
        // Quotes, a colon, and a comma or the last brace.
        whole.size += name.len() + 4 + size;
        whole.extra = whole.extra.max(extra);
    }
    Ok(whole)
}

/// Appends it.
pub fn write(reply: &str, out: &mut String) -> Result<(), Unreadable> {
    for (index, (name, value)) in fields(reply)?.into_iter().enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        out.push('"');
        out.push_str(name);
        out.push_str("\":");
        gojson::write(value, out)?;
    }
    out.push('}');
    Ok(())
}
