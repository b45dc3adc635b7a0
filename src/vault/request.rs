//! A call as an HTTP request: its URI, each part encoded once, and its headers.

use bytes::Bytes;
use http::Uri;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::connect;
use super::transport::{Cache, Call, SendError};
use crate::spec::Endpoint;

/// RFC 3986: what may stand in a path segment as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');
/// `application/x-www-form-urlencoded`, with %20 for a space.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const X_VAULT_REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
const X_VAULT_TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const X_VAULT_NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

pub fn of(
    endpoint: &Endpoint,
    call: &Call<'_>,
    uri: &Uri,
) -> Result<http::Request<Full<Bytes>>, SendError> {
    let mut request = http::Request::builder()
        .method(call.method.clone())
        .uri(uri.clone())
        // Agent listeners refuse requests without it.
        .header(X_VAULT_REQUEST, HeaderValue::from_static("true"));
    if let Some(namespace) = &endpoint.namespace {
        let value = HeaderValue::from_str(namespace).map_err(|_| {
            SendError::Settings("vaultNamespace has characters that no header may carry".to_owned())
        })?;
        request = request.header(X_VAULT_NAMESPACE, value);
    }
    if let Some(token) = call.token {
        let mut value = HeaderValue::from_str(token.expose()).map_err(|_| {
            SendError::Settings("the token has characters that no header may carry".to_owned())
        })?;
        // Keeps it out of HTTP/2's compression tables and of debug output.
        value.set_sensitive(true);
        request = request.header(X_VAULT_TOKEN, value);
    }
    if call.body.is_some() {
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if call.cache == Cache::Bypassed {
        // No other request has this value, so no cache has an answer to it. Servers pass it to their audit log.
        let unique = HeaderValue::from(rand::random::<u64>());
        request = request.header(X_CORRELATION_ID, unique);
    }
    let body = Full::new(Bytes::from(call.body.clone().unwrap_or_default()));
    request
        .body(body)
        .map_err(|error| SendError::Settings(error.to_string()))
}

/// `<address>/v1/<path>?<query>`, each part encoded once.
pub fn uri(address: &str, path: &str, query: &[(String, String)]) -> Result<Uri, SendError> {
    let mut text = format!("{}/v1", connect::base(address));
    for segment in path.split('/') {
        text.push('/');
        text.extend(utf8_percent_encode(segment, SEGMENT));
    }
    for (index, (name, value)) in query.iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.extend(utf8_percent_encode(name, QUERY));
        text.push('=');
        text.extend(utf8_percent_encode(value, QUERY));
    }
    let uri: Uri = text.parse().map_err(|error| {
        SendError::Settings(format!("the address {address:?} is no URL: {error}"))
    })?;
    if matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
    {
        Ok(uri)
    } else {
        Err(SendError::Settings(format!(
            "the address {address:?} needs http:// or https:// and a host, or unix:// and a path"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn uris_are_encoded_once() {
        let uri = uri(
            "https://vault:8200/pre/",
            "kv/a b/ü%2f?x",
            &[pair("version", "1"), pair("a&b", "c=d e")],
        );
        assert_eq!(
            uri.unwrap().to_string(),
            "https://vault:8200/pre/v1/kv/a%20b/%C3%BC%252f%3Fx?version=1&a%26b=c%3Dd%20e"
        );
    }

    #[test]
    fn an_address_without_scheme_is_an_error() {
        for address in [
            "10.0.0.1:8200",
            "vault",
            "",
            "ftp://vault",
            "https://",
            "http://a b",
        ] {
            assert!(uri(address, "x", &[]).is_err(), "{address}");
        }
    }
}
