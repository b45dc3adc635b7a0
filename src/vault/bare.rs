//! Replies without an envelope: some paths (`sys/health`, `sys/leader`) answer with their fields alone.
//!
//! Vault's own client then takes the whole reply for its data (vault/api `secret.go`, `ParseSecret`), so
//! that `secretKey: version` finds something there.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::redacted::SecretBytes;

/// The envelope's fields. Whatever else a reply has is passed over: it may be fields by the hundred thousand.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    lease_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    lease_duration: Option<&'a RawValue>,
    #[serde(borrow, default)]
    renewable: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    warnings: Option<&'a RawValue>,
    #[serde(borrow, default)]
    auth: Option<&'a RawValue>,
    #[serde(borrow, default)]
    wrap_info: Option<&'a RawValue>,
    #[serde(borrow, default)]
    mount_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    errors: Option<&'a RawValue>,
}

impl Envelope<'_> {
    fn says_nothing(&self) -> bool {
        let fields = [
            (self.request_id, "\"\""),
            (self.lease_id, "\"\""),
            (self.lease_duration, "0"),
            (self.renewable, "false"),
            (self.data, "null"),
            (self.warnings, "null"),
            (self.auth, "null"),
            (self.wrap_info, "null"),
            (self.mount_type, "\"\""),
        ];
        let says = |(field, nothing): (Option<&RawValue>, &str)| {
            field.is_some_and(|field| field.get() != nothing)
        };
        !fields.into_iter().any(says)
    }
}

/// Whether a reply is bare: a map of fields without an envelope. One with `errors` is no data.
fn is_bare(body: &[u8]) -> bool {
    let inner = body.trim_ascii().strip_prefix(b"{");
    let has_fields = inner.is_some_and(|inner| !inner.trim_ascii_start().starts_with(b"}"));
    let envelope = || serde_json::from_slice::<Envelope<'_>>(body);
    has_fields
        && envelope().is_ok_and(|envelope| envelope.errors.is_none() && envelope.says_nothing())
}

/// A reply in its envelope: a bare one is put into one, any other has one.
pub fn enveloped(body: SecretBytes) -> SecretBytes {
    match is_bare(body.expose()) {
        true => body.between(b"{\"data\":", b"}"),
        false => body,
    }
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
            let made = enveloped(SecretBytes::from(body.as_bytes().to_vec()));
            let made = std::str::from_utf8(made.expose()).unwrap();
            assert_eq!(made, whole.unwrap_or(body), "{body}");
        }
    }
}
