//! Unknown names, and the known one that was probably meant.

use serde_json::Value;

use super::fault::shown;

/// What people write in place of a known name, by similarity alone not to be found: other spellings, and the
/// names of the driver's other providers (AWS, Azure, GCP) and of Vault's own tools.
const ALIASES: &[(&str, &str)] = &[
    ("vaultRole", "roleName"),
    ("role", "roleName"),
    ("vaultRoleName", "roleName"),
    ("roleArn", "roleName"),
    ("clientID", "roleName"),
    ("mountPath", "vaultAuthMountPath"),
    ("authPath", "vaultAuthMountPath"),
    ("vaultAuthPath", "vaultAuthMountPath"),
    ("address", "vaultAddress"),
    ("vaultAddr", "vaultAddress"),
    ("keyvaultName", "vaultAddress"),
    ("namespace", "vaultNamespace"),
    ("tlsSkipVerify", "vaultSkipTLSVerify"),
    ("secrets", "objects"),
    ("array", "objects"),
    ("path", "secretPath"),
    ("resourceName", "secretPath"),
    ("objectPath", "secretPath"),
    ("key", "secretKey"),
    ("field", "secretKey"),
    ("property", "secretKey"),
    ("jmesPath", "secretKey"),
    ("objectKey", "secretKey"),
    ("name", "objectName"),
    ("fileName", "objectName"),
    ("objectAlias", "objectName"),
    ("mode", "filePermission"),
    ("args", "secretArgs"),
    ("content", "encoding"),
    ("format", "encoding"),
    ("objectEncoding", "encoding"),
    ("objectFormat", "encoding"),
    ("objectVersion", "secretPath"),
];

/// Names that have nothing to stand in for them here, and what is to be done instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "secretObjects",
        "it belongs under `spec`, beside `parameters`: the driver reads it, not the provider",
    ),
    ("provider", "it belongs under `spec`, beside `parameters`"),
    (
        "objectType",
        "it is another provider's: `secretPath` says what is read",
    ),
    (
        "objectVersionLabel",
        "it is another provider's: a version is a query, as in `secretPath: secret/data/app?version=2`",
    ),
    ("region", "it is another provider's"),
    ("failoverRegion", "it is another provider's"),
    ("pathTranslation", "it is another provider's"),
    (
        "usePodIdentity",
        "it is another provider's: the pod's service account logs in",
    ),
    (
        "useVMManagedIdentity",
        "it is another provider's: the pod's service account logs in",
    ),
    (
        "userAssignedIdentityID",
        "it is another provider's: the pod's service account logs in",
    ),
    ("tenantId", "it is another provider's"),
    ("cloudName", "it is another provider's"),
];

/// The warning for an unknown name of some `kind`. `elsewhere` are names that are known, but not here, with
/// the place that they belong to.
#[must_use]
pub fn unknown(kind: &str, name: &str, known: &[&str], elsewhere: (&[&str], &str)) -> String {
    let meant = ALIASES
        .iter()
        .find(|(alias, meant)| alias.eq_ignore_ascii_case(name) && known.contains(meant))
        .map(|(_, meant)| *meant);
    let hint = ELSEWHERE
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, hint)| *hint)
        .or_else(|| elsewhere.0.contains(&name).then_some(elsewhere.1));
    let meant = meant.or_else(|| nearest(name, known).filter(|_| hint.is_none()));
    let name = shown(name);
    match (meant, hint) {
        (Some(meant), _) => {
            format!("unknown {kind} {name:?} has no effect: did you mean {meant:?}?")
        }
        (None, Some(hint)) => format!("unknown {kind} {name:?} has no effect: {hint}"),
        (None, None) => format!("unknown {kind} {name:?} has no effect"),
    }
}

/// What is wrong with a parameter that is no text, and how to mend it.
#[must_use]
pub fn not_text(name: &str, value: &Value) -> (&'static str, &'static str) {
    match (value, name) {
        (Value::Array(_) | Value::Object(_), "objects") => (
            "is no text",
            "write `objects: |` and the list below it, indented, as a block of text",
        ),
        (Value::Array(_), "audience") => (
            "is a list",
            "name one audience: one token is sent at a login",
        ),
        (Value::Array(_) | Value::Object(_), "secretObjects") => (
            "is no parameter",
            "write it under `spec`, beside `parameters`: the driver reads it, not the provider",
        ),
        (Value::Array(_) | Value::Object(_), _) => ("is no text", "write one value"),
        _ => ("is no string", "quote it in the class"),
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .iter()
        .map(|candidate| {
            let likeness = strsim::jaro_winkler(&name, &candidate.to_lowercase());
            (likeness, *candidate)
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{FIELDS, PARAMETERS};

    #[test]
    fn the_nearest_known_name_is_told() {
        for (name, meant) in [
            ("vaultRole", "roleName"),
            ("rolename", "roleName"),
            ("roleArn", "roleName"),
            ("vaultAdress", "vaultAddress"),
            ("keyvaultName", "vaultAddress"),
            ("secrets", "objects"),
            ("onUnMount", "onUnmount"),
        ] {
            let told = unknown("parameter", name, PARAMETERS, (FIELDS, ""));
            assert!(
                told.ends_with(&format!("did you mean {meant:?}?")),
                "{told}"
            );
        }
        for (name, meant) in [
            ("content", "encoding"),
            ("key", "secretKey"),
            ("jmesPath", "secretKey"),
            ("path", "secretPath"),
            ("objectAlias", "objectName"),
            ("secretkey", "secretKey"),
        ] {
            let told = unknown("field", name, FIELDS, (PARAMETERS, ""));
            assert!(
                told.ends_with(&format!("did you mean {meant:?}?")),
                "{told}"
            );
        }
        let told = unknown("parameter", "colour", PARAMETERS, (FIELDS, ""));
        assert!(told.ends_with("has no effect"), "{told}");
    }

    #[test]
    fn what_belongs_elsewhere_is_told_where() {
        let parameter = |name| unknown("parameter", name, PARAMETERS, (FIELDS, "within objects"));
        assert!(parameter("secretObjects").contains("beside `parameters`"));
        assert!(parameter("secretPath").ends_with(": within objects"));
        let field = |name| unknown("field", name, FIELDS, (PARAMETERS, "beside objects"));
        assert!(field("vaultNamespace").ends_with(": beside objects"));
        assert!(field("objectType").contains("another provider's"));
    }
}
