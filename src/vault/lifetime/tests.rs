//! `tests/recorded/lifetimes.json`: replies of real engines, and of none, with the lifetime that is right.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::error::Asked;
use super::super::read::granted;
use super::super::transport::Reply;
use super::*;
use crate::clock::Moment;
use crate::grant::Grant;
use crate::redacted::{Secret, SecretBytes};

const REFRESH: Duration = Duration::from_secs(3600);
const RECORDED: &str = include_str!("../../../tests/recorded/lifetimes.json");

#[derive(Deserialize)]
struct Recorded {
    name: String,
    source: String,
    method: String,
    path: String,
    reply: Value,
    keep: String,
    /// The lifetime; nothing for a static read.
    seconds: Option<u64>,
    /// Its end in Unix time, where that is recorded in its place.
    until: Option<u64>,
}

fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Puts moments in the place of `@unix+60`, `@text+60`, `@rfc3339+60`, `@jwt+60` and `@pem+60`.
fn timed(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(timed),
        Value::Array(list) => list.iter_mut().for_each(timed),
        Value::String(text) => {
            let Some((form, seconds)) = text.strip_prefix('@').and_then(|it| it.split_once('+'))
            else {
                return;
            };
            let end = unix_now() + seconds.parse::<u64>().unwrap();
            let moment = jiff::Timestamp::from_second(i64::try_from(end).unwrap()).unwrap();
            *value = match form {
                "unix" => json!(end),
                "text" => json!(end.to_string()),
                "rfc3339" => json!(moment.to_string()),
                "jwt" => {
                    let claims = URL_SAFE_NO_PAD.encode(json!({ "exp": end }).to_string());
                    json!(format!("eyJhbGciOiJub25lIn0.{claims}.c2ln"))
                }
                "pem" => json!(certificate_until(end)),
                _ => panic!("{form}"),
            };
        }
        _ => {}
    }
}

fn certificate_until(end: u64) -> String {
    let mut asked = rcgen::CertificateParams::new(vec!["web".to_owned()]).unwrap();
    let end = i64::try_from(end).unwrap();
    asked.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end as u64);
    let key = rcgen::KeyPair::generate().unwrap();
    asked.self_signed(&key).unwrap().pem()
}

fn kept(recorded: &Recorded) -> Grant {
    let mut body = recorded.reply.clone();
    timed(&mut body);
    let method = match recorded.method.as_str() {
        "GET" => Method::Get,
        "LIST" => Method::List,
        "PUT" => Method::Put,
        _ => Method::Post,
    };
    let request = Request {
        method,
        path: recorded.path.clone(),
        query: Vec::new(),
        args: None,
    };
    granted_by(&request, &body.to_string(), Duration::ZERO)
}

/// What a reply grants that is `age` old.
fn granted_by(request: &Request, body: &str, age: Duration) -> crate::grant::Grant {
    let reply = Reply {
        status: 200,
        retry_after: None,
        age,
        content_type: None,
        body: SecretBytes::from(body.as_bytes().to_vec()),
        memory: None,
    };
    let asked = Asked {
        call: "read",
        address: "http://vault",
        namespace: None,
    };
    let sent = Moment::from_boot(REFRESH);
    let token = Secret::from("s.token".to_owned());
    granted(asked, request, reply, sent, REFRESH, &token).unwrap()
}

#[test]
fn every_recorded_reply_is_kept_for_as_long_as_it_is_good() {
    let recorded: Vec<Recorded> = serde_json::from_str(RECORDED).unwrap();
    assert!(recorded.len() > 90);
    for recorded in recorded {
        let grant = kept(&recorded);
        let keep = match &grant.keep {
            Keep::Static => "static",
            Keep::Lease { .. } => "lease",
            Keep::Certificate => "certificate",
            Keep::Expiring => "expiring",
            Keep::Written => "written",
        };
        let (name, source) = (&recorded.name, &recorded.source);
        assert_eq!(keep, recorded.keep, "{name} ({source})");
        let wanted = recorded.until.map(|until| until - unix_now());
        let wanted = wanted.or(recorded.seconds).unwrap_or_default();
        let given = grant.term.granted().as_secs();
        // The test's own seconds pass.
        let near = given <= wanted + 1 && given + 10 >= wanted;
        assert!(near, "{name} ({source}): {given}, not {wanted}");
        let without_end = grant.term.end().is_none();
        assert_eq!(without_end, grant.keep == Keep::Static, "{name}");
    }
}

