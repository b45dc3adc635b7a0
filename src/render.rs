//! From replies to files: which bytes, which mode, which version. Pure.
//!
//! Bytes follow hashicorp/vault-csi-provider 1.7 (`internal/provider/provider.go`).

mod gojson;
mod raw;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE};
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use self::gojson::{Fields, Unreadable};
use crate::grant::Grant;
use crate::redacted::SecretBytes;
use crate::spec::{Encoding, Object, Request, Selector};

/// The driver refuses answers above 4 MiB; this leaves room for what the message adds.
pub const LARGEST_ANSWER: usize = 4 * 1024 * 1024 - 64 * 1024;
/// What the protocol adds to a file, at the most, besides its path and content.
const PER_FILE: usize = 128;

/// A file of the volume.
pub struct File {
    /// Its path within the volume.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub contents: SecretBytes,
}

/// Why a reply does not give the file that was asked for. Shows no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The key is not in the data.
    #[error("object {object:?}: the data at {path:?} has no key {key:?}: check `secretKey`")]
    KeyAbsent {
        /// The object.
        object: String,
        /// Where it was read.
        path: String,
        /// What was looked for.
        key: String,
    },
    /// A key of a reply that has none.
    #[error(
        "object {object:?}: the reply at {path:?} is no JSON, so it has no key {key:?}: leave `secretKey` out for its bytes{}",
        raw::or_twin(path)
    )]
    NoKeys {
        /// The object.
        object: String,
        /// Where it was read.
        path: String,
        /// What was looked for.
        key: String,
    },
    /// The value is not in the encoding that the object names.
    #[error("object {object:?}: the value at {path:?} is not in {encoding}: check `encoding`")]
    BadEncoding {
        /// The object.
        object: String,
        /// Where it was read.
        path: String,
        /// The encoding.
        encoding: &'static str,
    },
    /// All files together are more than the driver takes.
    #[error(
        "the files are {size} bytes together and the driver takes {LARGEST_ANSWER}; the largest is object {object:?} with {largest} bytes: split the class, or ask for single keys"
    )]
    TooLarge {
        /// The largest object.
        object: String,
        /// Its size, in bytes.
        largest: usize,
        /// The size of all, in bytes.
        size: usize,
    },
    /// A request has no reply, or one that is no JSON: our own mistake, for both were checked.
    #[error("object {object:?}: its reply is missing")]
    NoReply {
        /// The object.
        object: String,
    },
}

/// Makes the files of a volume, in the objects' order.
///
/// # Errors
/// A reply lacks what an object asks for, or the files are too large together.
pub fn files<'a>(
    objects: &[Object],
    reply: impl Fn(&Request) -> Option<&'a Grant>,
) -> Result<Vec<File>, RenderError> {
    let mut files = Vec::with_capacity(objects.len());
    for object in objects {
        let missing = || RenderError::NoReply {
            object: object.name.clone(),
        };
        let grant = reply(&object.request).ok_or_else(missing)?;
        let contents = if grant.raw {
            raw::contents(object, &grant.body)?
        } else {
            let reply: &RawValue =
                serde_json::from_slice(grant.body.expose()).map_err(|_| missing())?;
            contents(object, reply).map_err(|error| error.unwrap_or_else(missing))?
        };
        files.push(File {
            path: object.name.clone(),
            mode: object.mode,
            contents,
        });
    }
    let measure = |file: &File| file.path.len() * 2 + file.contents.expose().len() + PER_FILE;
    let size: usize = files.iter().map(measure).sum();
    match files.iter().max_by_key(|file| file.contents.expose().len()) {
        Some(file) if size > LARGEST_ANSWER => Err(RenderError::TooLarge {
            object: file.path.clone(),
            largest: file.contents.expose().len(),
            size,
        }),
        _ => Ok(files),
    }
}

/// The content of an object's file. `Err(None)`: the reply cannot be read.
fn contents(object: &Object, reply: &RawValue) -> Result<SecretBytes, Option<RenderError>> {
    let reply = gojson::fields(reply).map_err(|Unreadable| None)?;
    let Selector::Key(key) = &object.selector else {
        let whole = whole(&reply).map_err(|Unreadable| None)?;
        return Ok(SecretBytes::from(whole.into_bytes()));
    };
    let data = unwrapped(&reply).map_err(|Unreadable| None)?;
    let value = data.get(key.as_str()).ok_or_else(|| {
        Some(RenderError::KeyAbsent {
            object: object.name.clone(),
            path: object.request.path.clone(),
            key: key.clone(),
        })
    })?;
    let text = Zeroizing::new(gojson::plain(value).map_err(|Unreadable| None)?);
    let (decoded, encoding) = match object.encoding {
        Encoding::Utf8 => (Some(text.as_bytes().to_vec()), "utf-8"),
        Encoding::Base64 => (base64(&text), "base64"),
        Encoding::Hex => (hex::decode(text.as_bytes()).ok(), "hex"),
    };
    decoded.map(SecretBytes::from).ok_or_else(|| {
        Some(RenderError::BadEncoding {
            object: object.name.clone(),
            path: object.request.path.clone(),
            encoding,
        })
    })
}

