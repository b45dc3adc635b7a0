//! Cases 45–46: certificates and response wrapping.

use serde_json::{Value, json};

use crate::client::{Call, Reply};
use crate::fixtures::{engine, token_with};
use crate::server::Server;

/// A PKI mount with a root of its own and the role `web`, whose certificates live for an hour.
pub struct Pki {
    pub mount: String,
}

impl Pki {
    /// `role` adds to the role.
    pub async fn new(server: &Server, role: Value) -> Pki {
        let mount = engine(server, "pki", json!({})).await;
        let root = json!({ "common_name": "Shop Root", "key_type": "ec", "ttl": "24h" });
        server
            .set_up(format!("{mount}/root/generate/internal"), root)
            .await;
        let web = json!({
            "allowed_domains": ["shop.example"],
            "allow_subdomains": true,
            "key_type": "ec",
            "key_bits": 256,
            "ttl": "1h",
            "max_ttl": "2h",
        });
        let web = crate::fixtures::merged(web, role);
        server.set_up(format!("{mount}/roles/web"), web).await;
        Pki { mount }
    }

    /// A certificate for `web.shop.example`.
    pub async fn issue(&self, server: &Server) -> Reply {
        let body = json!({ "common_name": "web.shop.example" });
        let call = Call::post(format!("{}/issue/web", self.mount), body);
        server.root(call).await.expect(200)
    }
}

pub async fn case_45_pki(server: &Server) {
    let pki = Pki::new(server, json!({})).await;
    let reply = pki.issue(server).await;
    reply.is("/lease_id", "");
    reply.is("/renewable", false);
    reply.is("/lease_duration", 0);
    for key in ["certificate", "issuing_ca", "private_key"] {
        let pem = reply.string(&format!("/data/{key}"));
        assert!(pem.starts_with("-----BEGIN "), "{key}: {reply}");
    }
    reply.is("/data/private_key_type", "ec");
    reply.is_filled("/data/serial_number");
    let life = reply.seconds("/data/expiration") - reply.seconds("/data/not_before");
    // The server dates a certificate half a minute back.
    assert!((3598..=3632).contains(&life), "a life of {life} s: {reply}");

    let (_, pem) = x509_parser::pem::parse_x509_pem(reply.string("/data/certificate").as_bytes())
        .expect("a PEM block");
    let certificate = pem.parse_x509().expect("a certificate");
    assert_eq!(
        certificate.validity().not_after.timestamp(),
        reply.seconds("/data/expiration")
    );
    assert!(
        certificate
            .subject()
            .to_string()
            .contains("web.shop.example"),
        "{}",
        certificate.subject()
    );
    let serial = reply.string("/data/serial_number");
    assert_eq!(certificate.raw_serial_as_string(), serial);

    let again = pki.issue(server).await;
    assert_ne!(again.string("/data/serial_number"), serial);
    let body = json!({ "common_name": "web.elsewhere.example" });
    let call = Call::post(format!("{}/issue/web", pki.mount), body);
    server.root(call).await.refuses(
        400,
        "common name web.elsewhere.example not allowed by this role",
    );
    let body = json!({ "common_name": "web.shop.example" });
    let call = Call::post(format!("{}/issue/nobody", pki.mount), body);
    server.root(call).await.refuses(400, "unknown role: nobody");

    // The same certificate, raw and as JSON.
    let mount = &pki.mount;
    let read = async |path: &str| {
        let call = Call::get(format!("{mount}/{path}"));
        server.root(call).await.expect(200)
    };
    let certificate = read("cert/ca").await.string("/data/certificate");
    for (path, kind) in [
        ("ca", "application/pkix-cert"),
        ("cert/ca/raw", "application/pkix-cert"),
        ("ca/pem", "application/pem-certificate-chain"),
        ("cert/ca/raw/pem", "application/pem-certificate-chain"),
        ("ca_chain", "application/pkix-cert"),
    ] {
        let reply = read(path).await;
        assert_eq!(reply.headers["content-type"], kind, "{path}");
        if path.ends_with("pem") || path == "ca_chain" {
            assert_eq!(reply.text.trim(), certificate.trim(), "{path}");
        } else {
            assert!(reply.text.starts_with('0'), "{path} is DER");
        }
    }
    let chain = read("cert/ca_chain").await.string("/data/certificate");
    assert_eq!(chain.trim(), certificate.trim());
}

pub async fn case_46_wrap(server: &Server) {
    let mount = engine(server, "kv", json!({ "version": "1" })).await;
    let path = format!("{mount}/app");
    server.set_up(&path, json!({ "password": "p4ss" })).await;
    let call = Call::get(&path).header("X-Vault-Wrap-TTL", "1m");
    let wrapped = server.root(call).await.expect(200);
    wrapped.is("/request_id", "");
    wrapped.is("/data", Value::Null);
    wrapped.is("/auth", Value::Null);
    wrapped.is_filled("/wrap_info/token");
    wrapped.is_filled("/wrap_info/accessor");
    wrapped.is_filled("/wrap_info/creation_time");
    wrapped.is("/wrap_info/ttl", 60);
    wrapped.is("/wrap_info/creation_path", path);

    let body = json!({ "token": wrapped.string("/wrap_info/token") });
    let unwrap = || Call::post("sys/wrapping/unwrap", body.clone());
    let app = token_with(server, &["default"]).await;
    let call = Call::post("sys/wrapping/lookup", body.clone()).token(&app.id);
    let looked = server.call(call).await.expect(200);
    looked.is("/data/creation_ttl", 60);
    let original = server.call(unwrap().token(&app.id)).await.expect(200);
    original.is("/data", json!({ "password": "p4ss" }));
    original.is("/lease_duration", 2_764_800);
    original.is("/wrap_info", Value::Null);
    let reply = server.call(unwrap().token(&app.id)).await;
    reply.refuses(400, "wrapping token is not valid or does not exist");
}
