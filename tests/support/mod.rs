//! A node in miniature: the real binary, `dev-vault`, a stand-in for the API server, and a driver that
//! behaves like the driver. Every test binary uses a part of it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod admin;
pub mod agent;
pub mod api_server;
pub mod ca;
pub mod client;
pub mod daemon;
pub mod driver;
pub mod front;
pub mod held;
pub mod hostile;
pub mod meter;
pub mod socks;
pub mod world;
