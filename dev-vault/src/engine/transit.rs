//! The transit engine: keys that never leave, for encryption (OpenBao `builtin/logical/transit`).

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::answer::{Answer, Request};

/// What every ciphertext of a key's first version begins with.
const FIRST: &str = "vault:v1:";

#[derive(Default)]
pub struct Transit {
    keys: BTreeMap<String, LessSafeKey>,
}

impl Transit {
    pub fn handle(&mut self, request: &Request, path: &str) -> Answer {
        let (kind, name) = path.split_once('/').unwrap_or((path, ""));
        if !request.writes() {
            return Answer::unsupported();
        }
        match kind {
            "keys" => match self.key(name) {
                Some(_) => Answer::data(json!({
                    "name": name,
                    "type": "aes256-gcm96",
                    "latest_version": 1,
                    "supports_encryption": true,
                    "supports_decryption": true,
                })),
                None => Answer::wrapped_error(500, "the key cannot be made"),
            },
            "encrypt" => self.encrypt(request, name),
            "decrypt" => self.decrypt(request, name),
            _ => Answer::unsupported(),
        }
    }

    /// The key of a name; made when it is first asked for.
    fn key(&mut self, name: &str) -> Option<&LessSafeKey> {
        if !self.keys.contains_key(name) {
            let key: [u8; 32] = rand::random();
            let key = UnboundKey::new(&AES_256_GCM, &key).ok()?;
            self.keys.insert(name.to_owned(), LessSafeKey::new(key));
        }
        self.keys.get(name)
    }

    fn encrypt(&mut self, request: &Request, name: &str) -> Answer {
        if !request.body.contains_key("plaintext") {
            return Answer::error(400, "missing plaintext to encrypt");
        }
        let Ok(mut text) = STANDARD.decode(request.text("plaintext")) else {
            return Answer::error(400, "illegal base64 data at input byte 0");
        };
        let nonce: [u8; NONCE_LEN] = rand::random();
        let unique = Nonce::assume_unique_for_key(nonce);
        let sealed = self.key(name).and_then(|key| {
            key.seal_in_place_append_tag(unique, Aad::empty(), &mut text)
                .ok()
        });
        if sealed.is_none() {
            return Answer::wrapped_error(500, "the plaintext cannot be encrypted");
        }
        let ciphertext = STANDARD.encode([nonce.as_slice(), &text].concat());
        Answer::data(json!({ "ciphertext": format!("{FIRST}{ciphertext}"), "key_version": 1 }))
    }

    fn decrypt(&self, request: &Request, name: &str) -> Answer {
        if request.text("ciphertext").is_empty() {
            return Answer::error(400, "missing ciphertext to decrypt");
        }
        let Some(text) = request.text("ciphertext").strip_prefix(FIRST) else {
            return Answer::error(400, "invalid ciphertext: no prefix");
        };
        let Some(key) = self.keys.get(name) else {
            return Answer::error(400, "encryption key not found");
        };
        let Ok(sealed) = STANDARD.decode(text) else {
            return Answer::error(400, "invalid ciphertext: could not decode base64");
        };
        let Some((nonce, text)) = sealed.split_first_chunk::<NONCE_LEN>() else {
            return Answer::error(400, "invalid ciphertext length");
        };
        let nonce = Nonce::assume_unique_for_key(*nonce);
        match key.open_in_place(nonce, Aad::empty(), &mut text.to_vec()) {
            Ok(plain) => Answer::data(json!({ "plaintext": STANDARD.encode(plain) })),
            Err(_) => Answer::error(400, "cipher: message authentication failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn post(transit: &mut Transit, path: &str, body: &Value) -> (u16, Value) {
        let request = Request {
            method: "POST".to_owned(),
            body: body.as_object().cloned().unwrap_or_default(),
            ..Request::default()
        };
        let answer = transit.handle(&request, path);
        (answer.status, answer.body.unwrap_or_default())
    }

    #[test]
    fn what_was_encrypted_is_decrypted_by_its_key_alone() {
        let mut transit = Transit::default();
        post(&mut transit, "keys/a", &json!({}));
        post(&mut transit, "keys/b", &json!({}));
        let (_, sealed) = post(
            &mut transit,
            "encrypt/a",
            &json!({ "plaintext": "cDRzcw==" }),
        );
        let ciphertext = sealed.pointer("/data/ciphertext").unwrap();
        assert!(ciphertext.as_str().unwrap().starts_with("vault:v1:"));
        let body = json!({ "ciphertext": ciphertext });
        let (_, opened) = post(&mut transit, "decrypt/a", &body);
        assert_eq!(opened.pointer("/data/plaintext"), Some(&json!("cDRzcw==")));
        assert_eq!(post(&mut transit, "decrypt/b", &body).0, 400);
        // A key that is made again stays the same.
        post(&mut transit, "keys/a", &json!({}));
        assert_eq!(post(&mut transit, "decrypt/a", &body).0, 200);
    }

    #[test]
    fn what_is_no_ciphertext_is_refused() {
        let mut transit = Transit::default();
        post(&mut transit, "keys/a", &json!({}));
        for text in ["", "abc", "vault:v1:!", "vault:v1:QUJD"] {
            let (status, _) = post(&mut transit, "decrypt/a", &json!({ "ciphertext": text }));
            assert_eq!(status, 400, "{text}");
        }
        let (status, _) = post(&mut transit, "encrypt/a", &json!({ "plaintext": "!" }));
        assert_eq!(status, 400);
    }
}
