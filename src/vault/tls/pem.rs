//! PEM as Go's `encoding/pem` reads it: text around blocks, CRLF, attributes and damaged blocks do no harm
//! to the blocks beside them. A reader that stops at the first fault would lose every CA behind it.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"\n-----END ";
const DASHES: &[u8] = b"-----";

/// Go ignores bits beyond the last byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// One block.
pub struct Block<'a> {
    /// What stands behind `BEGIN`: `CERTIFICATE`.
    pub label: &'a [u8],
    /// Whether lines such as `Proc-Type: 4,ENCRYPTED` stand before the content.
    pub has_headers: bool,
    /// The content, which may be a private key.
    pub content: Zeroizing<Vec<u8>>,
}

/// The blocks of a text, in order. What is no block is passed over.
pub struct Blocks<'a>(&'a [u8]);

impl<'a> Blocks<'a> {
    pub fn of(text: &'a [u8]) -> Self {
        Self(text)
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        loop {
            // The first END line, and the last BEGIN before it: a BEGIN without an END is passed over.
            let (before, after) = split_at(self.0, END)?;
            self.0 = after;
            let Some(block) = last(before, BEGIN).and_then(|begun| block(begun, after)) else {
                continue;
            };
            self.0 = line(after).1;
            return Some(block);
        }
    }
}

/// A block, from what stands behind its `BEGIN ` and behind its `END `.
fn block<'a>(begun: &'a [u8], ended: &[u8]) -> Option<Block<'a>> {
    let (first, mut rest) = line(begun);
    let label = first.strip_suffix(DASHES)?;
    let mut has_headers = false;
    loop {
        let (header, behind) = line(rest);
        if !header.contains(&b':') {
            break;
        }
        has_headers = true;
        rest = behind;
    }
    let closing = ended.strip_prefix(label)?.strip_prefix(DASHES)?;
    if !line(closing).0.is_empty() {
        return None;
    }
    let digits = rest.iter().filter(|byte| !b" \t\r\n".contains(byte));
    let digits = Zeroizing::new(digits.copied().collect::<Vec<u8>>());
    let content = BASE64.decode(digits.as_slice()).ok()?;
    Some(Block {
        label,
        has_headers,
        content: Zeroizing::new(content),
    })
}

/// What stands before the first mark, and behind it.
fn split_at<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(mark.len()).position(|part| part == mark)?;
    Some((text.get(..at)?, text.get(at + mark.len()..)?))
}

/// What stands behind the last mark, which must begin a line.
fn last<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(mark.len()).rposition(|part| part == mark)?;
    let begins_line = at == 0 || text.get(at - 1) == Some(&b'\n');
    text.get(at + mark.len()..).filter(|_| begins_line)
}

/// The first line without what ends it and blanks before that, and what follows.
fn line(text: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = match text.iter().position(|&byte| byte == b'\n') {
        Some(at) => text.split_at(at),
        None => (text, &[][..]),
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let blanks = line
        .iter()
        .rev()
        .take_while(|&&byte| byte == b' ' || byte == b'\t')
        .count();
    let kept = line.len().saturating_sub(blanks);
    (
        line.get(..kept).unwrap_or_default(),
        rest.strip_prefix(b"\n").unwrap_or(rest),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, bool, String)> {
        let text_of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Blocks::of(text.as_bytes())
            .map(|block| {
                let content = text_of(&block.content);
                (text_of(block.label), block.has_headers, content)
            })
            .collect()
    }

    fn one(label: &str, has_headers: bool, content: &str) -> Vec<(String, bool, String)> {
        vec![(label.to_owned(), has_headers, content.to_owned())]
    }

    #[test]
    fn what_stands_around_a_block_does_no_harm() {
        let block = "-----BEGIN A B-----\r\naGVs\r\nbG8=\r\n-----END A B-----";
        for (before, after) in [
            ("", ""),
            ("some text\n", "\nmore"),
            ("-----BEGIN A B-----\n", " \t\r\n"),
            ("-----BEGIN C-----\n!!!!\n-----END C-----\n", ""),
            ("-----BEGIN C-----\nYQ==\n-----END D-----\n", ""),
            ("\n-----END X-----\n", "\n-----BEGIN unfinished-----\nYQ=="),
        ] {
            let text = format!("{before}{block}{after}");
            assert_eq!(read(&text), one("A B", false, "hello"), "{text}");
        }
        assert_eq!(read(&format!(" {block}")), []);
        assert_eq!(read(&format!("\u{feff}{block}")), []);
        assert_eq!(read(&format!("{block} x")), []);
        assert_eq!(read(&format!("{block}\n{block}")).len(), 2);
    }

    #[test]
    fn headers_are_told_and_the_content_follows_them() {
        let text = "-----BEGIN K-----\nProc-Type: 4,ENCRYPTED\n\nYQ==\n-----END K-----\n";
        assert_eq!(read(text), one("K", true, "a"));
        assert_eq!(
            read("-----BEGIN K-----\n-----END K-----"),
            one("K", false, "")
        );
    }
}
