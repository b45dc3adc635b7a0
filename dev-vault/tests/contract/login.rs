//! Cases 1–14: logins.

use serde_json::{Value, json};

use crate::client::{Call, Reply};
use crate::cluster::{Claims, Cluster, Verdict};
use crate::fixtures::{Kubernetes, merged};
use crate::server::Server;

pub async fn case_01_k8s_ok(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let claims = Claims::default();
    let uid = claims.uid;
    let reply = kubernetes.login(server, claims).await.expect(200);

    reply.is_filled("/request_id");
    reply.is("/lease_id", "");
    reply.is("/renewable", false);
    reply.is("/lease_duration", 0);
    for key in ["data", "wrap_info", "warnings"] {
        assert!(reply.has("", key), "no {key}: {reply}");
        reply.is(&format!("/{key}"), Value::Null);
    }
    reply.is_filled("/auth/client_token");
    reply.is_filled("/auth/accessor");
    reply.is_filled("/auth/entity_id");
    reply.is("/auth/policies", json!(["app", "default"]));
    reply.is("/auth/token_policies", json!(["app", "default"]));
    assert!(!reply.has("/auth", "identity_policies"), "{reply}");
    reply.is(
        "/auth/metadata",
        json!({
            "role": "app",
            "service_account_name": "web",
            "service_account_namespace": "shop",
            "service_account_uid": uid,
            "service_account_secret_name": "",
        }),
    );
    reply.is("/auth/lease_duration", 3600);
    reply.is("/auth/renewable", true);
    reply.is("/auth/token_type", "service");
    reply.is("/auth/orphan", true);
    assert!(reply.has("/auth", "mfa_requirement"), "{reply}");
    reply.is("/auth/mfa_requirement", Value::Null);
    reply.is("/auth/num_uses", 0);

    let token = reply.string("/auth/client_token");
    let call = Call::get("auth/token/lookup-self").token(&token);
    server.call(call).await.expect(200);
}

pub async fn case_02_k8s_missing(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let jwt = kubernetes.cluster.token(&Claims::default());
    let reply = kubernetes.login_with(server, json!({ "jwt": jwt })).await;
    reply.refuses(400, "missing role");
    let reply = kubernetes
        .login_with(server, json!({ "role": "app" }))
        .await;
    reply.refuses(400, "missing jwt");
}

