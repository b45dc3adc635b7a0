//! What is legal and unwise.

use std::collections::BTreeMap;

use super::manifest::{Driver, Place};
use crate::spec::{Method, MountSpec, Request, Selector};

/// Keys whose values are not everybody's.
const PRIVATE: &[&str] = &[
    "password",
    "private_key",
    "secret_key",
    "secret_id",
    "token",
];

/// What a warning is about.
pub enum About<'a> {
    Parameter(&'static str),
    Object(&'a str),
    /// An object that wants another one beside it.
    Alone(&'a str),
}

/// Warnings of a class, as far as it could be read: what each is about, and what to do.
pub fn of_class(spec: &MountSpec) -> Vec<(About<'_>, String)> {
    let mut found = Vec::new();
    if spec.endpoint.tls.skip_verify {
        let text = "vaultSkipTLSVerify: anybody on the way to the server can read the pod's token and its secrets: give the CA by vaultCACert instead";
        found.push((About::Parameter("vaultSkipTLSVerify"), text.to_owned()));
    }
    let address = &spec.endpoint.address;
    if address.starts_with("http://") && !is_here(address) {
        let text = format!(
            "vaultAddress: {address} is plain http beyond this node: the pod's token and its secrets travel in the open: use https"
        );
        found.push((About::Parameter("vaultAddress"), text));
    }
    for (end, why) in [
        (
            "/v1",
            "which is added to it: leave it out, or each call asks for /v1/v1/…",
        ),
        ("/ui", "where the server's web pages are: leave it out"),
    ] {
        if address.ends_with(end) {
            let text = format!("vaultAddress: {address} ends in {end}, {why}");
            found.push((About::Parameter("vaultAddress"), text));
        }
    }
    let mount = &spec.login.mount;
    for (is_there, which) in [
        (mount.starts_with("auth/"), "begins with auth/"),
        (mount.ends_with("/login"), "ends in /login"),
    ] {
        if is_there {
            let text = format!(
                "vaultAuthMountPath: {mount} {which}, which is added to it: leave it out, or the login goes to auth/{mount}/login"
            );
            found.push((About::Parameter("vaultAuthMountPath"), text));
        }
    }
    let mut keys: BTreeMap<&Request, Vec<(&str, &str)>> = BTreeMap::new();
    for object in &spec.objects {
        let key = match &object.selector {
            Selector::Key(key) => key.as_str(),
            Selector::Response => "",
        };
        let named = (key, object.name.as_str());
        keys.entry(&object.request).or_default().push(named);
        if PRIVATE.contains(&key) && object.mode & 0o004 != 0 {
            let text = format!(
                "objects: {:?} is readable by everybody in the pod ({:04o}): give filePermission 0400 or 0440",
                object.name, object.mode
            );
            found.push((About::Object(&object.name), text));
        }
    }
    for (request, keys) in keys {
        let leased = request.method == Method::Get && request.path.contains("/creds/");
        if let ([(key, object)], true) = (keys.as_slice(), leased)
            && !key.is_empty()
        {
            let text = format!(
                "objects: of the credentials at {:?} only {key:?} is mounted: name the other half as well, they belong together",
                request.path
            );
            found.push((About::Alone(object), text));
        }
    }
    found
}

/// Warnings of the driver's CSIDriver object.
pub fn of_driver(driver: &Driver) -> Vec<(Place, String)> {
    let mut found = Vec::new();
    if !driver.republishes {
        found.push((
            driver.place,
            "requiresRepublish is not true: without rotation polls a credential that cannot be renewed any more is not replaced".to_owned(),
        ));
    }
    if driver.audiences.is_empty() {
        found.push((
            driver.place,
            "tokenRequests is empty: the pods' tokens must then be minted by the provider"
                .to_owned(),
        ));
    }
    found
}

fn is_here(address: &str) -> bool {
    let host = address.trim_start_matches("http://");
    ["localhost", "127.", "[::1]"]
        .iter()
        .any(|here| host.starts_with(here))
}
