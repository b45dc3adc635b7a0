//! The paths a class may name: at the server, and of its files.

/// Longest path of a file within a volume, and longest part of it (PATH_MAX and NAME_MAX of Linux).
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;

/// An API path without its query: `v1/` and slashes before it are taken off.
///
/// # Errors
/// Says what is wrong with it. A percent sign is refused: the path is encoded here, once, and whoever
/// writes one either means an encoded separator or would not get what he means.
pub fn api(text: &str) -> Result<String, String> {
    let path = text.strip_prefix('/').unwrap_or(text);
    let path = path.strip_prefix("v1/").unwrap_or(path);
    segments(path)?;
    Ok(path.to_owned())
}

/// An auth mount: slashes at its ends are taken off.
///
/// # Errors
/// Says what is wrong with it.
pub fn mount(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    segments(path)?;
    Ok(path.to_owned())
}

fn segments(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("is empty".to_owned());
    }
    if let Some(c) = path.chars().find(|c| c.is_control()) {
        return Err(format!("has the control character {c:?}"));
    }
    if let Some(c) = path.chars().find(|c| matches!(c, '%' | '\\' | '#' | '?')) {
        return Err(format!("has the character {c:?}, which no path may have"));
    }
    for segment in path.split('/') {
        match segment {
            "" => return Err("has an empty segment".to_owned()),
            "." | ".." => return Err(format!("has the segment {segment:?}")),
            _ => {}
        }
    }
    Ok(())
}

/// A file's path within the volume, by the driver's rules (its `pkg/util/fileutil/writer.go` and
/// `atomic_writer.go`): relative, clean, without `..`.
///
/// # Errors
/// Says what is wrong with it.
pub fn file(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.starts_with('/') {
        return Err("is absolute".to_owned());
    }
    if text.starts_with("..") {
        return Err("begins with \"..\"".to_owned());
    }
    if text.len() > LONGEST_PATH {
        return Err(format!("is longer than {LONGEST_PATH} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character".to_owned());
    }
    for segment in text.split('/') {
        match segment {
            "" => return Err("has an empty segment".to_owned()),
            "." | ".." => return Err(format!("has the segment {segment:?}")),
            _ if segment.len() > LONGEST_NAME => {
                return Err(format!("has a name longer than {LONGEST_NAME} bytes"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The pairs of a query, decoded as a form is.
#[must_use]
pub fn query(text: &str) -> Vec<(String, String)> {
    let decoded = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced)
            .decode_utf8_lossy()
            .into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_paths_are_unified() {
        for text in [
            "v1/secret/app",
            "/v1/secret/app",
            "/secret/app",
            "secret/app",
        ] {
            assert_eq!(api(text), Ok("secret/app".to_owned()));
        }
        assert_eq!(
            api("kv/päth with space"),
            Ok("kv/päth with space".to_owned())
        );
    }

    #[test]
    fn no_path_leaves_its_place() {
        let wrong = [
            "",
            "/",
            "v1/",
            "a//b",
            "a/../b",
            "..",
            "a/./b",
            "a/",
            "a/%2e%2e/b",
            "a%2fb",
            "a\nb",
            "a\\b",
            "a#b",
        ];
        for text in wrong {
            assert!(api(text).is_err(), "{text:?}");
        }
        for text in [
            "", "/a", "../a", "..a", "a/../b", "a//b", "a/", "./a", "a\0b",
        ] {
            assert!(file(text).is_err(), "{text:?}");
        }
        assert!(file(&"x".repeat(256)).is_err());
        assert_eq!(file("dir/tls.crt"), Ok(()));
        assert_eq!(
            mount("/teams/a/kubernetes/"),
            Ok("teams/a/kubernetes".to_owned())
        );
        assert!(mount("a/../b").is_err());
    }

    #[test]
    fn queries_are_decoded_as_forms() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            query("version=1&a%20b=c+d&flag"),
            [pair("version", "1"), pair("a b", "c d"), pair("flag", "")]
        );
    }
}