pub async fn case_03_k8s_role(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let jwt = kubernetes.cluster.token(&Claims::default());
    let reply = kubernetes
        .login_with(server, json!({ "role": "x", "jwt": jwt }))
        .await;
    reply.refuses(400, r#"invalid role name "x""#);
}

pub async fn case_04_k8s_sa(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let claims = Claims {
        name: "batch",
        ..Claims::default()
    };
    let reply = kubernetes.login(server, claims).await;
    reply.refuses(403, "service account name not authorized");
}

pub async fn case_05_k8s_ns(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let claims = Claims {
        namespace: "lab",
        ..Claims::default()
    };
    let reply = kubernetes.login(server, claims).await;
    reply.refuses(403, "namespace not authorized");
}

pub async fn case_06_k8s_aud(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let claims = Claims {
        audience: "another",
        ..Claims::default()
    };
    let reply = kubernetes.login(server, claims).await;
    reply.refuses(
        403,
        "invalid audience (aud) claim: audience claim does not match any expected audience",
    );
}

pub async fn case_07_k8s_exp(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let expired_by = |seconds: i64| Claims {
        expires_in: -seconds,
        ..Claims::default()
    };
    let reply = kubernetes.login(server, expired_by(120)).await;
    reply.refuses(403, "invalid expiration time (exp) claim: token is expired");
    kubernetes.login(server, expired_by(20)).await.expect(200);
}

pub async fn case_08_k8s_garbage(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let reply = kubernetes
        .login_with(server, json!({ "role": "app", "jwt": "abc" }))
        .await;
    reply.refuses(403, "permission denied");
    // The same mount and role let a good token in, so it was the token.
    kubernetes
        .login(server, Claims::default())
        .await
        .expect(200);
    assert_eq!(kubernetes.cluster.seen().len(), 1, "garbage was reviewed");
}

pub async fn case_09_k8s_review(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    for verdict in [Verdict::Unauthenticated, Verdict::OtherUid] {
        kubernetes.cluster.says(verdict);
        let reply = kubernetes.login(server, Claims::default()).await;
        reply.refuses(403, "permission denied");
    }
    kubernetes.cluster.says(Verdict::Genuine);
    kubernetes
        .login(server, Claims::default())
        .await
        .expect(200);

    // Nobody listens on port 1.
    kubernetes
        .configure(server, "http://127.0.0.1:1", json!({}))
        .await;
    let reply = kubernetes.login(server, Claims::default()).await;
    reply.refuses(403, "permission denied");
    assert_eq!(kubernetes.cluster.seen().len(), 3);
}

pub async fn case_10_review_shape(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let jwt = kubernetes.cluster.token(&Claims::default());
    let body = json!({ "role": "app", "jwt": jwt });
    kubernetes
        .login_with(server, body.clone())
        .await
        .expect(200);

    // Without a reviewer's token of its own the server shows the caller's. A role without an audience
    // asks for the token's own.
    let host = kubernetes.cluster.url();
    kubernetes
        .configure(server, &host, json!({ "token_reviewer_jwt": "" }))
        .await;
    kubernetes.role(server, json!({ "audience": "" })).await;
    kubernetes.login_with(server, body).await.expect(200);

    let seen = kubernetes.cluster.seen();
    assert_eq!(seen.len(), 2);
    for (seen, bearer) in seen.iter().zip(["reviewer", &jwt]) {
        assert_eq!(seen.method, "POST");
        assert_eq!(seen.path, "/apis/authentication.k8s.io/v1/tokenreviews");
        assert_eq!(seen.bearer, bearer);
        assert_eq!(seen.body["spec"]["token"], json!(jwt));
        assert_eq!(seen.body["spec"]["audiences"], json!(["vault"]));
    }
}

/// A jwt mount that trusts the cluster's key, with the role `app`.
struct Jwt {
    cluster: Cluster,
    mount: String,
}

impl Jwt {
    async fn new(server: &Server) -> Jwt {
        let cluster = Cluster::start().await;
        let mount = server.unique("jwt");
        server
            .set_up(format!("sys/auth/{mount}"), json!({ "type": "jwt" }))
            .await;
        server
            .set_up(
                format!("auth/{mount}/config"),
                json!({ "jwt_validation_pubkeys": [cluster.public_key_pem()] }),
            )
            .await;
        let jwt = Jwt { cluster, mount };
        jwt.role(server, "app", json!({})).await;
        jwt
    }

    async fn role(&self, server: &Server, name: &str, more: Value) {
        let role = json!({
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": ["vault"],
            "bound_subject": "system:serviceaccount:shop:web",
            "token_policies": ["app"],
            "token_ttl": "1h",
        });
        server
            .set_up(
                format!("auth/{}/role/{name}", self.mount),
                merged(role, more),
            )
            .await;
    }

    async fn login(&self, server: &Server, role: &str, claims: Claims) -> Reply {
        let body = json!({ "role": role, "jwt": self.cluster.token(&claims) });
        self.login_with(server, body).await
    }

    async fn login_with(&self, server: &Server, body: Value) -> Reply {
        server
            .call(Call::post(format!("auth/{}/login", self.mount), body))
            .await
    }
}

pub async fn case_11_jwt_errors(server: &Server) {
    let jwt = Jwt::new(server).await;
    let good = jwt
        .login(server, "app", Claims::default())
        .await
        .expect(200);
    good.is("/auth/policies", json!(["app", "default"]));
    good.is("/auth/lease_duration", 3600);
    good.is("/auth/token_type", "service");

    let expired_by = |seconds: i64| Claims {
        expires_in: -seconds,
        ..Claims::default()
    };
    jwt.login(server, "app", expired_by(120)).await.refuses(
        400,
        "error validating token: invalid expiration time (exp) claim: token is expired",
    );
    jwt.login(server, "app", expired_by(20)).await.expect(200);
    let claims = Claims {
        audience: "another",
        ..Claims::default()
    };
    jwt.login(server, "app", claims).await.refuses(
        400,
        "error validating token: invalid audience (aud) claim: \
         audience claim does not match any expected audience",
    );
    let claims = Claims {
        name: "batch",
        ..Claims::default()
    };
    jwt.login(server, "app", claims)
        .await
        .refuses(400, "error validating token: invalid subject (sub) claim");
    jwt.login(server, "x", Claims::default())
        .await
        .refuses(400, r#"role "x" could not be found"#);

    let token = jwt.cluster.token(&Claims::default());
    jwt.login_with(server, json!({ "jwt": token }))
        .await
        .refuses(400, "missing role");
    jwt.login_with(server, json!({ "role": "app" }))
        .await
        .refuses(400, "missing token");

    let unbound = json!({ "bound_audiences": [] });
    jwt.role(server, "unbound", unbound).await;
    jwt.login(server, "unbound", Claims::default())
        .await
        .refuses(
            400,
            "audience claim found in JWT but no audiences bound to the role",
        );
    let claimed = json!({ "bound_claims": { "/kubernetes.io/namespace": "lab" } });
    jwt.role(server, "claimed", claimed).await;
    jwt.login(server, "claimed", Claims::default())
        .await
        .refuses(
            400,
            "error validating claims: claim \"/kubernetes.io/namespace\" \
             does not match any associated bound claim values",
        );
    let forged = Jwt::new(server).await.cluster.token(&Claims::default());
    jwt.login_with(server, json!({ "role": "app", "jwt": forged }))
        .await
        .refuses(400, "error validating token: error verifying token signature: no known key successfully validated the token signature");
}

pub async fn case_12_login_nomount(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    let jwt = kubernetes.cluster.token(&Claims::default());
    let body = json!({ "role": "app", "jwt": jwt });
    let nowhere = format!("auth/{}/login", server.unique("nope"));
    let reply = server.call(Call::post(nowhere, body.clone())).await;
    reply.refuses(403, "permission denied");
    kubernetes.login_with(server, body).await.expect(200);
}

pub async fn case_13_login_capped(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({})).await;
    server
        .set_up(
            format!("sys/auth/{}/tune", kubernetes.mount),
            json!({ "max_lease_ttl": "5m" }),
        )
        .await;
    let reply = kubernetes
        .login(server, Claims::default())
        .await
        .expect(200);
    reply.is("/auth/lease_duration", 300);
    reply.warns(
        r#"TTL of "1h" exceeded the effective max_ttl of "5m"; TTL value is capped accordingly"#,
    );
}

pub async fn case_14_login_batch(server: &Server) {
    let kubernetes = Kubernetes::new(server, json!({ "token_type": "batch" })).await;
    let reply = kubernetes
        .login(server, Claims::default())
        .await
        .expect(200);
    reply.is_filled("/auth/client_token");
    reply.is("/auth/accessor", "");
    reply.is("/auth/renewable", false);
    reply.is("/auth/token_type", "batch");
    reply.is("/auth/lease_duration", 3600);
    reply.is("/auth/orphan", true);
}
