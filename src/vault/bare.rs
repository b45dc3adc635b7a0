//! Replies without an envelope: some paths (`sys/health`, `sys/leader`) answer with their fields alone.
//!
//! Vault's own client then takes the whole reply for its data (vault/api `secret.go`, `ParseSecret`), so
//! that `secretKey: version` finds something there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::redacted::SecretBytes;

/// The envelope's fields, with what counts as not said.
const ENVELOPE: [(&str, &str); 9] = [
    ("request_id", "\"\""),
    ("lease_id", "\"\""),
    ("lease_duration", "0"),
    ("renewable", "false"),
    ("data", "null"),
    ("warnings", "null"),
    ("auth", "null"),
    ("wrap_info", "null"),
    ("mount_type", "\"\""),
];

/// A bare reply in an envelope; nothing for any other. One with `errors` is no data.
pub fn enveloped(body: &[u8]) -> Option<SecretBytes> {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    let says_nothing = |(name, nothing): &(&str, &str)| {
        fields
            .get(*name)
            .is_none_or(|value| matches!(value.get(), "null") || value.get() == *nothing)
    };
    if fields.is_empty() || fields.contains_key("errors") || !ENVELOPE.iter().all(says_nothing) {
        return None;
    }
    let mut whole = Vec::with_capacity(body.len() + 9);
    whole.extend_from_slice(b"{\"data\":");
    whole.extend_from_slice(body);
    whole.push(b'}');
    Some(SecretBytes::from(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_alone_become_the_data() {
        for (body, whole) in [
            (
                r#"{"version":"2.6"}"#,
                Some(r#"{"data":{"version":"2.6"}}"#),
            ),
            (
                r#"{"lease_id":"","x":1}"#,
                Some(r#"{"data":{"lease_id":"","x":1}}"#),
            ),
            (r#"{"data":{"k":"v"}}"#, None),
            (r#"{"request_id":"r","x":1}"#, None),
            (r#"{"warnings":[],"x":1}"#, None),
            (r#"{"auth":{},"x":1}"#, None),
            (r#"{"errors":["no"],"x":1}"#, None),
            ("{}", None),
            ("[1]", None),
            ("x", None),
        ] {
            let made = enveloped(body.as_bytes());
            let made = made
                .as_ref()
                .map(|made| std::str::from_utf8(made.expose()).unwrap());
            assert_eq!(made, whole, "{body}");
        }
    }
}
