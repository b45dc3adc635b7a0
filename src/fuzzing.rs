//! The fuzz targets: everything that takes bytes from somebody else, and what must hold of it whatever
//! the bytes are.
//!
//! No part of a shipped binary: it is built for tests and by `cargo fuzz`, which sets `cfg(fuzzing)`. The
//! files in `fuzz/fuzz_targets` call these functions guided by coverage; the test below runs the same
//! ones over the corpus and over mutated copies of it, on stable, in each `cargo test`.

use crate::render;
use crate::spec::{Encoding, Object, Selector};
use crate::vault::fuzzing::{self as vault, TOKEN};
use crate::{params, provider, registry};

/// A target's body. It panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("attributes", attributes),
    ("objects", objects),
    ("tokens", tokens),
    ("journal", journal),
    ("replies", replies),
    ("paths", paths),
    ("clients", clients),
    ("certificates", certificates),
];

/// A Mount's message: attributes, secrets, target path and permission, with NUL between them.
pub fn attributes(data: &[u8]) {
    if let Some(spec) = params::fuzzing::message(data) {
        vault::addressed(&spec);
    }
}

/// A class' `objects`.
pub fn objects(data: &[u8]) {
    if let Some(spec) = params::fuzzing::objects(data) {
        vault::addressed(&spec);
    }
}

/// The pod's tokens as attribute and, after a NUL, as secrets.
pub fn tokens(data: &[u8]) {
    params::fuzzing::tokens(data);
}

/// A journal file, and a journal file's record.
pub fn journal(data: &[u8]) {
    registry::fuzzing::journal(data);
}

/// A bundle of certificates, as a class or a server brings it.
pub fn certificates(data: &[u8]) {
    vault::bundle(data);
}

/// A server's reply: a line with status and call (`200 GET`), then the body.
pub fn replies(data: &[u8]) {
    let Some(grant) = vault::reply(data) else {
        return;
    };
    let selectors =
        ["k", "data", "username", "certificate"].map(|key| Selector::Key(key.to_owned()));
    for selector in selectors.into_iter().chain([Selector::Response]) {
        for encoding in [Encoding::Utf8, Encoding::Base64, Encoding::Hex] {
            let object = Object {
                name: "file".to_owned(),
                request: grant.request.clone(),
                selector: selector.clone(),
                encoding,
                mode: 0o400,
            };
            match render::files(std::slice::from_ref(&object), |_| Some(&grant)) {
                Ok(files) => {
                    assert_eq!(files.len(), 1, "one object, one file");
                    for file in files {
                        assert_eq!((file.path.as_str(), file.mode), ("file", 0o400));
                        let whole = selector == Selector::Response;
                        let json =
                            serde_json::from_slice::<serde::de::IgnoredAny>(file.contents.expose());
                        assert!(
                            grant.raw || !whole || json.is_ok(),
                            "a whole reply is JSON again"
                        );
                        let version = render::version(b"key", &object, &file.contents);
                        assert_eq!(version.len(), 44, "a version is an HMAC and shows nothing");
                    }
                }
                Err(error) => assert!(!error.to_string().contains(TOKEN), "{error}"),
            }
        }
    }
}

/// What a class may name: a file, a path at the server, an auth mount, a query, an address.
pub fn paths(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    params::fuzzing::paths(&text);
    vault::address(&text);
}

/// Two bytes for the pieces that they come in, then what a gRPC client sends on a connection.
pub fn clients(data: &[u8]) {
    provider::authority::fuzzing::client(data);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;

    /// How long each target is tried with mutated inputs, and with how many at the least.
    const SPELL: Duration = Duration::from_secs(2);
    const LEAST: usize = 200;
    /// The largest input that is made.
    const LARGEST: usize = 64 * 1024;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut files: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    }

    /// A small generator of its own, so that a failure's input comes again with its seed.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            // xorshift64* (Vigna, 2016).
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let rolled = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
            usize::try_from(rolled).unwrap() % sides.max(1)
        }
    }

    /// Pieces that parsers stumble over.
    const PIECES: &[&str] = &[
        "..",
        "/",
        "%2e%2e",
        "%2f",
        "\0",
        "\\",
        "\u{ff0e}\u{ff0e}",
        "\u{2215}",
        "\u{202e}",
        "?",
        "#",
        "&a=b",
        "@",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        ":",
        ",",
        "\n",
        "\t",
        "- ",
        "<<: *a",
        "&a ",
        "*a",
        "!!binary ",
        "|\n",
        "null",
        "true",
        "-1",
        "0",
        "18446744073709551615",
        "1e400",
        "0o777",
        "0644",
        "\\ud800",
        "\u{0}",
        "é",
    ];

    fn mutated(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
        let mut input = corpus[dice.roll(corpus.len())].clone();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(input.len() + 1);
            let to = at + dice.roll(input.len() - at + 1);
            match dice.roll(5) {
                0 => drop(input.drain(at..to)),
                1 => {
                    let piece = PIECES[dice.roll(PIECES.len())].as_bytes();
                    input.splice(at..at, piece.iter().copied());
                }
                2 => input[at..to]
                    .iter_mut()
                    .take(4)
                    .for_each(|byte| *byte ^= 1 << dice.roll(8)),
                3 => {
                    let copy = input[at..to].to_vec();
                    input.splice(at..at, copy);
                }
                _ => {
                    let other = &corpus[dice.roll(corpus.len())];
                    let from = dice.roll(other.len() + 1);
                    input.splice(at..to, other[from..].iter().copied());
                }
            }
            input.truncate(LARGEST);
        }
        input
    }

    #[test]
    fn every_target_holds_over_its_corpus_and_what_is_near_it() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            assert!(corpus.len() >= 3, "{name} has a corpus");
            corpus.iter().for_each(|input| target(input));
            let seed = rand::random::<u64>() | 1;
            let (mut dice, started, mut tried) = (Dice(seed), Instant::now(), 0);
            while tried < LEAST || started.elapsed() < SPELL {
                let input = mutated(&corpus, &mut dice);
                let held = std::panic::catch_unwind(|| target(&input));
                assert!(
                    held.is_ok(),
                    "{name}, seed {seed}: {:?}",
                    String::from_utf8_lossy(&input)
                );
                tried += 1;
            }
        }
    }

    #[test]
    fn every_target_is_run_by_cargo_fuzz_as_well() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let mut files: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .flatten()
            .map(|entry| {
                let body = fs::read_to_string(entry.path()).unwrap();
                let name = entry
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                assert!(
                    body.contains(&format!("leasehold::fuzzing::{name}(data)")),
                    "{name}"
                );
                name
            })
            .collect();
        files.sort();
        let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(files, names);
    }
}
