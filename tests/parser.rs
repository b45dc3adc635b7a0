//! What the incumbents' own code made of some hundred classes and replies, and what ours makes of them.
//!
//! `tests/recorded/` says how that was recorded. Where we differ on purpose, the table below says so; an
//! entry that no longer differs fails the test, so the table cannot outlive its reasons.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use leasehold::clock::{BootClock, Moment};
use leasehold::grant::{Session, Term, TokenKind};
use leasehold::metrics::Metrics;
use leasehold::params::{Attributes, Defaults, Flavour, Parsed, parse};
use leasehold::redacted::Secret;
use leasehold::render;
use leasehold::spec::{Encoding, Endpoint, Login, Method, Object, Request, Selector, Tls};
use leasehold::vault::{Cache, Settings, Vault};
use recorded::{DIFFERENT, OTHER_CONTENT};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// An address in place of what the incumbent would take from its environment.
const ELSEWHERE: &str = "http://elsewhere:8200";

const FLAVOURS: [(Flavour, &str); 2] = [
    (Flavour::Vault, "vault.json"),
    (Flavour::OpenBao, "openbao.json"),
];

fn read(file: &str) -> Value {
    let text = fs::read_to_string(format!("tests/recorded/{file}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn understood(base: &Map<String, Value>, class: &Value, flavour: Flavour) -> Value {
    let mut parameters = base.clone();
    parameters.extend(class["set"].as_object().cloned().unwrap_or_default());
    for name in class["drop"].as_array().into_iter().flatten() {
        parameters.remove(name.as_str().unwrap());
    }
    let attributes = Value::Object(parameters).to_string();

    let defaults = Defaults {
        flavour,
        address: Some(ELSEWHERE.to_owned()),
        agent_address: None,
        namespace: None,
        auth_mount: "by-default".to_owned(),
        tls: Tls::default(),
    };
    let message = Attributes {
        attributes: &attributes,
        secrets: "",
        target_path: "/target",
        permission: class["permission"].as_str().unwrap_or("420"),
    };
    match parse(&message, &defaults) {
        Ok(parsed) => described(&parsed),
        Err(faults) => json!({ "error": faults.to_string() }),
    }
}

/// A request in the words of the record; what is empty there is left out here too.
fn described(parsed: &Parsed) -> Value {
    let spec = &parsed.spec;
    let mut whole = Map::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            whole.insert(name.to_owned(), Value::from(value));
        }
    };
    put("role", &spec.login.role);
    if spec.endpoint.address != ELSEWHERE {
        put("address", &spec.endpoint.address);
    }
    put(
        "namespace",
        spec.endpoint.namespace.as_deref().unwrap_or_default(),
    );
    if spec.login.mount != "by-default" {
        put("mount", &spec.login.mount);
    }
    let tokens = &parsed.tokens;
    put(
        "audience",
        tokens.named_audience.as_deref().unwrap_or_default(),
    );
    put(
        "token",
        tokens
            .wanted
            .as_ref()
            .map_or("", |token| token.jwt.expose()),
    );
    let tls = &spec.endpoint.tls;
    let files = [
        ("ca_file", tls.ca_file.as_ref()),
        ("ca_directory", tls.ca_directory.as_ref()),
        ("client_certificate", tls.client_certificate.as_ref()),
        ("client_key", tls.client_key.as_ref()),
    ];
    let mut settings: BTreeMap<&str, String> = files
        .into_iter()
        .filter_map(|(name, file)| Some((name, file?.display().to_string())))
        .collect();
    if let Some(name) = &tls.server_name {
        settings.insert("server_name", name.clone());
    }
    if !settings.is_empty() {
        whole.insert("tls".to_owned(), json!(settings));
    }
    if tls.skip_verify {
        whole.insert("skip_verify".to_owned(), Value::from(true));
    }
    let objects = spec.objects.iter().map(|object| {
        let (key, encoding) = match &object.selector {
            Selector::Response => ("", ""),
            Selector::Key(key) => (key.as_str(), match object.encoding {
                Encoding::Utf8 => "",
                Encoding::Base64 => "base64",
                Encoding::Hex => "hex",
            }),
        };
        json!({
            "name": object.name,
            "method": object.request.method.as_str(),
            "path": format!("/v1/{}", object.request.path),
            "query": object.request.query,
            "body": object.request.args.as_ref().map_or(Value::Null, |args| serde_json::from_str(args).unwrap()),
            "mode": object.mode,
            "key": key,
            "encoding": encoding,
        })
    });
    whole.insert("objects".to_owned(), objects.collect());
    Value::Object(whole)
}