/// As Go's `base64.StdEncoding`: with padding, line breaks passed over, and the last sign's unused bits not
/// looked at (`aGVsbG9=` is `hello` too).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn base64(text: &str) -> Option<Vec<u8>> {
    let line = Zeroizing::new(text.replace(['\r', '\n'], ""));
    BASE64.decode(line.as_bytes()).ok()
}

/// The reply's data; the `data` within it where that is a map (KV 2, and whatever else looks like it).
fn unwrapped<'a>(reply: &Fields<'a>) -> Result<Fields<'a>, Unreadable> {
    let map = |fields: &Fields<'a>| {
        let data = fields
            .get("data")
            .filter(|data| data.get().starts_with('{'));
        data.map(|data| gojson::fields(data)).transpose()
    };
    let data = map(reply)?.unwrap_or_default();
    Ok(map(&data)?.unwrap_or(data))
}

/// The whole response, as Go writes the API client's `Secret` (vault/api `secret.go`): its fields in its
/// order, and no others.
fn whole(reply: &Fields<'_>) -> Result<String, Unreadable> {
    const ALWAYS: [(&str, &str); 6] = [
        ("request_id", "\"\""),
        ("lease_id", "\"\""),
        ("lease_duration", "0"),
        ("renewable", "false"),
        ("data", "null"),
        ("warnings", "null"),
    ];
    let mut text = String::from("{");
    for (index, (name, absent)) in ALWAYS.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&format!("\"{name}\":"));
        match reply.get(name) {
            Some(value) if value.get() != "null" => gojson::write(value, &mut text)?,
            _ => text.push_str(absent),
        }
    }
    let mount_type = reply.get("mount_type");
    if let Some(mount_type) = mount_type.filter(|value| !matches!(value.get(), "null" | "\"\"")) {
        text.push_str(",\"mount_type\":");
        gojson::write(mount_type, &mut text)?;
    }
    text.push('}');
    Ok(text)
}

/// The version of an object: HMAC-SHA256 over its configuration and its content. The configuration is part
/// of it, so that two objects with the same content do not show that they have.
#[must_use]
pub fn version(key: &[u8], object: &Object, contents: &SecretBytes) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    // JSON ends where it ends: no content can move into the configuration.
    context.update(configuration(object).to_string().as_bytes());
    context.update(contents.expose());
    URL_SAFE.encode(context.sign())
}

