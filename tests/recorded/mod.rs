//! Where we differ from the record on purpose. `docs/compatibility.md` gives the same reasons.

/// Where we differ on purpose: why, and in which inputs.
pub const DIFFERENT: &[(&str, &[&str])] = &[
    (
        "an address without a scheme fails at their first request; we say so before",
        &["address my-vault-address", "address vault:8200"],
    ),
    (
        "half of a key pair fails in their client, before the first request",
        &["client certificate alone", "client key alone"],
    ),
    (
        "served as vault we take OpenBao's spellings too",
        &[
            "bao prefix",
            "openbao prefix",
            "vaultRoleName alone",
            "bao and openbao",
            "bao mount and vault kubernetes mount",
        ],
    ),
    ("the driver always sends a number", &["permission null"]),
    (
        "they refuse a quoted mode; we read what stands within the quotes",
        &[
            "mode \"0644\"",
            "mode \"420\"",
            "mode '0o600'",
            "mode !!str 420",
        ],
    ),
    (
        "the driver refuses such a file; we say so before a credential is issued",
        &[
            "name ~",
            "name \"\"",
            "name /a",
            "name ../a",
            "name a/../b",
            "name ./a",
            "name a//b",
            "name a/",
            "name ..a",
            "name 256",
            "name ..",
            "name .",
            "no name",
            "null items",
            "case of a field",
            "lower case fields",
            "file and directory",
        ],
    ),
    (
        "nothing can be read there",
        &[
            "no path",
            "path v1/",
            "path /v1/",
            "path ?x=1",
            "path /?x=1",
        ],
    ),
    (
        "a path that points elsewhere than it names is refused",
        &[
            "path secret/./app",
            "path secret/../app",
            "path ..",
            "path secret/a\\\\b",
            "control character",
        ],
    ),
    (
        "a server knows methods in capitals only; we write them so",
        &["method get", "method Post", "method put", "method list"],
    ),
    (
        "no reply to it can become a file; their process ends at the empty reply to DELETE",
        &[
            "method DELETE",
            "method PATCH",
            "method HEAD",
            "method OPTIONS",
            "method FOO",
            "method \"GET \"",
        ],
    ),
    (
        "they fail when such a map is sent; we send its keys as texts",
        &["args v: {1: x}", "args v: {true: x}", "args v: {a: {1: x}}"],
    ),
    (
        "YAML of a kind that nobody writes",
        &[
            "key !!null x",
            "args v: 1e400",
            "args v: !!timestamp 2030-01-02",
            "args v: 1__0",
            "args v: 1e5_0",
            "args null key",
        ],
    ),
];

/// Where a reply's content differs on purpose.
pub const OTHER_CONTENT: &[(&str, &[&str])] = &[
    (
        "what follows a reply shows that it is none",
        &["trailing", "two values"],
    ),
    (
        "data that is no map is passed on as it is",
        &["data a list whole"],
    ),
    ("nothing depends on it", &["request id a number"]),
    (
        "a credential that was issued is not refused for how its server writes a number",
        &[
            "lease a text",
            "warnings a text",
            "lease 5.0",
            "lease a float",
        ],
    ),
    (
        "no server writes these",
        &["half surrogate", "names in another case", "deep"],
    ),
    (
        "their client takes JSON alone; certificates, CRLs and public keys become files as they are",
        &["pem whole", "ssh key whole"],
    ),
    (
        "OpenBao's client does not know the mount's type; we pass it on wherever it is sent",
        &["kv2 whole", "mount type and no data", "leased whole"],
    ),
];