/// The record, brought to the same form: the body as JSON, an encoding that is without effect as none, of a
/// mode what a file gets.
fn expected(recorded: &Value) -> Value {
    let mut recorded = recorded.clone();
    for object in recorded["objects"].as_array_mut().into_iter().flatten() {
        let body = object["body"].as_str().unwrap();
        object["body"] = match body {
            "" => Value::Null,
            body => serde_json::from_str(body).unwrap(),
        };
        let encoding = object["encoding"].as_str().unwrap().to_lowercase();
        let idle = object["key"] == "" || encoding == "utf-8";
        object["encoding"] = Value::from(if idle { "" } else { encoding.as_str() });
        object["mode"] = Value::from(object["mode"].as_u64().unwrap() & 0o777);
    }
    if let Some(address) = recorded.get("address") {
        let address = address.as_str().unwrap().trim_end_matches('/');
        recorded["address"] = Value::from(address.replace("HTTP:", "http:"));
    }
    recorded
}

/// Counts, and holds differences against the table of those that are meant.
struct Differences {
    reasons: BTreeMap<&'static str, &'static str>,
    same: usize,
    all: usize,
    found: BTreeSet<String>,
}

impl Differences {
    fn new(table: &'static [(&str, &[&str])]) -> Self {
        let entries = table.iter();
        Self {
            reasons: entries
                .flat_map(|(reason, names)| names.iter().map(|name| (*name, *reason)))
                .collect(),
            same: 0,
            all: 0,
            found: BTreeSet::new(),
        }
    }

    fn note(&mut self, agree: bool, name: &str, what: impl Fn() -> String) {
        self.all += 1;
        if agree {
            self.same += 1;
            return;
        }
        assert!(self.reasons.contains_key(name), "{}", what());
        self.found.insert(name.to_owned());
    }

    /// Every entry of the table still differs, and the document has the count.
    fn settle(self, what: &str) {
        let (same, all) = (self.same, self.all);
        let found = self.found.len();
        println!("{same} of {all} {what} agree; {found} inputs differ on purpose");
        for name in self.reasons.keys() {
            assert!(self.found.contains(*name), "{name:?} differs no more");
        }
        let text = fs::read_to_string("docs/compatibility.md").unwrap();
        let count = format!("{same} of {all} {what}");
        assert!(text.contains(&count), "the document does not say {count:?}");
    }
}

#[test]
fn classes_mean_what_they_meant() {
    let classes = read("classes.json");
    let base = classes["base"].as_object().unwrap();
    let mut different = Differences::new(DIFFERENT);
    for (flavour, file) in FLAVOURS {
        let recorded = read(file);
        for class in classes["cases"].as_array().unwrap() {
            let name = class["name"].as_str().unwrap();
            let theirs = expected(&recorded["classes"][name]);
            let ours = understood(base, class, flavour);
            let agree = match theirs.get("error") {
                Some(_) => ours.get("error").is_some(),
                None => ours == theirs,
            };
            different.note(agree, name, || {
                format!("{file}: {name}\n  theirs {theirs}\n  ours   {ours}")
            });
        }
    }
    different.settle("classes");
}

