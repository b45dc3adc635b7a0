//! The contract: fifty cases of what a Vault-compatible server does, each run against two servers.
//!
//! `dev_vault::case_…` asks the in-process server of this crate, always. `real::case_…` asks a real
//! one when `LEASEHOLD_TEST_VAULT` names a `bao` or `vault` program, which the suite starts itself in
//! dev mode on loopback; without it those tests say SKIPPED. Both run the same body, and all set-up
//! goes through the server's own HTTP API, so that a case which holds on the real server pins down
//! what `dev-vault` has to answer. The error texts are OpenBao's (2.6).
//!
//! | module | cases |
//! |---|---|
//! | `login` | 1–14: kubernetes and jwt logins, their refusals, what they grant |
//! | `tokens` | 15–25: look-up, renewal, revocation, expiry |
//! | `leases` | 26–38: renewal, revocation and look-up of leases |
//! | `kv` | 39–44: both KV engines, cubbyhole |
//! | `engines` | 45–46: certificates, response wrapping |
//! | `states` | 47–50: sealed, namespaces, rate limit, routing |
//! | `server`, `real_process` | the server under test |
//! | `client`, `fixtures` | one HTTP exchange; mounts, roles, policies and tokens made through it |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod client;
mod cluster;
mod engines;
mod fixtures;
mod kv;
mod leases;
mod login;
mod real_process;
mod server;
mod states;
mod tokens;

/// Makes two tests of each case. `on` names the server it wants: see [`server::Wants`].
macro_rules! contract {
    ($($area:ident::$case:ident on $wants:ident,)*) => {
        mod dev_vault {
            $(
                #[tokio::test]
                async fn $case() {
                    let server = crate::server::Server::in_process(crate::server::Wants::$wants).await;
                    crate::$area::$case(&server).await;
                }
            )*
        }

        mod real {
            $(
                #[tokio::test]
                async fn $case() {
                    match crate::server::Server::real(crate::server::Wants::$wants).await {
                        Some(server) => crate::$area::$case(&server).await,
                        None => crate::real_process::say_skipped(stringify!($case), crate::CASES),
                    }
                }
            )*
        }

        /// How many cases the contract has.
        const CASES: usize = [$(stringify!($case)),*].len();
    };
}

contract! {
    login::case_01_k8s_ok on Shared,
    login::case_02_k8s_missing on Shared,
    login::case_03_k8s_role on Shared,
    login::case_04_k8s_sa on Shared,
    login::case_05_k8s_ns on Shared,
    login::case_06_k8s_aud on Shared,
    login::case_07_k8s_exp on Shared,
    login::case_08_k8s_garbage on Shared,
    login::case_09_k8s_review on Shared,
    login::case_10_review_shape on Shared,
    login::case_11_jwt_errors on Shared,
    login::case_12_login_nomount on Shared,
    login::case_13_login_capped on Shared,
    login::case_14_login_batch on Shared,
    tokens::case_15_lookup_self on Shared,
    tokens::case_16_bad_token on Shared,
    tokens::case_17_denied on Shared,
    tokens::case_18_renew_short on Shared,
    tokens::case_19_renew_capped on Shared,
    tokens::case_20_renew_periodic on Shared,
    tokens::case_21_batch_ops on Shared,
    tokens::case_22_revoke_self on Shared,
    tokens::case_23_cascade on LeasedKv,
    tokens::case_24_expiry on LeasedKv,
    tokens::case_25_accessor on Shared,
    leases::case_26_lease_shape on LeasedKv,
    leases::case_27_lease_renew on LeasedKv,
    leases::case_28_default_only on LeasedKv,
    leases::case_29_renew_unknown on Shared,
    leases::case_30_renew_fixed on Shared,
    leases::case_31_renew_token on Shared,
    leases::case_32_renew_foreign on LeasedKv,
    leases::case_33_lease_capped on LeasedKv,
    leases::case_34_lease_short on LeasedKv,
    leases::case_35_batch_lease on LeasedKv,
    leases::case_36_revoke on LeasedKv,
    leases::case_37_revoke_prefix on LeasedKv,
    leases::case_38_lease_lookup on LeasedKv,
    kv::case_39_kv1 on Shared,
    kv::case_40_kv_404 on Shared,
    kv::case_41_kv2 on Shared,
    kv::case_42_kv2_gone on Shared,
    kv::case_43_kv2_path on Shared,
    kv::case_44_cubbyhole on Shared,
    engines::case_45_pki on Shared,
    engines::case_46_wrap on Shared,
    states::case_47_sealed on Own,
    states::case_48_namespace on Shared,
    states::case_49_rate_limit on Own,
    states::case_50_routing on Shared,
}
