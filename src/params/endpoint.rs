//! Where the server is, and how one logs in there.

use std::path::PathBuf;

use super::{Defaults, LONGEST, Reader, boolean, cut, path};
use crate::spec::{Endpoint, Tls};

/// Where Vault's own clients look when nobody tells them (`api.DefaultConfig`).
const USUAL_ADDRESS: &str = "https://127.0.0.1:8200";
impl Reader {
    pub fn auth_mount(&mut self, defaults: &Defaults) -> String {
        let kubernetes = self.take_given("vaultKubernetesMountPath");
        let auth = self.take_given("vaultAuthMountPath");
        if kubernetes.is_some() && auth.is_some() {
            self.fault(
                "vaultAuthMountPath",
                "is set together with vaultKubernetesMountPath",
                "keep vaultAuthMountPath alone",
            );
        }
        let given = auth.or(kubernetes).filter(|path| !path.is_empty());
        let text = given.unwrap_or_else(|| defaults.auth_mount.clone());
        path::mount(&text).unwrap_or_else(|problem| {
            let problem = format!("{:?} {problem}", cut(&text));
            self.fault(
                "vaultAuthMountPath",
                problem,
                "give the mount's path, e.g. kubernetes or teams/a/kubernetes",
            );
            String::new()
        })
    }

    pub fn endpoint(&mut self, defaults: &Defaults) -> Endpoint {
        let given = self.take("vaultAddress");
        let agent = defaults.agent_address.clone();
        let given = agent.or(given).or_else(|| defaults.address.clone());
        let address = given.unwrap_or_else(|| USUAL_ADDRESS.to_owned());
        let address = normalized(&address);
        if let Some(problem) = address_problem(&address) {
            self.fault(
                "vaultAddress",
                problem,
                "write it as https://vault.example:8200 (class, -vault-addr, or VAULT_ADDR)",
            );
        }
        let given = self.take("vaultNamespace");
        let namespace = given.or_else(|| defaults.namespace.clone());
        if namespace
            .as_ref()
            .is_some_and(|namespace| namespace.chars().any(|c| c.is_control() || !c.is_ascii()))
        {
            self.fault(
                "vaultNamespace",
                "has a control character or one beyond ASCII, which no header may carry",
                "write it as team/sub",
            );
        }
        if let Some(length) = namespace.as_ref().map(String::len)
            && length > LONGEST
        {
            let fix = "write it as team/sub: no server takes a header of that size";
            self.fault("vaultNamespace", path::too_long(length, LONGEST), fix);
        }
        // No server takes one of these for another namespace, but our own policy's `team/*` would let it by.
        if namespace
            .as_ref()
            .is_some_and(|namespace| namespace.split('/').any(|part| matches!(part, "." | "..")))
        {
            self.fault(
                "vaultNamespace",
                "has the segment \".\" or \"..\"",
                "write it as team/sub",
            );
        }
        Endpoint {
            address,
            namespace,
            tls: self.tls(&defaults.tls),
        }
    }

    /// The class' settings over the defaults, field by field; one way to name CAs replaces the others.
    fn tls(&mut self, defaults: &Tls) -> Tls {
        let mut tls = defaults.clone();
        let ca_pem = self.take("vaultCACert");
        let ca_file = self.take("vaultCACertPath").map(PathBuf::from);
        let ca_directory = self.take("vaultCADirectory").map(PathBuf::from);
        if ca_pem.is_some() || ca_file.is_some() || ca_directory.is_some() {
            (tls.ca_pem, tls.ca_file, tls.ca_directory) = (ca_pem, ca_file, ca_directory);
        }
        tls.server_name = self.take("vaultTLSServerName").or(tls.server_name);
        let certificate = self.take("vaultTLSClientCertPath").map(PathBuf::from);
        let key = self.take("vaultTLSClientKeyPath").map(PathBuf::from);
        if certificate.is_some() != key.is_some() {
            // Never the default's other half: that belongs to another certificate.
            let (there, missing) = match certificate {
                Some(_) => ("vaultTLSClientCertPath", "vaultTLSClientKeyPath"),
                None => ("vaultTLSClientKeyPath", "vaultTLSClientCertPath"),
            };
            self.fault(
                there,
                format!("is set without {missing}"),
                "give both: a certificate is of use with its own key only",
            );
        }
        if certificate.is_some() {
            (tls.client_certificate, tls.client_key) = (certificate, key);
        }
        if let Some(text) = self.take_given("vaultSkipTLSVerify") {
            match boolean(&text) {
                // Either says it: the incumbents' client never takes it back.
                Some(value) => tls.skip_verify |= value,
                None => self.fault(
                    "vaultSkipTLSVerify",
                    format!("{text:?} is neither true nor false"),
                    "write \"true\" or \"false\"",
                ),
            }
        }
        tls
    }
}

/// Why an address cannot be used, with the address where it holds no password; nothing where it can.
#[must_use]
pub fn address_problem(address: &str) -> Option<String> {
    let problem = check_address(&normalized(address)).err()?;
    // Before an `@` stands a password.
    Some(match address.contains('@') {
        true => problem,
        false => format!("{:?} {problem}", cut(address)),
    })
}

fn normalized(address: &str) -> String {
    lower_scheme(address.trim_end_matches('/'))
}

fn check_address(address: &str) -> Result<(), String> {
    if address.len() > LONGEST {
        return Err(path::too_long(address.len(), LONGEST));
    }
    if let Some(socket) = address.strip_prefix("unix://") {
        return check_socket(socket);
    }
    let rest = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err(
            "has no https:// or http:// before the host, nor unix:// before a path".to_owned(),
        );
    };
    if rest.contains('@') {
        return Err("has a user name, which is not used".to_owned());
    }
    if rest.contains(['?', '#', '%']) {
        return Err("has a query, a fragment or an escape".to_owned());
    }
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || authority.starts_with(':') {
        return Err("has no host".to_owned());
    }
    if prefix.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("has \".\" or \"..\" in its path".to_owned());
    }
    let authority: http::uri::Authority = authority
        .parse()
        .map_err(|error| format!("is no URL ({error})"))?;
    let named_port = authority.as_str().strip_prefix(authority.host());
    if named_port.is_some_and(|port| !port.is_empty()) && authority.port_u16().is_none() {
        return Err("has a port that is no number up to 65535".to_owned());
    }
    match address.parse::<http::Uri>() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("is no URL ({error})")),
    }
}

/// A Unix socket of an agent or proxy beside us (`ParseAddress` of vault/api).
fn check_socket(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(
            "has no absolute path behind unix://, as in unix:///run/vault/agent.sock".to_owned(),
        );
    }
    // A pattern of the policy must not be left by the back door.
    if path.split('/').any(|part| matches!(part, "." | "..")) || path.chars().any(char::is_control)
    {
        return Err("has \".\", \"..\" or a control character in its path".to_owned());
    }
    Ok(())
}

/// A scheme counts in any case; our own comparisons know one.
fn lower_scheme(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => address.to_owned(),
    }
}
