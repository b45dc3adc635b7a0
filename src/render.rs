//! From replies to files: which bytes, which mode, which version. Pure.
//!
//! A reply's files are measured before they are made, so that what is too large is never made, and memory for
//! the rest can be reserved.
//!
//! Bytes follow hashicorp/vault-csi-provider 1.7 (`internal/provider/provider.go`).

mod gojson;
mod measure;
mod raw;
mod scan;
mod whole;

use std::borrow::Cow;
use std::mem;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use self::gojson::Unreadable;
use self::measure::Part;
pub use self::measure::{Measured, Total, measure};
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
        "the files together are larger than the {LARGEST_ANSWER} bytes that the driver takes: object {last:?} goes over it; the largest is object {object:?} with {largest} bytes: split the class, or ask for single keys"
    )]
    TooLarge {
        /// The object at which they went over the limit. Those behind it were not made.
        last: String,
        /// The largest object so far.
        object: String,
        /// Its size, in bytes.
        largest: usize,
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
    let mut total = Total::default();
    let mut files = Vec::with_capacity(objects.len());
    for object in objects {
        let grant = reply(&object.request).ok_or_else(|| missing(object))?;
        let measured = measure(&[object], grant, &mut total)?;
        files.extend(made(&[object], grant, &measured)?);
    }
    Ok(files)
}

/// Makes the files of one reply, as they were measured, in the objects' order.
///
/// # Errors
/// A value is not in the encoding that its object names.
pub fn made(
    objects: &[&Object],
    grant: &Grant,
    measured: &Measured,
) -> Result<Vec<File>, RenderError> {
    // Hundreds of objects may be cut out of one large body.
    let text = std::str::from_utf8(grant.body.expose());
    let parts = objects.iter().zip(&measured.parts);
    let files = parts.map(|(object, part)| {
        let contents = match (grant.raw, text) {
            (true, _) => grant.body.clone(),
            (false, Ok(text)) => contents(object, text, part)?,
            (false, Err(_)) => return Err(missing(object)),
        };
        Ok(File {
            path: object.name.clone(),
            mode: object.mode,
            contents,
        })
    });
    files.collect()
}

/// Both were checked when the reply was read.
fn missing(object: &Object) -> RenderError {
    RenderError::NoReply {
        object: object.name.clone(),
    }
}

fn contents(object: &Object, body: &str, part: &Part) -> Result<SecretBytes, RenderError> {
    let unreadable = |Unreadable| missing(object);
    let value = body
        .get(part.value.clone())
        .ok_or_else(|| missing(object))?;
    let mut written = Zeroizing::new(String::new());
    if object.selector == Selector::Response {
        // Of its size at once: a buffer that grows leaves copies behind, unwiped.
        written.reserve_exact(part.size);
        whole::write(value, &mut written).map_err(unreadable)?;
        return Ok(SecretBytes::from(mem::take(&mut *written).into_bytes()));
    }
    let text = if value.starts_with('"') {
        gojson::unescaped(value).map_err(unreadable)?
    } else {
        written.reserve_exact(gojson::measure(value).map_err(unreadable)?.size);
        gojson::write(value, &mut written).map_err(unreadable)?;
        Cow::Borrowed(written.as_str())
    };
    let (decoded, encoding) = match object.encoding {
        Encoding::Utf8 => return Ok(SecretBytes::from(text.into_owned().into_bytes())),
        Encoding::Base64 => (base64(&text), "base64"),
        Encoding::Hex => (hex::decode(text.as_bytes()).ok(), "hex"),
    };
    if let Cow::Owned(mut text) = text {
        text.zeroize();
    }
    decoded
        .map(SecretBytes::from)
        .ok_or_else(|| RenderError::BadEncoding {
            object: object.name.clone(),
            path: object.request.path.clone(),
            encoding,
        })
}

/// As Go's `base64.StdEncoding`: with padding, line breaks passed over, and the last sign's unused bits not
/// looked at (`aGVsbG9=` is `hello` too).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn base64(text: &str) -> Option<Vec<u8>> {
    if !text.contains(['\r', '\n']) {
        return BASE64.decode(text.as_bytes()).ok();
    }
    let line = Zeroizing::new(text.replace(['\r', '\n'], ""));
    BASE64.decode(line.as_bytes()).ok()
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

    fn grant(object: &Object, body: &str) -> Grant {
        Grant {
            request: object.request.clone(),
            body: SecretBytes::from(body.as_bytes().to_vec()),
            raw: false,
            keep: Keep::Static,
            term: Term::endless(Moment::from_boot(Duration::ZERO)),
        }
    }

    fn rendered(object: &Object, body: &str) -> Result<Vec<u8>, RenderError> {
        let grant = grant(object, body);
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
    fn it_stops_at_the_object_that_goes_over() {
        let (small, large) = ("x".repeat(10), "y".repeat(LARGEST_ANSWER / 3));
        let body = json!({ "data": { "s": small, "l": large } }).to_string();
        let grant = grant(&object(None, Encoding::Utf8), &body);
        let objects: Vec<Object> = (0..500)
            .map(|at| Object {
                name: format!("file-{at}"),
                ..object(Some(if at == 0 { "s" } else { "l" }), Encoding::Utf8)
            })
            .collect();
        let named: Vec<&Object> = objects.iter().collect();
        let error = measure(&named, &grant, &mut Total::default())
            .err()
            .unwrap();
        let told = RenderError::TooLarge {
            last: "file-3".to_owned(),
            object: "file-1".to_owned(),
            largest: LARGEST_ANSWER / 3,
        };
        assert_eq!(error, told);
    }

    #[test]
    fn files_are_of_the_size_that_was_measured() {
        let body = r#" {"data":{"t":"a\nb\u003c","b":"aGVs\r\nbG8=","c":"aGVsbG8h","h":"68656C6c6f","m":{"b":"<","a":[1, 2]},"n":7},"warnings":["w"]} "#;
        for (key, encoding) in [
            (None, Encoding::Utf8),
            (Some("t"), Encoding::Utf8),
            (Some("m"), Encoding::Utf8),
            (Some("n"), Encoding::Utf8),
            (Some("b"), Encoding::Base64),
            (Some("c"), Encoding::Base64),
            (Some("h"), Encoding::Hex),
        ] {
            let object = object(key, encoding);
            let grant = grant(&object, body);
            let measured = measure(&[&object], &grant, &mut Total::default()).unwrap();
            let files = made(&[&object], &grant, &measured).unwrap();
            assert_eq!(files[0].contents.expose().len(), measured.size, "{key:?}");
        }
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
