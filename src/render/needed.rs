//! What of a reply the next poll needs. A large reply is cut down to the keys that its objects name before it is
//! kept: a tenant's class would else decide how much of the node's memory its replies take.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::gojson::Unreadable;
use super::measure;
use crate::grant::Grant;
use crate::redacted::SecretBytes;
use crate::spec::{Object, Selector};

/// A smaller body is kept whole, in bytes: a class that is edited to ask for another key of it then costs no new
/// credential.
const SMALL: usize = 16 * 1024;
/// The data lies in a map of its own, so that a key `data` of a reply is not taken for the data itself (see
/// `measure.rs`).
const OPENS: &str = "{\"data\":{\"data\":{";
const CLOSES: &str = "}}}";

/// The reply as it is kept for the next poll: files made of it are the same, byte for byte. It is the one that
/// was given where it is small, where an object asks for the whole response, and where nothing would be saved.
#[must_use]
pub fn needed(objects: &[Object], grant: &Arc<Grant>) -> Arc<Grant> {
    if grant.body.expose().len() <= SMALL || grant.raw {
        return Arc::clone(grant);
    }
    let mut named = objects
        .iter()
        .filter(|object| object.request == grant.request);
    let keys: Option<BTreeSet<&str>> = named.try_fold(BTreeSet::new(), |mut keys, object| {
        let Selector::Key(key) = &object.selector else {
            return None;
        };
        keys.insert(key.as_str());
        Some(keys)
    });
    // A reply that no object names is not needed at all; that is not for us to say.
    let keys = keys.filter(|keys| !keys.is_empty());
    let cut = keys.and_then(|keys| {
        let body = cut(grant, &keys).ok()??;
        Some((body, keys.into_iter().map(str::to_owned).collect()))
    });
    let Some((body, keys)) = cut else {
        return Arc::clone(grant);
    };
    Arc::new(Grant {
        request: grant.request.clone(),
        body,
        keys: Some(keys),
        raw: grant.raw,
        keep: grant.keep.clone(),
        term: grant.term,
    })
}

