//! Unknown names, and the known one that was probably meant.

use super::fault::shown;

/// What people write in place of a known name, by similarity alone not to be found.
const ALIASES: &[(&str, &str)] = &[
    ("vaultRole", "roleName"),
    ("role", "roleName"),
    ("vaultRoleName", "roleName"),
    ("mountPath", "vaultAuthMountPath"),
    ("authPath", "vaultAuthMountPath"),
    ("vaultAuthPath", "vaultAuthMountPath"),
    ("address", "vaultAddress"),
    ("vaultAddr", "vaultAddress"),
    ("namespace", "vaultNamespace"),
    ("tlsSkipVerify", "vaultSkipTLSVerify"),
    ("path", "secretPath"),
    ("key", "secretKey"),
    ("name", "objectName"),
    ("fileName", "objectName"),
    ("objectAlias", "objectName"),
    ("mode", "filePermission"),
    ("args", "secretArgs"),
    ("objectVersion", "secretPath"),
];

/// The warning for an unknown name of some `kind`.
#[must_use]
pub fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    let meant = ALIASES
        .iter()
        .find(|(alias, meant)| alias.eq_ignore_ascii_case(name) && known.contains(meant))
        .map(|(_, meant)| *meant)
        .or_else(|| nearest(name, known));
    let name = shown(name);
    match meant {
        Some(meant) => {
            format!("unknown {kind} {name:?} has no effect: did you mean {meant:?}?")
        }
        None => format!("unknown {kind} {name:?} has no effect"),
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

    #[test]
    fn the_nearest_known_name_is_told() {
        let known = ["roleName", "vaultAddress", "objects"];
        let told = unknown("parameter", "vaultRole", &known);
        assert!(told.ends_with("did you mean \"roleName\"?"), "{told}");
        let told = unknown("parameter", "vaultAdress", &known);
        assert!(told.contains("vaultAddress"), "{told}");
        let told = unknown("parameter", "colour", &known);
        assert!(!told.contains("mean"), "{told}");
    }
}
