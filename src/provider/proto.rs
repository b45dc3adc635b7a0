//! The driver's protocol, generated from `proto/v1alpha1/service.proto` (kubernetes-sigs/secrets-store-csi-driver
//! v1.6.0, commit 4960f963).

#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]

tonic::include_proto!("v1alpha1");
