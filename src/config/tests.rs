use tracing::level_filters::LevelFilter;

use super::*;

fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command, ConfigError> {
    let arguments = std::iter::once("leasehold").chain(arguments.iter().copied());
    Config::read(arguments.map(str::to_owned), |name| {
        let found = environment.iter().find(|(known, _)| *known == name)?;
        Some(found.1.to_owned())
    })
}

fn served(arguments: &[&str], environment: &[(&str, &str)]) -> Config {
    match read(arguments, environment).unwrap() {
        Command::Serve(config) => *config,
        Command::Print(text) => panic!("{text}"),
    }
}

#[test]
fn the_incumbents_command_line_works_unchanged() {
    let config = served(
        &[
            "-endpoint=/provider/vault.sock",
            "-debug=true",
            "--vault-addr",
            "https://vault:8200",
            "-vault-tls-ca-cert=/mnt/tls/ca.crt",
            "-vault-tls-skip-verify",
            "-cache-size=10",
        ],
        &[("VAULT_ADDR", "http://other"), ("VAULT_NAMESPACE", "team")],
    );
    assert_eq!(config.endpoint, PathBuf::from("/provider/vault.sock"));
    assert_eq!(config.telemetry.level, LevelFilter::DEBUG);
    let defaults = config.defaults;
    assert_eq!(defaults.address.as_deref(), Some("https://vault:8200"));
    assert_eq!(defaults.namespace.as_deref(), Some("team"));
    assert_eq!(defaults.tls.ca_file, Some(PathBuf::from("/mnt/tls/ca.crt")));
    assert!(defaults.tls.skip_verify);
    assert_eq!(config.notes.len(), 1);
    assert_eq!(config.hmac_secret_name, "vault-csi-provider-hmac-key");
    assert_eq!(config.health_addr.as_deref(), Some("[::]:8080"));
}

#[test]
fn served_as_openbao() {
    let config = served(
        &[
            "-endpoint=/provider/openbao.sock",
            "-openbao-addr=http://bao",
        ],
        &[("BAO_NAMESPACE", "a"), ("VAULT_NAMESPACE", "b")],
    );
    assert_eq!(config.flavour, Flavour::OpenBao);
    assert_eq!(config.defaults.address.as_deref(), Some("http://bao"));
    assert_eq!(config.defaults.namespace.as_deref(), Some("a"));
    assert_eq!(config.hmac_secret_name, "openbao-csi-provider-hmac-key");
}

#[test]
fn an_empty_flag_leaves_the_environment_in_force() {
    let given = [
        "-vault-addr=",
        "-vault-namespace",
        "",
        "-log-level=",
        "-vault-mount=",
    ];
    let environment = [("VAULT_ADDR", "http://env"), ("VAULT_NAMESPACE", "team")];
    let config = served(&given, &environment);
    assert_eq!(config.defaults.address.as_deref(), Some("http://env"));
    assert_eq!(config.defaults.namespace.as_deref(), Some("team"));
    assert_eq!(config.defaults.auth_mount, "kubernetes");
    assert_eq!(config.telemetry.level, LevelFilter::INFO);
    assert_eq!(served(&["-health-addr="], &[]).health_addr, None);
}

