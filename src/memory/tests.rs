use futures::FutureExt;

use super::*;

const LIMITS: Limits = Limits {
    shared: 80,
    small: 20,
    small_mount: 10,
    mount: 50,
    large_reply: 25,
    wait: Duration::from_secs(60),
};

/// A reservation that needs no waiting; nothing where it would.
fn now(memory: &MountMemory, bytes: usize) -> Option<Reservation> {
    let mut reservation = memory.reservation();
    let grown = reservation.grow(bytes).now_or_never()?;
    grown.unwrap();
    Some(reservation)
}

#[tokio::test(start_paused = true)]
async fn small_mounts_wait_for_nobody() {
    let budget = MemoryBudget::new(LIMITS);
    let large = ["a", "b"].map(|tenant| budget.mount(tenant));
    let held = large.each_ref().map(|memory| now(memory, 40).unwrap());
    assert!(now(&budget.mount("c"), 11).is_none(), "all is taken");
    let small = budget.mount("c");
    let kept = now(&small, 10).unwrap();
    assert!(now(&small, 1).is_none(), "it is small no more");
    assert!(
        now(&budget.mount("c"), 1).is_none(),
        "half of theirs is c's"
    );
    assert!(now(&budget.mount("d"), 10).is_some());
    assert_eq!(budget.reserved(), 90);
    drop((held, kept));
    assert_eq!(budget.reserved(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_gets_half_and_a_quarter_while_others_wait() {
    let budget = MemoryBudget::new(LIMITS);
    let [one, two, three] = ["a", "a", "a"].map(|tenant| budget.mount(tenant));
    let half = (now(&one, 20).unwrap(), now(&two, 20).unwrap());
    assert!(now(&three, 11).is_none(), "it has half");
    let other = now(&budget.mount("b"), 30).unwrap();
    let mut waiting = budget.mount("c").reservation();
    let mut waiting = Box::pin(waiting.grow(40));
    assert!(waiting.as_mut().now_or_never().is_none(), "all is taken");
    drop(half.0);
    assert!(now(&one, 11).is_none(), "a quarter, and others wait");
    drop(other);
    assert_eq!(waiting.await, Ok(()));
    assert!(now(&one, 11).is_some(), "nobody else waits any more");
}

#[tokio::test(start_paused = true)]
async fn mounts_that_wait_for_each_other_come_to_their_ends() {
    let budget = MemoryBudget::new(LIMITS);
    let mounts: Vec<MountMemory> = (0..4)
        .map(|n| budget.mount(&format!("tenant-{n}")))
        .collect();
    let held: Vec<_> = mounts
        .iter()
        .map(|memory| now(memory, 20).unwrap())
        .collect();
    // Each wants as much again, and nothing is left.
    let tasks = mounts
        .iter()
        .cloned()
        .zip(held)
        .map(|(memory, held)| async move {
            let mut more = memory.reservation();
            more.grow(20).await.unwrap();
            drop((held, more));
        });
    futures::future::join_all(tasks).await;
    assert_eq!(budget.reserved(), 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_mounts_reserve_all_come_to_their_ends_within_the_budget() {
    use rand::RngExt as _;
    for _ in 0..20 {
        let budget = MemoryBudget::new(LIMITS);
        let tasks = (0..40).map(|n| {
            let budget = budget.clone();
            tokio::spawn(async move {
                let memory = budget.mount(&format!("tenant-{}", n % 3));
                let mut held = Vec::new();
                let mut left = 50;
                while left > 0 {
                    let bytes = rand::rng().random_range(1..=left);
                    let mut reservation = memory.reservation();
                    reservation.grow(bytes).await.unwrap();
                    assert!(budget.reserved() <= LIMITS.shared + LIMITS.small + LIMITS.mount);
                    left -= bytes;
                    held.push(reservation);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(budget.reserved(), 0);
        assert!(budget.0.locked().is_empty(), "no account is left behind");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_and_takes_nothing() {
    let budget = MemoryBudget::new(LIMITS);
    let past = budget.mount("a");
    let mut first = now(&past, 11).unwrap();
    let _rest =
        [("b", 40), ("c", 29)].map(|(tenant, bytes)| now(&budget.mount(tenant), bytes).unwrap());
    assert_eq!(first.grow(30).await, Ok(()), "one is let past the limits");
    let mut second = budget.mount("d").reservation();
    assert_eq!(
        second.grow(20).await,
        Err(MemoryError::Crowded(LIMITS.wait))
    );
    // One that went away while it waited.
    let gone = budget.mount("e");
    assert!(now(&gone, 20).is_none());
    drop(first);
    assert_eq!(budget.reserved(), 69);
    let mut first = past.reservation();
    let too_much = first.grow(51).await;
    assert_eq!(too_much, Err(MemoryError::TooMuch(50)));
}

#[tokio::test(start_paused = true)]
async fn one_large_reply_of_a_mount_is_read_at_a_time() {
    let budget = MemoryBudget::new(LIMITS);
    let memory = budget.mount("a");
    let (mut one, mut two) = (memory.reservation(), memory.reservation());
    one.grow_reply(30).await.unwrap();
    two.grow_reply(10).await.unwrap();
    assert!(two.grow_reply(16).now_or_never().is_none());
    one.end_turn();
    one.shrink(25);
    assert_eq!((one.bytes(), budget.reserved()), (5, 15));
    two.grow_reply(16).await.unwrap();
}