#[test]
fn a_certificate_that_is_over_by_this_nodes_clock_counts_with_its_whole_validity() {
    let mut asked = rcgen::CertificateParams::new(vec!["web".to_owned()]).unwrap();
    asked.not_before = rcgen::date_time_ymd(2020, 1, 1);
    asked.not_after = rcgen::date_time_ymd(2020, 1, 3);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = asked.self_signed(&key).unwrap().pem();
    let recorded = Recorded {
        name: String::new(),
        source: String::new(),
        method: "PUT".to_owned(),
        path: "pki/issue/web".to_owned(),
        reply: json!({ "data": { "certificate": pem, "expiration": 1_578_009_600 } }),
        keep: String::new(),
        seconds: None,
        until: None,
    };
    let grant = kept(&recorded);
    assert_eq!(grant.keep, Keep::Certificate);
    assert_eq!(grant.term.granted(), Duration::from_secs(2 * 24 * 3600));
}

#[test]
fn no_bytes_break_the_reader_of_ssh_certificates() {
    let recorded: Vec<Recorded> = serde_json::from_str(RECORDED).unwrap();
    let mut read = 0;
    for recorded in &recorded {
        let Some(line) = recorded.reply["data"]["signed_key"].as_str() else {
            continue;
        };
        read += usize::from(openssh::valid_before(line).is_some());
        for end in 0..line.len() {
            if let Some(cut) = openssh::valid_before(&line[..end]) {
                // Whatever follows the field may be missing.
                assert_eq!(Some(cut), openssh::valid_before(line));
            }
        }
    }
    assert_eq!(read, 6);
    assert_eq!(openssh::valid_before(""), None);
    assert_eq!(openssh::valid_before("ä"), None);
    let wide = format!("{}ä", "x".repeat(64 * 1024 - 1));
    assert_eq!(openssh::valid_before(&wide), None);
}

#[test]
fn no_number_of_a_server_loses_a_lease() {
    let request = Request {
        method: Method::Get,
        path: "database/creds/app".to_owned(),
        query: Vec::new(),
        args: None,
    };
    let century = crate::clock::LONGEST.as_secs();
    let second = Duration::from_secs(1);
    for (written, wanted) in [
        ("3600", 3600),
        ("3600.9", 3600),
        ("3.6e3", 3600),
        ("\"3600\"", 3600),
        ("\"1h\"", 3600),
        ("18446744073709551615", century),
        ("18446744073709551616", century),
        ("9223372036854775807", century),
        ("1e400", century),
        ("0", 1),
        ("-1", 1),
        ("-9223372036854775808", 1),
        ("null", 1),
        ("\"soon\"", 1),
        ("{}", 1),
        ("[3600]", 1),
    ] {
        let body = format!(
            r#"{{"lease_id":"l/1","renewable":true,"lease_duration":{written},"data":{{"a":"b"}}}}"#
        );
        for age in [Duration::ZERO, second / 2, Duration::from_secs(u64::MAX)] {
            let grant = granted_by(&request, &body, age);
            assert_eq!(grant.lease_id(), Some("l/1"), "{written}");
            assert_eq!(grant.term.granted().as_secs(), wanted, "{written}");
            let left = grant.term.left(Moment::from_boot(REFRESH));
            assert!(left >= Some(second / 2), "{written}: {left:?}");
        }
    }
}
