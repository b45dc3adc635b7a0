//! Patterns by which an administrator allows addresses, namespaces and auth mounts.

use std::fmt;

/// A text in which `*` stands for any run of characters but `/`, `:` and `@`, and `**` for any at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern of its text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Whether a text fits as a whole.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        fits(self.0.as_bytes(), text.as_bytes())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Linear in space, and in time but for the product of the two lengths: a tenant chooses the text.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // Which prefixes of the pattern the text so far fits.
    let mut here: Vec<bool> = vec![false; pattern.len() + 1];
    if let Some(start) = here.first_mut() {
        *start = true;
    }
    skip_stars(pattern, &mut here);
    for byte in text {
        let mut next = vec![false; pattern.len() + 1];
        for (at, wanted) in pattern.iter().enumerate() {
            if !here.get(at).copied().unwrap_or_default() {
                continue;
            }
            let all = is_double(pattern, at);
            let (to, fits) = match wanted {
                b'*' => (at, all || !b"/:@".contains(byte)),
                _ => (at + 1, wanted == byte),
            };
            if let Some(reached) = next.get_mut(to).filter(|_| fits) {
                *reached = true;
            }
        }
        skip_stars(pattern, &mut next);
        here = next;
    }
    here.last().copied().unwrap_or_default()
}

/// A star may stand for nothing.
fn skip_stars(pattern: &[u8], here: &mut [bool]) {
    for (at, wanted) in pattern.iter().enumerate() {
        if *wanted == b'*'
            && here.get(at).copied().unwrap_or_default()
            && let Some(after) = here.get_mut(at + 1)
        {
            *after = true;
        }
    }
}

fn is_double(pattern: &[u8], at: usize) -> bool {
    let is_star = |at: Option<usize>| at.and_then(|at| pattern.get(at)) == Some(&b'*');
    is_star(at.checked_sub(1)) || is_star(at.checked_add(1))
}
