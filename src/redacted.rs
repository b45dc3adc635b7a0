//! Secret values that cannot be printed and are wiped when dropped.
//!
//! None of these types implements `Debug` or `Display`, so a log line, an error or an assertion that
//! would show one does not compile:
//!
//! ```compile_fail
//! let token = leasehold::redacted::Secret::from("hvs.secret".to_owned());
//! println!("{token:?}");
//! ```
//! ```compile_fail
//! let token = leasehold::redacted::Secret::from("hvs.secret".to_owned());
//! println!("{token}");
//! ```
//! ```compile_fail
//! let token = leasehold::redacted::Secret::from("hvs.secret".to_owned());
//! serde_json::to_string(&token);
//! ```
//!
//! Each of them compiles once it is told what to do:
//!
//! ```
//! let token = leasehold::redacted::Secret::from("hvs.secret".to_owned());
//! println!("{:?}", token.expose().len());
//! serde_json::to_string(&token.expose().len());
//! ```
//!
//! `tests/unprintable.rs` says the same of every type that holds one.

use zeroize::Zeroizing;

/// A secret text: a token, a password, a private key in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret itself. Every call site is a place for a reviewer to look at.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(Zeroizing::new(value))
    }
}

/// Secret bytes: a reply's body, a file's contents.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// The secret itself. Every call site is a place for a reviewer to look at.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes that they take in memory: a buffer that a reply was read into may be larger than the reply.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.capacity()
    }

    /// The same bytes between others. Where their buffer has room for those, nothing is copied.
    #[must_use]
    pub fn between(mut self, before: &[u8], after: &[u8]) -> Self {
        let size = before.len() + self.0.len() + after.len();
        if self.0.capacity() < size {
            // By us: a buffer that grows by itself leaves its old content behind, unwiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(size));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.splice(0..0, before.iter().copied());
        self.0.extend_from_slice(after);
        self
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(value: Vec<u8>) -> Self {
        Self(Zeroizing::new(value))
    }
}
