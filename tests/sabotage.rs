//! That the chaos harness can fail: each test is a run of it with a daemon that is broken in one way, which must
//! be told by the figure for it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "chaos/mod.rs"]
mod chaos;
#[path = "../dev-vault/tests/contract/client.rs"]
mod client;
#[path = "../dev-vault/tests/contract/real_process.rs"]
mod real_process;
mod support;

use chaos::Settings;
use chaos::sabotage::Sabotage;

async fn is_told(sabotage: Sabotage) {
    let outcome = chaos::run(Settings::sabotaged(Some(sabotage))).await;
    let told = outcome.report.violations(sabotage.figure());
    println!("{}", outcome.text);
    assert!(told > 0, "{sabotage:?} is not told by its figure");
    assert!(!outcome.report.passes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_not_sabotaged_passes() {
    let outcome = chaos::run(Settings::sabotaged(None)).await;
    assert!(outcome.report.passes(), "{}", outcome.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_mounts_nothing_is_told() {
    is_told(Sabotage::MountsNothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_answers_without_files_is_told() {
    is_told(Sabotage::AnswersNoFiles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_renews_nothing_is_told() {
    is_told(Sabotage::RenewsNothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_revokes_nothing_is_told() {
    is_told(Sabotage::RevokesNothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_revokes_too_early_is_told() {
    is_told(Sabotage::RevokesTooEarly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_forgets_its_journal_is_told() {
    is_told(Sabotage::ForgetsItsJournal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_mixes_two_volumes_is_told() {
    is_told(Sabotage::MixesVolumes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_answers_an_old_secret_is_told() {
    is_told(Sabotage::AnswersAnOldSecret).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_logs_in_at_each_poll_is_told() {
    is_told(Sabotage::LogsInAtEachPoll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_issues_anew_at_each_poll_is_told() {
    is_told(Sabotage::ReissuesAtEachPoll).await;
}
