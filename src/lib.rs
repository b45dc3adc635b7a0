//! Leasehold: a Secrets Store CSI driver provider for HashiCorp Vault and OpenBao.
//!
//! It logs in as the pod, reads what the pod's SecretProviderClass asks for, keeps every token and lease
//! of a mounted volume renewed, replaces what cannot be renewed, survives its own restarts, and revokes
//! everything once the volume is unmounted.
//!
//! The rooms, from the door inwards; arrows run this way only (`tests/arrows.rs` keeps them):
//!
//! | room | what it owns |
//! |---|---|
//! | [`config`], [`telemetry`] | flags and environment; the log |
//! | [`check`] | `leasehold check` and `leasehold schema`: classes judged without a cluster |
//! | [`app`] | the wiring: what starts, and in which order it stops |
//! | [`supervisor`], [`liveness`] | background tasks that end are started again; parts that stall are told |
//! | [`provider`] | the gRPC edge: messages, the socket, the table of codes |
//! | [`admin`] | health and metrics over HTTP |
//! | [`paths`], [`pods`] | how we learn that a volume is gone |
//! | [`params`] | strings to a typed request, once, with every fault told |
//! | [`policy`] | what this installation lets a class choose |
//! | [`addresses`], [`pattern`] | which servers this installation allows, and how that is written |
//! | [`mount`] | the use case: claim, log in, read, render, hand over, undo |
//! | [`vault`] | the client of the server |
//! | [`render`] | replies to files and versions; pure |
//! | [`registry`] | every mounted volume with its sessions and grants; one task owns it |
//! | [`version_key`], [`service_account`], [`events`] | what we ask the Kubernetes API for, and tell it |
//! | [`missing`] | what the installation does not give us, and the manifest lines that would |
//! | [`grant`] | what the server gave, when it is renewed, and through which door |
//! | [`spec`] | what was asked |
//! | [`memory`], [`blocking`] | what Mounts take of the node's memory, and of its threads |
//! | [`proxy`] | which proxy stands before an address |
//! | [`metrics`], [`clock`], [`redacted`] | counters, time, secrets that cannot be printed |
//! | `fuzzing` | what must hold of foreign bytes; built for tests and fuzzing alone |

pub mod addresses;
pub mod admin;
pub mod app;
pub mod blocking;
pub mod check;
pub mod clock;
pub mod config;
pub mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod grant;
pub mod liveness;
pub mod memory;
pub mod metrics;
pub mod missing;
pub mod mount;
pub mod params;
pub mod paths;
pub mod pattern;
pub mod pods;
pub mod policy;
pub mod provider;
pub mod proxy;
pub mod redacted;
pub mod registry;
pub mod render;
pub mod service_account;
pub mod spec;
pub mod supervisor;
pub mod telemetry;
pub mod vault;
pub mod version_key;
