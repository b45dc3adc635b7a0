//! The jwt method (OpenBao `credential/jwt/path_login.go`): every failure of a login is a 400.

use serde_json::{Map, Value};

use super::{Roles, TokenFields};
use crate::answer::Request;
use crate::fields::Fields;
use crate::jwt::{AUDIENCE, EXPIRED, Jwt, NO_TIMES, NOT_YET};

#[derive(Default)]
pub struct JwtMethod {
    pub roles: Roles<Bounds>,
    keys: Vec<String>,
    issuer: String,
    default_role: String,
}

/// Whom a role lets in.
pub struct Bounds {
    audiences: Vec<String>,
    subject: String,
    claims: Map<String, Value>,
    user_claim: String,
}

/// Who has logged in.
pub struct Identity<'a> {
    pub role: String,
    pub token: &'a TokenFields,
    pub user: String,
}

/// What is a role's own.
///
/// # Errors
/// The server's own words.
pub fn bounds(fields: Fields<'_>) -> Result<Bounds, String> {
    let claims = fields.0.get("bound_claims").and_then(Value::as_object);
    let bounds = Bounds {
        audiences: fields.list("bound_audiences"),
        subject: fields.text("bound_subject").to_owned(),
        claims: claims.cloned().unwrap_or_default(),
        user_claim: fields.text("user_claim").to_owned(),
    };
    if bounds.user_claim.is_empty() {
        return Err("a user claim must be defined on the role".to_owned());
    }
    if bounds.audiences.is_empty() && bounds.subject.is_empty() && bounds.claims.is_empty() {
        return Err(
            "must have at least one bound constraint when creating/updating a role".to_owned(),
        );
    }
    Ok(bounds)
}

impl JwtMethod {
    /// Keys come with the configuration: this server fetches none.
    pub fn configure(&mut self, fields: Fields<'_>) -> Result<(), &'static str> {
        let keys = fields.list("jwt_validation_pubkeys");
        if keys.is_empty() {
            return Err(
                "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs', 'oidc_discovery_url', or 'provider_config' must be set",
            );
        }
        self.keys = keys;
        fields.text("bound_issuer").clone_into(&mut self.issuer);
        fields
            .text("default_role")
            .clone_into(&mut self.default_role);
        Ok(())
    }

    /// Checks a login, in the real server's order; `now` in seconds since 1970.
    ///
    /// # Errors
    /// The server's own words.
    pub fn login(&self, request: &Request, now: u64) -> Result<Identity<'_>, String> {
        if self.keys.is_empty() {
            return Err("could not load configuration".to_owned());
        }
        let name = match request.text("role") {
            "" => self.default_role.as_str(),
            name => name,
        };
        if name.is_empty() {
            return Err("missing role".to_owned());
        }
        let role = self.roles.get(name);
        let role = role.ok_or_else(|| format!("role \"{name}\" could not be found"))?;
        let text = request.text("jwt");
        if text.is_empty() {
            return Err("missing token".to_owned());
        }
        let token = self
            .valid(text, &role.bounds, now)
            .map_err(|text| format!("error validating token: {text}"))?;
        if role.bounds.audiences.is_empty() && !token.audiences().is_empty() {
            return Err(
                "audience claim found in JWT but no audiences bound to the role".to_owned(),
            );
        }
        let claim = &role.bounds.user_claim;
        let user = token.text(claim).to_owned();
        if user.is_empty() {
            return Err(format!("claim \"{claim}\" not found in token"));
        }
        role.bounds.claims_fit(&token)?;
        Ok(Identity {
            role: name.to_owned(),
            token: &role.token,
            user,
        })
    }

    /// Signature, issuer, subject, audience, times (`hashicorp/cap`, `jwt/jwt.go`).
    fn valid(&self, text: &str, bounds: &Bounds, now: u64) -> Result<Jwt, &'static str> {
        if text.split('.').count() != 3 {
            return Err(
                "error verifying token signature: go-jose/go-jose: compact JWS format must have three parts",
            );
        }
        let token =
            Jwt::parse(text).filter(|token| self.keys.iter().any(|key| token.signed_by(key)));
        let token = token.ok_or(
            "error verifying token signature: no known key successfully validated the token signature",
        )?;
        if !self.issuer.is_empty() && token.text("iss") != self.issuer {
            return Err("invalid issuer (iss) claim");
        }
        if !bounds.subject.is_empty() && token.text("sub") != bounds.subject {
            return Err("invalid subject (sub) claim");
        }
        let given = token.audiences();
        let wanted = &bounds.audiences;
        if !wanted.is_empty() && !given.iter().any(|aud| wanted.contains(aud)) {
            return Err(AUDIENCE);
        }
        if !token.has_times() {
            return Err(NO_TIMES);
        }
        if token.expired(now) {
            return Err(EXPIRED);
        }
        if token.not_yet_valid(now) {
            return Err(NOT_YET);
        }
        Ok(token)
    }
}

impl Bounds {
    fn claims_fit(&self, token: &Jwt) -> Result<(), String> {
        for (claim, wanted) in &self.claims {
            let found = if claim.starts_with('/') {
                token.claims.pointer(claim)
            } else {
                token.claims.get(claim)
            };
            let found = found
                .ok_or_else(|| format!("error validating claims: claim \"{claim}\" is missing"))?;
            let fits = match wanted {
                Value::Array(any) => any.contains(found),
                one => one == found,
            };
            if !fits {
                return Err(format!(
                    "error validating claims: claim \"{claim}\" does not match any associated bound claim values"
                ));
            }
        }
        Ok(())
    }
}
