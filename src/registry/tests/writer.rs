//! The journal's writer is a task of its own: whoever waits for a journalled state waits for it.

use super::worker::Worker;
use super::*;

/// Whether a registry ends by itself whose journal's writer does this.
async fn ends(written: impl Future<Output = ()> + Send + 'static) -> bool {
    let node = Node::start(HOUR, HOUR);
    let metrics = Metrics::new();
    let (notices, _) = Notices::channel(metrics.clone());
    let (look, _) = mpsc::unbounded_channel();
    let mut worker = Worker::new(
        Settings::default(),
        Arc::new(Fake(Arc::clone(&node.server))),
        Arc::new(node.clock),
        Journal::none(),
        metrics,
        notices,
        look,
    );
    worker.written = Some(Box::pin(written));
    // Somebody may still send.
    let (_messages, inbox) = mpsc::unbounded_channel();
    tokio::time::timeout(HOUR, worker.run(inbox)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_ends_ends_the_registry() {
    assert!(ends(async {}).await);
    assert!(ends(async { panic!("the disk is on fire") }).await);
    assert!(!ends(std::future::pending()).await);
}