#[test]
fn faults_are_told_together() {
    let faults = read(
        &[
            "-renew-concurrency=0",
            "-vault-tls-client-key=/k",
            "-poll-interval=0s",
        ],
        &[
            ("VAULT_SKIP_VERIFY", "maybe"),
            ("VAULT_CLIENT_TIMEOUT", "soon"),
        ],
    );
    let text = faults.err().unwrap().to_string();
    for part in [
        "-renew-concurrency",
        "-poll-interval",
        "VAULT_SKIP_VERIFY",
        "VAULT_CLIENT_TIMEOUT",
        "-vault-tls-client-key go together",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn every_flag_of_both_is_taken() {
    for prefix in ["vault", "openbao"] {
        let named = |rest: &str| format!("--{prefix}-{rest}");
        let flags = [
            "-endpoint".to_owned(),
            "/s/x.sock".to_owned(),
            "-debug=F".to_owned(),
            "-health-addr=127.0.0.1:1".to_owned(),
            "--hmac-secret-name=mine".to_owned(),
            "-cache-size=0x10".to_owned(),
            "-log-level=Warn ".to_owned(),
            "-output=yaml".to_owned(),
            "-version=0".to_owned(),
            named("addr=http://f"),
            named("mount=m"),
            named("namespace"),
            "n".to_owned(),
            named("tls-ca-cert=/ca"),
            named("tls-ca-directory=/cas"),
            named("tls-server-name=s"),
            named("tls-client-cert=/c"),
            named("tls-client-key=/k"),
            named("tls-skip-verify=1"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let config = served(&flags, &[]);
        assert_eq!(config.flavour.name(), prefix, "its flags say whose it is");
        assert_eq!(config.endpoint, PathBuf::from("/s/x.sock"));
        assert_eq!(config.telemetry.level, LevelFilter::WARN);
        assert_eq!(config.health_addr.as_deref(), Some("127.0.0.1:1"));
        assert_eq!(config.hmac_secret_name, "mine");
        assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
        let defaults = config.defaults;
        assert_eq!(defaults.address.as_deref(), Some("http://f"));
        assert_eq!(defaults.namespace.as_deref(), Some("n"));
        assert_eq!(defaults.auth_mount, "m");
        let tls = Tls {
            ca_pem: None,
            ca_file: Some("/ca".into()),
            ca_directory: Some("/cas".into()),
            server_name: Some("s".to_owned()),
            client_certificate: Some("/c".into()),
            client_key: Some("/k".into()),
            skip_verify: true,
        };
        assert_eq!(defaults.tls, tls);
    }
}

#[test]
fn every_variable_of_both_is_read_and_flags_win() {
    for prefix in ["VAULT", "BAO"] {
        let named = |rest: &str| format!("{prefix}_{rest}");
        let names = [
            "ADDR",
            "NAMESPACE",
            "CACERT",
            "CAPATH",
            "CLIENT_CERT",
            "CLIENT_KEY",
            "TLS_SERVER_NAME",
        ];
        let names = names.map(named);
        let mut environment: Vec<(&str, &str)> = names
            .iter()
            .map(|name| (name.as_str(), "from-env"))
            .collect();
        let (skip, agent) = (named("SKIP_VERIFY"), named("AGENT_ADDR"));
        environment.extend([(skip.as_str(), "T"), (agent.as_str(), "http://agent")]);
        let timeout = named("CLIENT_TIMEOUT");
        environment.push((timeout.as_str(), "90"));
        let config = served(&[], &environment);
        assert_eq!(config.client_timeout, Some(Duration::from_secs(90)));
        let defaults = config.defaults;
        assert_eq!(defaults.address.as_deref(), Some("from-env"));
        assert_eq!(defaults.agent_address.as_deref(), Some("http://agent"));
        assert_eq!(defaults.namespace.as_deref(), Some("from-env"));
        assert_eq!(defaults.tls.ca_file, Some("from-env".into()));
        assert_eq!(defaults.tls.ca_directory, Some("from-env".into()));
        assert_eq!(defaults.tls.client_certificate, Some("from-env".into()));
        assert_eq!(defaults.tls.client_key, Some("from-env".into()));
        assert_eq!(defaults.tls.server_name.as_deref(), Some("from-env"));
        assert!(defaults.tls.skip_verify);
        let flags = [
            "-vault-addr=flag",
            "-vault-namespace=flag",
            "-vault-tls-ca-directory=flag",
            "-vault-tls-server-name=flag",
            "-vault-tls-client-cert=flag",
            "-vault-tls-client-key=flag",
            "-vault-tls-skip-verify=false",
        ];
        let defaults = served(&flags, &environment).defaults;
        assert_eq!(defaults.address.as_deref(), Some("flag"));
        assert_eq!(defaults.namespace.as_deref(), Some("flag"));
        assert_eq!(
            defaults.tls.ca_file, None,
            "one way to name CAs replaces the other"
        );
        assert_eq!(defaults.tls.ca_directory, Some("flag".into()));
        assert_eq!(defaults.tls.client_key, Some("flag".into()));
        assert!(defaults.tls.skip_verify, "false takes nothing back");
    }
}

#[test]
fn a_certificate_and_its_key_come_from_one_place() {
    let environment = [("VAULT_CLIENT_CERT", "/c"), ("VAULT_CLIENT_KEY", "/k")];
    let half = read(&["-vault-tls-client-cert=/other"], &environment);
    assert!(half.is_err_and(|fault| fault.to_string().contains("give both")));
    assert!(read(&[], &environment[..1]).is_err());
    assert!(read(&[], &environment[1..]).is_err());
}

#[test]
fn ca_certificates_may_stand_in_the_environment() {
    let bytes = ("VAULT_CACERT_BYTES", "-----BEGIN");
    let tls = served(&[], &[bytes]).defaults.tls;
    assert_eq!(tls.ca_pem.as_deref(), Some("-----BEGIN"));
    let tls = served(&[], &[bytes, ("VAULT_CACERT", "/ca")]).defaults.tls;
    assert_eq!(tls.ca_pem, None, "the file is the first that counts");
    let tls = served(&["-vault-tls-ca-cert=/flag"], &[bytes]).defaults.tls;
    assert_eq!((tls.ca_pem, tls.ca_file), (None, Some("/flag".into())));
}

#[test]
fn each_flavour_has_its_own_variables_first() {
    let both = [("BAO_ADDR", "bao"), ("VAULT_ADDR", "vault")];
    let hidden = [("BAO_ADDR", ""), ("VAULT_ADDR", "vault")];
    let address = |provider: &str, environment: &[(&str, &str)]| {
        served(&[provider], environment).defaults.address
    };
    assert_eq!(address("-provider=vault", &both).as_deref(), Some("vault"));
    assert_eq!(address("-provider=openbao", &both).as_deref(), Some("bao"));
    assert_eq!(
        address("-provider=vault", &both[..1]).as_deref(),
        Some("bao")
    );
    assert_eq!(
        address("-provider=openbao", &both[1..]).as_deref(),
        Some("vault")
    );
    assert_eq!(
        address("-provider=vault", &hidden).as_deref(),
        Some("vault")
    );
    assert_eq!(
        address("-provider=openbao", &hidden),
        None,
        "as OpenBao's client"
    );
}

#[test]
fn names_follow_how_it_is_served() {
    let program = |program: &str, flags: &[&str]| {
        let arguments = std::iter::once(program).chain(flags.iter().copied());
        match Config::read(arguments.map(str::to_owned), |_| None).unwrap() {
            Command::Serve(config) => *config,
            Command::Print(text) => panic!("{text}"),
        }
    };
    let vault = program("/bin/vault-csi-provider", &[]);
    assert_eq!(vault.endpoint, PathBuf::from("/tmp/vault.sock"));
    assert_eq!(vault.hmac_secret_name, "vault-csi-provider-hmac-key");
    assert_eq!(vault.state_dir, PathBuf::from("/run/leasehold/vault"));
    for (name, flags) in [
        ("/bin/openbao-csi-provider", &[][..]),
        ("leasehold", &["-provider=openbao"]),
        ("leasehold", &["-openbao-mount=k"]),
    ] {
        let bao = program(name, flags);
        assert_eq!(bao.flavour, Flavour::OpenBao);
        assert_eq!(bao.endpoint, PathBuf::from("/tmp/openbao.sock"));
        assert_eq!(bao.hmac_secret_name, "openbao-csi-provider-hmac-key");
        assert_eq!(bao.state_dir, PathBuf::from("/run/leasehold/openbao"));
    }
    let socket = program("leasehold", &["-endpoint=/provider/openbao.sock"]);
    assert_eq!(socket.flavour, Flavour::OpenBao);
    // The socket's name is what the driver goes by.
    let flags = ["-endpoint=/provider/vault.sock", "-openbao-addr=http://b"];
    assert_eq!(program("leasehold", &flags).flavour, Flavour::Vault);
}

#[test]
fn log_levels_are_the_incumbents() {
    let level = |flags: &[&str]| served(flags, &[]).telemetry.level;
    assert_eq!(level(&[]), LevelFilter::INFO);
    assert_eq!(level(&["-debug"]), LevelFilter::DEBUG);
    assert_eq!(
        level(&["-debug=true", "-log-level=warn"]),
        LevelFilter::WARN
    );
    assert_eq!(level(&["-log-level=OFF"]), LevelFilter::OFF);
    let unknown = served(&["-log-level=no-level"], &[]);
    assert_eq!(unknown.telemetry.level, LevelFilter::INFO);
    assert!(unknown.notes[0].contains("\"no-level\" is none of"));
}

#[test]
fn what_means_nothing_any_more_is_said_once() {
    let environment = [
        ("VAULT_MAX_RETRIES", "5"),
        ("VAULT_RATE_LIMIT", "10:20"),
        ("VAULT_TOKEN", "s.hunter2"),
        ("VAULT_SRV_LOOKUP", "true"),
        ("VAULT_HEADERS", "{}"),
        ("VAULT_WRAP_TTL", "60"),
    ];
    let notes = served(
        &["-cache-size=0", "-cache-size=5", "-debug", "yes"],
        &environment,
    )
    .notes;
    assert_eq!(notes.len(), 8, "{notes:?}");
    let told = notes.join("\n");
    for (name, _) in environment {
        assert_eq!(told.matches(name).count(), 1, "{name} in {told}");
    }
    assert_eq!(told.matches("-cache-size").count(), 1);
    assert!(
        told.contains("1 arguments from \"yes\" on have no effect"),
        "{told}"
    );
    assert!(!told.contains("hunter2"));
    assert!(served(&[], &[("VAULT_TOKEN", "")]).notes.is_empty());
}

#[test]
fn an_address_that_cannot_be_used_is_said_at_the_start() {
    let told = |flags: &[&str], environment: &[(&str, &str)]| {
        let notes = served(flags, environment).notes;
        assert_eq!(notes.len(), 1, "{notes:?}");
        notes[0].clone()
    };
    let note = told(&["-vault-addr=vault:8200"], &[]);
    for part in [
        "-vault-addr: \"vault:8200\" has no https://",
        "every mount fails whose class names no vaultAddress",
        "write it as https://vault.example:8200",
    ] {
        assert!(note.contains(part), "{part} in {note}");
    }
    let note = told(&[], &[("VAULT_ADDR", "https://:8200")]);
    assert!(
        note.starts_with("VAULT_ADDR: \"https://:8200\" has no host"),
        "{note}"
    );
    let note = told(&[], &[("BAO_ADDR", "https://bao:http")]);
    assert!(note.starts_with("BAO_ADDR: "), "{note}");
    // It takes the place of every other.
    let agent = ("VAULT_AGENT_ADDR", "agent.sock");
    let note = told(&["-vault-addr=vault"], &[agent]);
    assert!(
        note.starts_with("VAULT_AGENT_ADDR: ") && note.contains("every mount fails;"),
        "{note}"
    );
    let note = told(&[], &[("VAULT_ADDR", "https://root:hunter2@vault")]);
    assert!(
        note.contains("has a user name") && !note.contains("hunter2"),
        "{note}"
    );
    for fine in [
        "https://vault:8200/",
        "HTTP://127.0.0.1",
        "unix:///run/agent.sock",
    ] {
        assert!(
            served(&[], &[("VAULT_ADDR", fine)]).notes.is_empty(),
            "{fine}"
        );
    }
}

#[test]
fn any_duration_of_gos_is_a_client_timeout() {
    let timeout = |value| served(&[], &[("VAULT_CLIENT_TIMEOUT", value)]).client_timeout;
    assert_eq!(timeout("1.5m"), Some(Duration::from_secs(90)));
    assert_eq!(timeout("1d"), Some(Duration::from_secs(86400)));
    assert_eq!(timeout("0"), None, "zero is the default, as for theirs");
    let negative = served(&[], &[("BAO_CLIENT_TIMEOUT", "-1s")]);
    assert_eq!(negative.client_timeout, None);
    assert!(negative.notes[0].contains("BAO_CLIENT_TIMEOUT=-1s has no effect"));
}

#[test]
fn redirects_are_followed_unless_a_variable_says_otherwise() {
    let follow = |name, value| served(&[], &[(name, value)]).follow_redirects;
    assert!(served(&[], &[]).follow_redirects);
    assert!(follow("VAULT_DISABLE_REDIRECTS", "f"));
    assert!(!follow("VAULT_DISABLE_REDIRECTS", "T"));
    assert!(!follow("BAO_DISABLE_REDIRECTS", "1"));
    let fault = read(&[], &[("VAULT_DISABLE_REDIRECTS", "no")])
        .err()
        .unwrap();
    assert!(fault.to_string().contains("VAULT_DISABLE_REDIRECTS: "));
}

#[test]
fn a_lookup_that_is_switched_off_is_not_said_to_have_no_effect() {
    let notes = served(&[], &[("VAULT_SRV_LOOKUP", "false")]).notes;
    assert!(notes.is_empty(), "{notes:?}");
    assert!(read(&[], &[("VAULT_SRV_LOOKUP", "maybe")]).is_err());
}

/// What Go makes of these: `tests/recorded/proxies.json`.
#[test]
fn the_environment_names_the_proxies_that_it_names_to_go() {
    let recorded = std::fs::read_to_string("tests/recorded/proxies.json").unwrap();
    let recorded: serde_json::Value = serde_json::from_str(&recorded).unwrap();
    let mut refused = Vec::new();
    for row in recorded["environments"].as_array().unwrap() {
        let given = row["environment"].as_object().unwrap();
        let environment: Vec<(&str, &str)> = given
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        let Ok(Command::Serve(config)) = read(&[], &environment) else {
            refused.push(row["https"].as_str().unwrap().to_owned());
            continue;
        };
        for scheme in ["http", "https"] {
            let uri = format!("{scheme}://vault.test/").parse().unwrap();
            let before = config.proxies.before(&uri);
            let ours = before.map_or_else(String::new, |proxy| {
                proxy.uri().authority().unwrap().to_string()
            });
            let theirs = row[scheme].as_str().unwrap();
            let theirs = theirs.split_once("://").map_or("", |(_, rest)| rest);
            let theirs = theirs.trim_end_matches('/').rsplit('@').next().unwrap();
            assert_eq!(ours, theirs, "{environment:?}: {scheme}");
        }
    }
    let expected = [
        // No host of this name, or none at all: Go fails at each request, or goes past the proxy.
        "http:////a:1",
        "",
        // Asked by another protocol than http or SOCKS.
        "https://a:1",
        "ftp://a:1",
        "http://http://",
        "http://http://a%20b",
        "http://http://a:x",
        // A CGI program's.
        "http://b:1",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn the_version_is_printed() {
    for (flags, part) in [
        (&["-version"][..], "{\"major\":\""),
        (&["-version", "-output", "json"], "\"gitVersion\":\""),
        (&["--version=true", "--output=yaml"], "gitVersion: "),
        (
            &["-version", "-output=json-pretty"],
            "\n  \"gitVersion\": \"",
        ),
        (&["-version", "-endpoint=/openbao.sock"], "{\"version\":\""),
    ] {
        match read(flags, &[]).unwrap() {
            Command::Print(text) => assert!(text.contains(part), "{text}"),
            Command::Serve(_) => panic!("serves"),
        }
    }
    assert!(read(&["-version", "-output=xml"], &[]).is_err());
}
