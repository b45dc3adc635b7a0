//! An in-process, Vault-compatible server with state, for Leasehold's quickstart and tests.
//!
//! It answers as OpenBao 2.6 does, which the contract suite (`tests/contract`) holds it to: the same fifty
//! cases run against a real server. It keeps everything in memory and checks nothing that costs time
//! (no storage, no audit): it is no server for anything but tests.
//!
//! | room | what it owns |
//! |---|---|
//! | [`server`] | the listener, TLS, faults on demand, what tests ask of it |
//! | `http` | requests taken apart, answers written |
//! | `core` | the state and the order of checks that every request goes through |
//! | `tokens`, `leases`, `policy`, `quota` | one kind of state each |
//! | `auth` | the kubernetes and jwt methods |
//! | `engine` | KV 1 and 2, database, PKI, cubbyhole |
//! | `sys` | the system backend |
//! | [`service_accounts`] | a stand-in for the API server: mints and reviews tokens |

mod answer;
mod auth;
mod clock;
mod core;
mod engine;
mod faults;
mod http;
mod jwt;
mod leases;
mod policy;
mod quota;
pub mod server;
pub mod service_accounts;
mod sys;
mod text;
mod tokens;

pub use clock::Clock;
pub use faults::{Action, Fault, Faults};
pub use server::{Call, DevVault, LeaseView, Options, StartError, TokenView};
pub use service_accounts::ServiceAccounts;
