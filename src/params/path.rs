//! The paths a class may name: at the server, and of its files.

/// Longest part of a file's path (NAME_MAX of Linux), in bytes.
const LONGEST_NAME: usize = 255;
/// Longest path that Linux takes, in bytes: PATH_MAX without its NUL.
const LONGEST_PATH: usize = 4095;
/// What the driver puts between the volume and a file while it writes it: `/..2006_01_02_15_04_05.0123456789/`.
const WRITER_DIRECTORY: usize = 33;
/// Longest API path or auth mount, in bytes: servers and proxies refuse longer request lines, and no
/// storage takes longer keys.
const LONGEST_API_PATH: usize = 4096;
/// Longest query, in bytes.
const LONGEST_QUERY: usize = 8192;

/// A query's pairs, decoded.
pub type Query = Vec<(String, String)>;

/// An API path without its query: `v1/` and slashes before it are taken off, doubled ones and those at its
/// end too, as the incumbents' client does (`path.Join`). A percent sign is one, also before two digits: the
/// request escapes it, so that a server finds the name that stands here.
///
/// # Errors
/// Says what is wrong with it.
pub fn api(text: &str) -> Result<String, String> {
    let path = text.strip_prefix('/').unwrap_or(text);
    let path = path.strip_prefix("v1/").unwrap_or(path);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let path = parts.join("/");
    segments(&path, &['\\'])?;
    Ok(path)
}

/// An auth mount: slashes at its ends are taken off.
///
/// # Errors
/// Says what is wrong with it.
pub fn mount(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    segments(path, &['\\', '#', '?'])?;
    Ok(path.to_owned())
}

fn segments(path: &str, refused: &[char]) -> Result<(), String> {
    if path.is_empty() {
        return Err("is empty".to_owned());
    }
    if path.len() > LONGEST_API_PATH {
        return Err(too_long(path.len(), LONGEST_API_PATH));
    }
    if let Some(c) = path.chars().find(|c| c.is_control()) {
        return Err(format!("has the control character {c:?}"));
    }
    if let Some(c) = path.chars().find(|c| refused.contains(c)) {
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

/// How long a file's path within the volume at `target_path` may be, in bytes, so that the driver can write it.
pub fn longest_file(target_path: &str) -> usize {
    LONGEST_PATH.saturating_sub(target_path.len() + WRITER_DIRECTORY)
}

pub fn too_long(length: usize, longest: usize) -> String {
    format!("is {length} bytes long, and {longest} are the most")
}

/// The pairs of a query, decoded as a form is and sorted by name, as Go's `url.Values` writes them.
///
/// # Errors
/// Says what is wrong with it: what Go's `url.ParseQuery` refuses, and what is not UTF-8.
pub fn query(text: &str) -> Result<Query, String> {
    if text.len() > LONGEST_QUERY {
        return Err(too_long(text.len(), LONGEST_QUERY));
    }
    let mut pairs = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        if pair.contains(';') {
            return Err("has a semicolon, which separates nothing".to_owned());
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((decoded(name)?, decoded(value)?));
    }
    // Stable: the values of one name keep their order.
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(pairs)
}

fn decoded(part: &str) -> Result<String, String> {
    let escapes = part.split('%').skip(1);
    for after in escapes {
        let digits = after.get(..2).unwrap_or_default();
        if digits.len() < 2 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err("has a percent sign without two hexadecimal digits".to_owned());
        }
    }
    let spaced = part.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "has an escape that is no UTF-8".to_owned())
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
            "//secret//app/",
            "v1//secret/app//",
        ] {
            assert_eq!(api(text), Ok("secret/app".to_owned()));
        }
        for text in [
            "secret/50%",
            "secret/50%off",
            "secret/data/my-project%2fpassword",
            "secret/%2e%2e/b",
            "50%25",
            "secret/a#b",
            "a b+c",
        ] {
            assert_eq!(api(text), Ok(text.to_owned()));
        }
        assert_eq!(
            api("kv/päth with space"),
            Ok("kv/päth with space".to_owned())
        );
    }

    #[test]
    fn no_path_leaves_its_place() {
        let wrong = ["", "/", "v1/", "a/../b", "..", "a/./b", "a\nb", "a\\b"];
        for text in wrong {
            assert!(api(text).is_err(), "{text:?}");
        }
        for text in [
            "", "/a", "../a", "..a", "a/../b", "a//b", "a/", "./a", "a\0b",
        ] {
            assert!(file(text).is_err(), "{text:?}");
        }
        assert!(file(&"x".repeat(256)).is_err());
        assert!(api(&"x/".repeat(2049)).is_err());
        assert!(query(&"x".repeat(8193)).is_err());
        assert_eq!(file("dir/tls.crt"), Ok(()));
        assert_eq!(
            mount("/teams/a/kubernetes/"),
            Ok("teams/a/kubernetes".to_owned())
        );
        assert_eq!(mount("k8s%2fa"), Ok("k8s%2fa".to_owned()));
        assert!(mount("a/../b").is_err());
    }

    #[test]
    fn queries_are_decoded_as_forms() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            query("version=1&a%20b=c+d&&flag&a=2&a=1"),
            Ok(vec![
                pair("a", "2"),
                pair("a", "1"),
                pair("a b", "c d"),
                pair("flag", ""),
                pair("version", "1"),
            ])
        );
        for wrong in ["a=%zz", "a=%", "%4=1", "a=1;b=2", "a=%ff"] {
            assert!(query(wrong).is_err(), "{wrong}");
        }
    }
}