/// All that an object says. Taken apart by name, so that a new field cannot be forgotten here.
fn configuration(object: &Object) -> Value {
    let Object {
        name,
        request,
        selector,
        encoding,
        mode,
    } = object;
    let Request {
        method,
        path,
        query,
        args,
    } = request;
    let pairs = query.iter().flat_map(|(name, value)| [name, value]);
    let key = match selector {
        Selector::Response => None,
        Selector::Key(key) => Some(key.as_str()),
    };
    let encoding = match encoding {
        Encoding::Utf8 => "utf-8",
        Encoding::Base64 => "base64",
        Encoding::Hex => "hex",
    };
    Value::Array(vec![
        Value::from(name.as_str()),
        Value::from(method.as_str()),
        Value::from(path.as_str()),
        pairs.map(String::as_str).collect(),
        Value::from(args.as_deref()),
        Value::from(key),
        Value::from(encoding),
        Value::from(*mode),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::clock::Moment;
    use crate::grant::{Keep, Term};
    use crate::spec::Method;

    fn object(key: Option<&str>, encoding: Encoding) -> Object {
        Object {
            name: "file".to_owned(),
            request: Request {
                method: Method::Get,
                path: "path/one".to_owned(),
                query: Vec::new(),
                args: None,
            },
            selector: key.map_or(Selector::Response, |key| Selector::Key(key.to_owned())),
            encoding,
            mode: 0o640,
        }
    }

    fn rendered(object: &Object, body: &str) -> Result<Vec<u8>, RenderError> {
        let grant = Grant {
            request: object.request.clone(),
            body: SecretBytes::from(body.as_bytes().to_vec()),
            raw: false,
            keep: Keep::Static,
            term: Term::endless(Moment::from_boot(Duration::ZERO)),
        };
        let files = files(std::slice::from_ref(object), |_| Some(&grant))?;
        Ok(files[0].contents.expose().to_vec())
    }

    fn key(key: &str, data: &Value) -> Result<Vec<u8>, RenderError> {
        rendered(
            &object(Some(key), Encoding::Utf8),
            &json!({ "data": data }).to_string(),
        )
    }

    #[test]
    fn keys_are_found_as_the_incumbent_finds_them() {
        let nested = json!({"data": {"foo": {"b": 9, "a": "<"}, "baz": "zap"}, "metadata": {}});
        let table = [
            ("foo", json!({"foo": "bar"}), "bar"),
            ("data", json!({"data": "hello", "foo": "bar"}), "hello"),
            ("baz", nested.clone(), "zap"),
            ("foo", nested, r#"{"a":"\u003c","b":9}"#),
            ("n", json!({"n": 10}), "10"),
            (
                "l",
                json!({"l": [6, "stilton", true]}),
                r#"[6,"stilton",true]"#,
            ),
            ("z", json!({"z": null}), "null"),
            ("a.b c", json!({"a.b c": "x"}), "x"),
        ];
        for (name, data, wanted) in table {
            assert_eq!(key(name, &data).unwrap(), wanted.as_bytes(), "{name}");
        }
        let absent = key("x", &json!({"secret": "value"})).unwrap_err();
        assert!(matches!(absent, RenderError::KeyAbsent { .. }));
        assert!(!absent.to_string().contains("value"));
    }

    #[test]
    fn the_whole_response_is_the_incumbents() {
        let body = r#"{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{"k":"v","a":1.10},"wrap_info":null,"warnings":null,"auth":null}"#;
        let bytes = rendered(&object(None, Encoding::Utf8), body).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"request_id":"r","lease_id":"","lease_duration":0,"renewable":false,"data":{"a":1.10,"k":"v"},"warnings":null}"#
        );
    }

    #[test]
    fn numbers_and_odd_keys_come_out_as_they_went_in() {
        let body = r#"{"data":{"n":1e3,"m":[1E5,-0,0.10],"o":{"$serde_json::private::Number":"x"}},"lease_duration":7}"#;
        for (name, wanted) in [
            ("n", "1e3"),
            ("m", "[1E5,-0,0.10]"),
            ("o", r#"{"$serde_json::private::Number":"x"}"#),
        ] {
            let bytes = rendered(&object(Some(name), Encoding::Utf8), body).unwrap();
            assert_eq!(String::from_utf8(bytes).unwrap(), wanted);
        }
        let bytes = rendered(&object(None, Encoding::Utf8), body).unwrap();
        assert!(bytes.starts_with(br#"{"request_id":"","lease_id":"","lease_duration":7,"#));
    }

    #[test]
    fn what_is_no_reply_is_told_and_shown_nowhere() {
        let deep = format!(
            "{{\"data\":{{\"k\":{}{}}}}}",
            "[".repeat(5000),
            "]".repeat(5000)
        );
        for body in [
            "",
            "[]",
            "{",
            "hunter2",
            r#"{"data":{"k":"\ud800hunter2"}}"#,
            deep.as_str(),
        ] {
            let error = rendered(&object(Some("k"), Encoding::Utf8), body).unwrap_err();
            assert!(matches!(error, RenderError::NoReply { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn encodings_are_undone() {
        let body = r#"{"data":{"b":"aGVs\r\nbG8=","t":"aGVsbG9=","h":"68656C6c6f","u":"%"}}"#;
        for (name, encoding) in [
            ("b", Encoding::Base64),
            ("t", Encoding::Base64),
            ("h", Encoding::Hex),
        ] {
            let bytes = rendered(&object(Some(name), encoding), body);
            assert_eq!(bytes.unwrap(), b"hello");
            let wrong = rendered(&object(Some("u"), encoding), body);
            assert!(matches!(wrong, Err(RenderError::BadEncoding { .. })));
        }
    }

    #[test]
    fn too_much_names_the_largest() {
        let body = json!({"data": {"k": "x".repeat(LARGEST_ANSWER)}}).to_string();
        let error = rendered(&object(Some("k"), Encoding::Utf8), &body).unwrap_err();
        assert!(matches!(&error, RenderError::TooLarge { object, .. } if object == "file"));
    }

    #[test]
    fn versions_tell_change_and_nothing_else() {
        let (one, two) = (
            object(Some("a"), Encoding::Utf8),
            object(Some("b"), Encoding::Utf8),
        );
        let content = SecretBytes::from(b"same".to_vec());
        let version_of = |object| version(b"key", object, &content);
        assert_eq!(version_of(&one), version_of(&one));
        let mut other = one.clone();
        other.request.query = vec![("version".to_owned(), "1".to_owned())];
        assert_ne!(version_of(&one), version_of(&other));
        let mut other = one.clone();
        other.request.args = Some("{}".to_owned());
        assert_ne!(version_of(&one), version_of(&other));
        assert_ne!(version_of(&one), version_of(&two));
        assert_ne!(version_of(&one), version(b"other", &one, &content));
        assert_ne!(
            version_of(&one),
            version(b"key", &one, &SecretBytes::from(b"new".to_vec()))
        );
    }
}
