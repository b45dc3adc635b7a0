//! An in-process, Vault-compatible server with state, for Leasehold's quickstart and tests.
//!
//! It answers as OpenBao 2.6 does, which the contract suite (`tests/contract`) holds it to: the same fifty
//! cases run against a real server. It keeps everything in memory and checks nothing that costs time
//! (no storage, no audit): it is no server for anything but tests.
//!
//! | room | what it owns |
//! |---|---|
//! | [`server`] | the server as its owner holds it |
//! | `listener`, `http` | connections and TLS; one request and the faults on demand |
//! | `core` | the state and the order of checks that every request goes through |
//! | `tokens`, `leases`, `policy`, `quota` | one kind of state each |
//! | `ttl` | how long a token or a lease gets: pure |
//! | `auth` | the kubernetes and jwt methods, and the token store |
//! | `engine` | KV 1 and 2, database, PKI, transit, cubbyhole |
//! | `sys` | the system backend: mounts, namespaces, leases, policies, wrapping, seal |
//! | `fields`, `text` | parameters, times and durations as Vault writes them |
//! | [`service_accounts`] | a stand-in for the API server: mints and reviews tokens |

mod answer;
mod auth;
mod clock;
mod core;
mod engine;
mod faults;
mod fields;
mod http;
mod jwt;
mod leases;
mod listener;
mod policy;
mod quota;
pub mod server;
pub mod service_accounts;
mod sys;
mod text;
mod tokens;
mod ttl;

pub use clock::Clock;
pub use faults::{Action, Fault, Faults};
pub use server::{Call, DevVault, LeaseView, Options, StartError, TokenView};
pub use service_accounts::{Reviewed, ServiceAccounts, Verdict};