/// `None`: it would be no smaller.
fn cut(grant: &Grant, keys: &BTreeSet<&str>) -> Result<Option<SecretBytes>, Unreadable> {
    let body = grant.body.expose();
    let reply: &RawValue = serde_json::from_slice(body).map_err(|_| Unreadable)?;
    if !reply.get().starts_with('{') {
        return Err(Unreadable);
    }
    let mut found: HashMap<&str, Option<&str>> = keys.iter().map(|key| (*key, None)).collect();
    measure::values(reply.get(), &mut found)?;
    let mut fields = Vec::new();
    for key in keys {
        if let Some(value) = found.get(key).copied().flatten() {
            let name = serde_json::to_string(key).map_err(|_| Unreadable)?;
            fields.push((name, value));
        }
    }
    let size = |(name, value): &(String, &str)| name.len() + value.len() + 2;
    let size: usize = fields.iter().map(size).sum();
    let size = size + OPENS.len() + CLOSES.len();
    if size >= body.len() {
        return Ok(None);
    }
    // Made in one piece: a buffer that grows leaves copies behind, unwiped.
    let mut text = String::with_capacity(size);
    text.push_str(OPENS);
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(name);
        text.push(':');
        text.push_str(value);
    }
    text.push_str(CLOSES);
    Ok(Some(SecretBytes::from(text.into_bytes())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Moment;
    use crate::grant::{Keep, Term};
    use crate::render::files;
    use crate::spec::{Encoding, Method, Request};

    fn request(path: &str) -> Request {
        Request {
            method: Method::Put,
            path: path.to_owned(),
            query: Vec::new(),
            args: None,
        }
    }

    fn object(key: Option<&str>, encoding: Encoding) -> Object {
        Object {
            name: format!("{key:?}"),
            request: request("transit/encrypt/app"),
            selector: key.map_or(Selector::Response, |key| Selector::Key(key.to_owned())),
            encoding,
            mode: 0o400,
        }
    }

    fn grant(body: &str) -> Arc<Grant> {
        Arc::new(Grant {
            request: request("transit/encrypt/app"),
            body: SecretBytes::from(body.as_bytes().to_vec()),
            keys: None,
            raw: false,
            keep: Keep::Written,
            term: Term::new(Moment::from_boot(Duration::ZERO), Duration::from_secs(60)),
        })
    }

    /// What the files are, or the error that there is none.
    fn rendered(objects: &[Object], grant: &Grant) -> Result<Vec<Vec<u8>>, String> {
        let files = files(objects, |request| {
            (*request == grant.request).then_some(grant)
        });
        let files = files.map_err(|error| error.to_string())?;
        let contents = files.iter().map(|file| file.contents.expose().to_vec());
        Ok(contents.collect())
    }

    fn large() -> String {
        "x".repeat(SMALL)
    }

    #[test]
    fn files_of_what_is_kept_are_those_of_the_whole_reply() {
        let more = large();
        let deep = "[".repeat(100) + &"]".repeat(100);
        let replies = [
            json!({"data": {"k": "v", "more": more}}).to_string(),
            json!({"data": {"data": {"k": {"b": 1, "a": "<"}, "more": more}, "metadata": {}}})
                .to_string(),
            // A key that is called as the data is, at every depth.
            json!({"data": {"data": "text", "k": 1, "more": more}}).to_string(),
            json!({"data": {"data": {"data": {"k": 2}, "k": 3, "more": more}}}).to_string(),
            json!({"data": {"data": {"data": {"data": {"k": 4}}, "more": more}}}).to_string(),
            json!({"data": {"data": null, "k": null, "more": more}}).to_string(),
            json!({"data": {"k": "aGVsbG8=", "more": more}}).to_string(),
            json!({"data": {"k": "68656c6c6f", "data": "aGk=", "more": more}}).to_string(),
            json!({"data": {"a.b \"c\\ü": "v", "more": more}}).to_string(),
            format!(r#"{{"data":{{"k":1.10e3,"k":9007199254740993,"more":"{more}"}}}}"#),
            format!(r#"{{"data" : {{"k" : [ 1 , {{"z":1,"a":2}} ] ,"more":"{more}"}}}}"#),
            format!(r#"{{"data":{{"k":"\ud83d\ude00\u003c","more":"{more}"}}}}"#),
            format!(r#"{{"data":{{"k":"\ud800","more":"{more}"}}}}"#),
            format!(r#"{{"data":{{"k":{deep},"more":"{more}"}}}}"#),
            format!(r#"{{"data":{{"\u006b":"escaped","more":"{more}"}}}}"#),
            json!({"data": [more]}).to_string(),
            json!({"data": more}).to_string(),
            json!([more]).to_string(),
            more.clone(),
        ];
        for body in &replies {
            let whole = grant(body);
            for encoding in [Encoding::Utf8, Encoding::Base64, Encoding::Hex] {
                for keys in [
                    &["k"][..],
                    &["data"],
                    &["k", "data"],
                    &["a.b \"c\\ü"],
                    &["absent"],
                ] {
                    let objects: Vec<_> =
                        keys.iter().map(|key| object(Some(key), encoding)).collect();
                    let kept = needed(&objects, &whole);
                    assert!(
                        rendered(&objects, &kept) == rendered(&objects, &whole),
                        "{keys:?} {}",
                        body.replace(&more, "…")
                    );
                    assert!(kept.answers(&objects) && kept.is_same(&whole));
                }
            }
        }
    }

    #[test]
    fn only_what_is_large_and_not_needed_is_cut() {
        let (more, key) = (large(), object(Some("k"), Encoding::Utf8));
        let kept = |objects: &[Object], body: &Value| needed(objects, &grant(&body.to_string()));
        let body = json!({"data": {"k": "v", "l": 1, "more": more}});
        let cut = kept(std::slice::from_ref(&key), &body);
        assert!(cut.body.expose() == br#"{"data":{"data":{"k":"v"}}}"#);
        assert!(cut.body.expose().len() < 100);
        let other = object(Some("l"), Encoding::Utf8);
        assert!(
            !cut.answers(&[key.clone(), other.clone()]),
            "an edited class"
        );
        assert!(!cut.answers(&[object(None, Encoding::Utf8)]));
        // Cut again, nothing is lost and nothing gained.
        assert!(Arc::ptr_eq(&needed(&[other], &cut), &cut));
        let whole = [key.clone(), object(None, Encoding::Utf8)];
        assert!(kept(&whole, &body).keys.is_none(), "the whole response");
        let small = json!({"data": {"k": "v", "l": 1}});
        assert!(kept(std::slice::from_ref(&key), &small).keys.is_none());
        let elsewhere = Object {
            request: request("other"),
            ..key.clone()
        };
        assert!(
            kept(&[elsewhere], &body).keys.is_none(),
            "not for us to say"
        );
        let all_of_it = json!({"data": {"data": {"k": more}}});
        assert!(kept(&[key], &all_of_it).keys.is_none(), "nothing is saved");
    }
}
