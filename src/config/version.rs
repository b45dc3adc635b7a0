//! `-version`, in the fields and the layout of the incumbents (`internal/version` of each).
//!
//! What only a build knows is told to it by its environment, so that the same source gives the same bytes:
//! `LEASEHOLD_GIT_COMMIT`, `LEASEHOLD_GIT_TREE_STATE` and `SOURCE_DATE_EPOCH` (seconds).

use k8s_openapi::jiff::Timestamp;

use crate::params::Flavour;

/// The oldest driver that this is built for.
const OLDEST_DRIVER: &str = "v1.4.0";

/// The version's text. OpenBao's provider has one layout, Vault's has three.
///
/// # Errors
/// There is no such output.
pub fn text(flavour: Flavour, output: &str) -> Result<String, String> {
    let fields = match flavour {
        Flavour::Vault => fields(),
        Flavour::OpenBao => short_fields(),
    };
    match (flavour, output) {
        (Flavour::OpenBao, _) | (Flavour::Vault, "json") => Ok(json(&fields, "", "")),
        (Flavour::Vault, "json-pretty") => Ok(json(&fields, "\n", "  ")),
        (Flavour::Vault, "yaml") => Ok(yaml(&fields)),
        _ => Err(format!(
            "-output: {output:?} is none of json, json-pretty, yaml"
        )),
    }
}

type Fields = Vec<(&'static str, String)>;

fn fields() -> Fields {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    vec![
        ("major", env!("CARGO_PKG_VERSION_MAJOR").to_owned()),
        ("minor", env!("CARGO_PKG_VERSION_MINOR").to_owned()),
        ("patch", env!("CARGO_PKG_VERSION_PATCH").to_owned()),
        ("gitVersion", env!("CARGO_PKG_VERSION").to_owned()),
        ("gitCommit", text(option_env!("LEASEHOLD_GIT_COMMIT"))),
        (
            "gitTreeState",
            text(option_env!("LEASEHOLD_GIT_TREE_STATE")),
        ),
        ("buildDate", build_date()),
        // There is no Go in it.
        ("goVersion", String::new()),
        ("compiler", "rustc".to_owned()),
        ("platform", platform()),
        ("minDriverVersion", OLDEST_DRIVER.to_owned()),
    ]
}

fn short_fields() -> Fields {
    vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("buildDate", build_date()),
        ("goVersion", String::new()),
        ("minDriverVersion", OLDEST_DRIVER.to_owned()),
    ]
}

fn build_date() -> String {
    let seconds = option_env!("SOURCE_DATE_EPOCH").and_then(|seconds| seconds.parse().ok());
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// As Go names it: `linux/amd64`.
fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}

fn json(fields: &Fields, line: &str, indent: &str) -> String {
    let space = if indent.is_empty() { "" } else { " " };
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| {
            let value = serde_json::Value::from(value.as_str());
            format!("{line}{indent}\"{name}\":{space}{value}")
        })
        .collect();
    format!("{{{}{line}}}", fields.join(","))
}

/// With an empty line at its end, as they have it.
fn yaml(fields: &Fields) -> String {
    fields
        .iter()
        .map(|(name, value)| {
            let other = value.is_empty() || value.parse::<f64>().is_ok() || value.contains(':');
            let quote = if other { "\"" } else { "" };
            format!("{name}: {quote}{value}{quote}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `vault-csi-provider` 1.7.4 prints.
    const JSON: &str = r#"{"major":"1","minor":"7","patch":"4","gitVersion":"v1.7.4","gitCommit":"1234567","gitTreeState":"clean","buildDate":"2026-01-02T03:04:05Z","goVersion":"go1.26","compiler":"gc","platform":"linux/amd64","minDriverVersion":"v1.0.0"}"#;
    const YAML: &str = "major: \"1\"\nminor: \"7\"\npatch: \"4\"\ngitVersion: v1.7.4\ngitCommit: \"1234567\"\ngitTreeState: clean\nbuildDate: \"2026-01-02T03:04:05Z\"\ngoVersion: go1.26\ncompiler: gc\nplatform: linux/amd64\nminDriverVersion: v1.0.0\n";
    /// What `openbao-csi-provider` 2.0.2 prints.
    const SHORT: &str = r#"{"version":"2.0.2","buildDate":"2026-01-02-03:04","goVersion":"","minDriverVersion":"v0.0.21"}"#;

    /// Our fields with the values of a text of theirs, in our order.
    fn theirs(ours: Fields, text: &str) -> Fields {
        let values: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(values.as_object().unwrap().len(), ours.len());
        ours.into_iter()
            .map(|(name, _)| (name, values[name].as_str().unwrap().to_owned()))
            .collect()
    }

    #[test]
    fn the_incumbents_fields_in_their_layout() {
        let long = theirs(fields(), JSON);
        assert_eq!(json(&long, "", ""), JSON);
        assert_eq!(yaml(&long), YAML);
        let pretty = json(&long, "\n", "  ");
        assert!(
            pretty.starts_with("{\n  \"major\": \"1\",\n  \"minor\": \"7\",\n"),
            "{pretty}"
        );
        assert!(
            pretty.ends_with("  \"minDriverVersion\": \"v1.0.0\"\n}"),
            "{pretty}"
        );
        assert_eq!(json(&theirs(short_fields(), SHORT), "", ""), SHORT);
    }

    #[test]
    fn openbaos_has_one_layout() {
        let one = text(Flavour::OpenBao, "json");
        assert_eq!(one, text(Flavour::OpenBao, "yaml"));
        assert!(one.is_ok_and(|text| text.starts_with("{\"version\":\"")));
        assert!(text(Flavour::Vault, "xml").is_err());
    }
}
