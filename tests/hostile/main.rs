//! Hostile topologies: whatever one tenant writes into a class, one server answers, or one backend does, every
//! other volume of the node keeps its files, its renewals and its revocation.
//!
//! Each test has a healthy tenant beside the hostile one (`scene.rs`) and bounds that hold for it: new volumes
//! mount, its lease is renewed long before its end, its credential stays the same, what ends is revoked; the
//! daemon stays below a peak of memory and of processor time, and obeys SIGTERM. `-- --nocapture` prints the
//! figures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod agents;
mod backends;
mod endings;
mod files;
mod journals;
mod numbers;
mod quotas;
mod refusals;
mod retries;
mod scene;
mod servers;
mod sizes;
