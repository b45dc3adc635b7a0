//! Rate-limit quotas of each kind. As a real OpenBao 2.6.2 answers (`sys/quotas/rate-limit`, asked on its dev
//! server): a namespace's quota refuses every call in it, renewals included; a mount's or a path's the calls at
//! that path alone, not the renewals of its leases; a role's the logins of that role. `Retry-After` comes with
//! `enable_rate_limit_response_headers` alone.

use futures::future::join_all;

use crate::backends::beside;
use crate::scene::{TENANT, none};
use crate::support::hostile::{Asked, Reply};

type Fits = fn(&Asked) -> bool;

const KINDS: &[(&str, Fits)] = &[
    ("namespace", |asked| asked.namespace == TENANT),
    ("mount", |asked| {
        asked.namespace.is_empty() && asked.path.starts_with("hostile/")
    }),
    ("path", |asked| asked.path == "hostile-kv/app"),
    ("role", |asked| {
        asked.namespace.is_empty() && asked.role() == "hostile"
    }),
];

/// The recorded answer, with the headers of a quota of one request in a minute, or without.
fn throttled(with_headers: bool) -> Reply {
    let body = r#"{"errors":["request path \"kv/x\": rate limit quota exceeded"]}"#;
    let mut headers = vec![("content-type", "application/json".to_owned())];
    if with_headers {
        headers.extend([
            ("retry-after", "59".to_owned()),
            ("x-ratelimit-limit", "1".to_owned()),
            ("x-ratelimit-remaining", "0".to_owned()),
            ("x-ratelimit-reset", "59".to_owned()),
        ]);
    }
    Reply::Answer(429, headers, body.into())
}

#[tokio::test]
async fn a_scoped_quota_stops_nobody_else() {
    let kinds = KINDS.iter().flat_map(|kind| [(kind, true), (kind, false)]);
    let scenes = kinds.map(|((kind, fits), with_headers)| async move {
        let name = format!("quota of a {kind}, Retry-After: {with_headers}");
        beside(&name, fits, move || throttled(with_headers)).await
    });
    none(join_all(scenes).await);
}