/// A server that answers with the body of the input whose number is the path.
async fn serve(bodies: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |request: axum::extract::Request| {
        let number = request.uri().path().rsplit('/').next().unwrap();
        let body = bodies[number.parse::<usize>().unwrap()].clone();
        async move { body }
    };
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn session(address: String) -> Session {
    Session {
        id: "s".to_owned(),
        endpoint: Endpoint {
            address,
            namespace: None,
            tls: Tls::default(),
        },
        login: Login {
            mount: "kubernetes".to_owned(),
            role: "app".to_owned(),
            audience: "vault".to_owned(),
        },
        service_account: "shop/web".to_owned(),
        token: Secret::from("t".to_owned()),
        accessor: "a".to_owned(),
        kind: TokenKind::Service,
        policies: vec!["default".to_owned()],
        renewable: false,
        counted: false,
        term: Term::endless(Moment::from_boot(Duration::ZERO)),
    }
}

/// The object that asks for an input's reply; nothing where its encoding is none.
fn object(number: usize, input: &Value) -> Option<Object> {
    let encoding = match input["encoding"].as_str().unwrap().to_lowercase().as_str() {
        "" | "utf-8" => Encoding::Utf8,
        "base64" => Encoding::Base64,
        "hex" => Encoding::Hex,
        _ => return None,
    };
    let key = input["key"].as_str().unwrap();
    Some(Object {
        name: "file".to_owned(),
        request: Request {
            method: Method::Get,
            path: number.to_string(),
            query: Vec::new(),
            args: None,
        },
        selector: match key {
            "" => Selector::Response,
            key => Selector::Key(key.to_owned()),
        },
        encoding,
        mode: 0o644,
    })
}

#[tokio::test]
async fn replies_give_the_bytes_they_gave() {
    let inputs = read("replies.json");
    let inputs = inputs.as_array().unwrap();
    let body = |input: &Value| input["body"].as_str().unwrap().to_owned();
    let session = session(serve(inputs.iter().map(body).collect()).await);
    let vault = Vault::new(Settings::default(), Arc::new(BootClock), Metrics::new());
    let mut ours = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        let Some(object) = object(number, input) else {
            ours.push(Err("no encoding".to_owned()));
            continue;
        };
        let content = match vault
            .read(
                &session,
                &object.request,
                &vault.room("shop"),
                Cache::Allowed,
            )
            .await
        {
            Ok(grant) => render::files(std::slice::from_ref(&object), |_| Some(&grant))
                .map(|files| String::from_utf8_lossy(files[0].contents.expose()).into_owned())
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        ours.push(content);
    }
    let mut different = Differences::new(OTHER_CONTENT);
    for (_, file) in FLAVOURS {
        let recorded = read(file);
        for (input, ours) in inputs.iter().zip(&ours) {
            let name = input["name"].as_str().unwrap();
            let theirs = &recorded["replies"][name];
            let agree = match theirs["content"].as_str() {
                Some(content) => ours.as_deref() == Ok(content),
                None => ours.is_err(),
            };
            different.note(agree, name, || {
                format!("{file}: {name}\n  theirs {theirs}\n  ours   {ours:?}")
            });
        }
    }
    different.settle("replies");
}

#[test]
fn every_difference_and_its_reason_stand_in_the_document() {
    let text = fs::read_to_string("docs/compatibility.md").unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    for (reason, _) in DIFFERENT.iter().chain(OTHER_CONTENT) {
        assert!(text.contains(reason), "{reason}");
    }
    let (classes, replies) = (read("classes.json"), read("replies.json"));
    let names = |inputs: &Value| -> BTreeSet<String> {
        let inputs = inputs.as_array().unwrap().iter();
        inputs
            .map(|input| input["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (classes, replies) = (names(&classes["cases"]), names(&replies));
    let mut named = 0;
    for quoted in text.split('`').skip(1).step_by(2) {
        let known = match quoted.split_once(": ") {
            Some(("class", name)) => classes.contains(name),
            Some(("reply", name)) => replies.contains(name),
            _ => continue,
        };
        assert!(known, "{quoted} is in no record");
        named += 1;
    }
    assert!(named > 40, "{named} inputs: are they still written so?");
}
