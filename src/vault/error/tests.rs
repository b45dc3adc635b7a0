use super::*;
use crate::redacted::SecretBytes;

fn told(call: &str, address: &str, status: u16) -> String {
    let reply = Reply {
        status,
        retry_after: None,
        age: std::time::Duration::ZERO,
        content_type: None,
        body: SecretBytes::from(br#"{"errors":[]}"#.to_vec()),
        memory: None,
    };
    let asked = Asked {
        call,
        address,
        namespace: None,
    };
    VaultError::of_reply(asked, &reply, &[]).to_string()
}

#[test]
fn a_login_that_finds_nothing_speaks_of_mount_and_address() {
    let told = told("login POST auth/kubernetes/login", "https://vault", 404);
    assert!(told.contains("vaultAuthMountPath"), "{told}");
    assert!(told.contains("/v1"), "{told}");
    assert!(!told.contains("secretPath"), "{told}");
}

#[test]
fn a_doubled_part_of_the_path_is_named() {
    let login = "login POST auth/kubernetes/login";
    for (call, address, mistake) in [
        (login, "https://vault/v1", "`vaultAddress` ends in /v1"),
        (
            "GET kv/app",
            "https://vault/v1",
            "`vaultAddress` ends in /v1",
        ),
        (
            "GET kv/app",
            "https://vault/ui",
            "`vaultAddress` ends in /ui",
        ),
        (
            "login POST auth/auth/kubernetes/login",
            "https://vault",
            "`vaultAuthMountPath` begins with auth/",
        ),
        (
            "login POST auth/kubernetes/login/login",
            "https://vault",
            "`vaultAuthMountPath` ends in /login",
        ),
    ] {
        for status in [403, 404] {
            let told = told(call, address, status);
            assert!(told.contains(mistake), "{told}");
        }
        assert!(!told(call, address, 503).contains("leave it out"));
    }
    assert!(!told("GET auth/auth/x", "https://vault", 404).contains("leave it out"));
}
