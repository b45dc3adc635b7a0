//! The driver's protocol, generated from `proto/v1alpha1/service.proto` (Secrets Store CSI driver v1.6.0).

#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]

tonic::include_proto!("v1alpha1");
