//! Minting a pod's token where the driver sent none: the TokenRequest API, as the incumbent uses it.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};

use crate::redacted::Secret;
use crate::spec::Pod;

/// The life of a minted token, in seconds (hashicorp/vault-csi-provider `internal/auth`).
const LIFE_SECONDS: i64 = 15 * 60;
const PATIENCE: Duration = Duration::from_secs(10);

/// Why no token was minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// RBAC does not allow it.
    #[error(
        "the provider's role lacks `create` on serviceaccounts/token; grant it, or set `tokenRequests` on the CSIDriver object, which is better"
    )]
    Forbidden,
    /// The API server refuses, as for a pod that is gone.
    #[error("the API server refuses: {0}")]
    Refused(String),
    /// The API server does not answer.
    #[error("the API server cannot be reached; the driver tries again")]
    Unreachable,
}

impl MintError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable)
    }
}

/// Mints tokens bound to a pod.
#[derive(Clone)]
pub struct TokenMinter {
    client: Client,
}

impl TokenMinter {
    /// A minter over an API client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Mints a token of the pod's service account for one audience. It dies with the pod.
    ///
    /// # Errors
    /// RBAC forbids it, the API server refuses or cannot be reached.
    pub async fn mint(
        &self,
        pod: &Pod,
        pod_uid: &str,
        audience: Option<&str>,
    ) -> Result<Secret, MintError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                // None: the API server's own, as the incumbent asks for.
                audiences: audience.into_iter().map(str::to_owned).collect(),
                expiration_seconds: Some(LIFE_SECONDS),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name.clone()),
                    uid: Some(pod_uid.to_owned()),
                }),
            },
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let minting = accounts.create_token_request(&pod.service_account, &parameters, &request);
        let minted = tokio::time::timeout(PATIENCE, minting)
            .await
            .map_err(|_| MintError::Unreachable)?;
        match minted {
            Ok(answer) => answer
                .status
                .map(|status| Secret::from(status.token))
                .ok_or_else(|| MintError::Refused("its answer holds no token".to_owned())),
            Err(kube::Error::Api(status)) if status.code == 403 => Err(MintError::Forbidden),
            // Throttled or timed out is no refusal: the same request may succeed in a second.
            Err(kube::Error::Api(status))
                if status.code < 500 && !matches!(status.code, 408 | 429) =>
            {
                Err(MintError::Refused(status.message.clone()))
            }
            Err(_) => Err(MintError::Unreachable),
        }
    }
}
