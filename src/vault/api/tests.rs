//! What replies to logins and renewals grant.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn reply(body: &str) -> Reply {
    Reply {
        status: 200,
        retry_after: None,
        age: std::time::Duration::ZERO,
        content_type: None,
        body: crate::redacted::SecretBytes::from(body.as_bytes().to_vec()),
        memory: None,
    }
}

const ASKED: Asked<'_> = Asked {
    call: "renew",
    address: "http://vault",
    namespace: None,
};

#[test]
fn a_renewal_whose_body_says_nothing_is_none() {
    let sent = Moment::from_boot(HOUR);
    for body in [
        "",
        "{}",
        "<html>",
        r#"{"lease_id":"","lease_duration":0,"data":null}"#,
        r#"{"lease_id":"x"}"#,
        r#"{"lease_duration":-1}"#,
    ] {
        assert!(renewed_lease(ASKED, &reply(body), sent).is_err(), "{body}");
    }
    for body in ["", "{}", "<html>", r#"{"auth":null}"#, r#"{"auth":{}}"#] {
        assert!(renewed_self(ASKED, &reply(body), sent).is_err(), "{body}");
    }
    let granted = |body| {
        renewed_lease(ASKED, &reply(body), sent)
            .unwrap()
            .term
            .granted()
    };
    assert_eq!(granted(r#"{"lease_duration":3600}"#), HOUR);
    assert_eq!(granted(r#"{"lease_duration":"3600"}"#), HOUR);
    // The server floors.
    let last = r#"{"lease_id":"x","lease_duration":0,"renewable":true}"#;
    assert_eq!(granted(last), Duration::from_secs(1));
}

#[test]
fn a_login_is_never_lost_for_how_a_number_is_written() {
    let jwt = Secret::from("jwt".to_owned());
    for (duration, wanted) in [
        ("3600", 3600),
        ("3600.7", 3600),
        ("\"3600\"", 3600),
        ("-1", 1),
        ("null", 1),
        ("[]", 1),
    ] {
        let body = format!(
            r#"{{"auth":{{"client_token":"t","renewable":true,"lease_duration":{duration},"num_uses":-1,"policies":null}}}}"#
        );
        let given = logged_in(ASKED, &reply(&body), &jwt);
        let given = given.map(|given| given.granted.as_secs());
        assert_eq!(given, Ok(wanted), "{duration}");
    }
}

#[test]
fn what_is_floored_to_nothing_still_ends() {
    let sent = Moment::from_boot(HOUR);
    let last = renewal(sent, Duration::ZERO, true, None);
    assert!(last.capped);
    assert_eq!(last.term.end(), Some(sent.plus(Duration::from_secs(1))));
}
