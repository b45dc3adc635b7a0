//! The dispatcher on a paused clock, with calls that take as long as the test says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::health::Reach;
use super::*;

const HERE: &str = "http://vault";
const SECOND: Duration = Duration::from_secs(1);

/// The boot-time clock, driven by tokio's.
struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment::from_boot(10_000 * SECOND + self.0.elapsed())
    }
}

fn dispatcher() -> Dispatcher {
    let limits = Limits {
        mounts: 64,
        keeping: 16,
        per_second: 50,
    };
    let clock = Arc::new(TestClock(tokio::time::Instant::now()));
    Dispatcher::new(limits, 15 * SECOND, clock, Metrics::new())
}

impl Dispatcher {
    fn now(&self) -> Moment {
        self.0.clock.now()
    }

    /// A renewal of something that ends in this time.
    fn renewal(&self, tenant: &str, path: &str, left: Duration) -> Waiter {
        let end = self.now().plus(left);
        Waiter {
            scope: Scope::new(tenant, None, path),
            class: Class::Renewal,
            end,
            urgent_from: end.minus(60 * SECOND),
        }
    }

    fn mount(&self, tenant: &str, path: &str) -> Waiter {
        Waiter {
            scope: Scope::new(tenant, None, path),
            class: Class::Mount,
            end: self.now(),
            urgent_from: Moment::NEVER,
        }
    }

    /// Begins a call that takes so long; its start is told.
    fn call(&self, waiter: Waiter, takes: Duration, told: &Told) {
        let (dispatcher, told) = (self.clone(), told.clone());
        tokio::spawn(async move {
            let scope = waiter.scope.clone();
            let permit = dispatcher.permit(HERE, waiter).await;
            told.lock().unwrap().push((dispatcher.now(), scope));
            tokio::time::sleep(takes).await;
            drop(permit);
        });
    }

    async fn away(&self, during: Duration) {
        let scope = Scope::new("shop", None, TOKENS);
        (0..3).for_each(|_| {
            self.note(HERE, &scope, HealthSignal::Unreachable);
        });
        let until = tokio::time::Instant::now() + during;
        while tokio::time::Instant::now() < until {
            // Its probes fail.
            tokio::time::sleep(SECOND / 10).await;
            if self.admit(HERE, &scope).is_ok() {
                self.note(HERE, &scope, HealthSignal::Unreachable);
            }
        }
        self.note(HERE, &scope, HealthSignal::Healthy);
    }
}

const TOKENS: &str = "auth/token";

type Told = Arc<Mutex<Vec<(Moment, Scope)>>>;

/// Lets all tasks run that can, and some time pass.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_a_node_full_of_leases_comes_back_slowly_and_in_time() {
    let dispatcher = dispatcher();
    let told = Told::default();
    dispatcher.note(
        HERE,
        &Scope::new("shop", None, TOKENS),
        HealthSignal::Unreachable,
    );
    let scope = Scope::new("shop", None, TOKENS);
    (0..2).for_each(|_| {
        dispatcher.note(HERE, &scope, HealthSignal::Unreachable);
    });
    let keep_away = {
        let dispatcher = dispatcher.clone();
        tokio::spawn(async move { dispatcher.away(20 * 60 * SECOND).await })
    };
    // As long as nothing nears its end, no call is the probe of a server that is away.
    for at in 0..5_000_u64 {
        let path = if at % 2 == 0 {
            TOKENS
        } else {
            "database/creds/app"
        };
        let waiter = dispatcher.renewal(
            "shop",
            path,
            3600 * SECOND + SECOND / 1000 * u32::try_from(at).unwrap(),
        );
        dispatcher.call(waiter, SECOND / 100, &told);
    }
    pass(SECOND).await;
    let probes = told.lock().unwrap().len();
    keep_away.await.unwrap();
    let back = dispatcher.now();
    let probes = probes.max(
        told.lock()
            .unwrap()
            .iter()
            .filter(|(at, _)| *at < back)
            .count(),
    );
    assert!(probes <= 1_300, "{probes}: one at a time");
    pass(200 * SECOND).await;
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 5_000, "each once");
    let mut per_second = BTreeMap::<u64, u32>::new();
    for (at, _) in told.iter().filter(|(at, _)| *at >= back) {
        *per_second.entry(at.since(back).as_secs()).or_default() += 1;
    }
    let first: u32 = per_second
        .iter()
        .filter(|(at, _)| **at < 3)
        .map(|(_, count)| count)
        .sum();
    assert!(first <= 30, "{first} in the first three seconds");
    let most = per_second.values().max().copied().unwrap_or_default();
    assert!(most <= 60, "{most} in a second: 50, and a burst of 10");
    let last = per_second.keys().max().copied().unwrap_or_default();
    assert!(
        last < 125,
        "{last}: 5,000 at 50 a second, and the slow start"
    );
}

#[tokio::test(start_paused = true)]
async fn sixty_calls_of_a_backend_that_hangs_delay_nobody_else() {
    let dispatcher = dispatcher();
    let (hanging, healthy) = (Told::default(), Told::default());
    for at in 0..60 {
        let tenant = format!("tenant-{}", at % 3);
        let waiter = dispatcher.renewal(&tenant, "database/creds/app", 600 * SECOND);
        dispatcher.call(waiter, 10 * SECOND, &hanging);
    }
    pass(SECOND / 10).await;
    assert!(hanging.lock().unwrap().len() <= 8, "half of the places");
    for (tenant, path) in [
        ("shop", "pki/issue/web"),
        ("tenant-0", "kv/data"),
        ("shop", TOKENS),
    ] {
        let waiter = dispatcher.renewal(tenant, path, 600 * SECOND);
        dispatcher.call(waiter, SECOND / 100, &healthy);
    }
    pass(SECOND / 2).await;
    assert_eq!(healthy.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_urgent_finds_a_place_whatever_hangs() {
    let dispatcher = dispatcher();
    let (hanging, urgent) = (Told::default(), Told::default());
    for at in 0..200 {
        let path = format!("engine-{}/creds/app", at % 20);
        let waiter = dispatcher.renewal(&format!("tenant-{}", at % 7), &path, 30 * SECOND);
        dispatcher.call(waiter, 10 * SECOND, &hanging);
    }
    pass(SECOND).await;
    assert!(hanging.lock().unwrap().len() >= 16, "every place is taken");
    let waiter = dispatcher.renewal("shop", "database/creds/app", 5 * SECOND);
    dispatcher.call(waiter, SECOND / 100, &urgent);
    pass(2 * SECOND).await;
    assert_eq!(urgent.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_tenants_short_leases_do_not_starve_the_others() {
    let dispatcher = dispatcher();
    let (short, others) = (Told::default(), Told::default());
    // More of them than the rate can carry, each renewed again and again.
    for at in 0..200 {
        let (dispatcher, told) = (dispatcher.clone(), short.clone());
        tokio::spawn(async move {
            loop {
                let path = format!("engine-{}/creds/app", at % 4);
                let waiter = dispatcher.renewal("short", &path, 3 * SECOND);
                let scope = waiter.scope.clone();
                let permit = dispatcher.permit(HERE, waiter).await;
                told.lock().unwrap().push((dispatcher.now(), scope));
                tokio::time::sleep(SECOND / 200).await;
                drop(permit);
                tokio::time::sleep(SECOND).await;
            }
        });
    }
    pass(5 * SECOND).await;
    let path = "database/creds/app";
    dispatcher.call(
        dispatcher.renewal("shop", path, 20 * SECOND),
        SECOND / 100,
        &others,
    );
    dispatcher.call(
        dispatcher.renewal("shop", path, 3000 * SECOND),
        SECOND / 100,
        &others,
    );
    for class in [Class::Revocation, Class::LookUp] {
        let waiter = Waiter {
            class,
            ..dispatcher.renewal("shop", path, 3000 * SECOND)
        };
        dispatcher.call(waiter, SECOND / 100, &others);
    }
    pass(5 * SECOND).await;
    assert_eq!(others.lock().unwrap().len(), 4);
    let carried = short.lock().unwrap().len();
    assert!((300..=620).contains(&carried), "{carried} in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_not_made_gives_way_to_another() {
    let dispatcher = dispatcher();
    let scope = Scope::new("shop", None, TOKENS);
    (0..3).for_each(|_| {
        dispatcher.note(HERE, &scope, HealthSignal::Unreachable);
    });
    let began = dispatcher.now();
    // It has become pointless while it waited.
    drop(
        dispatcher
            .permit(HERE, dispatcher.renewal("shop", TOKENS, 600 * SECOND))
            .await,
    );
    drop(
        dispatcher
            .permit(HERE, dispatcher.renewal("shop", TOKENS, 600 * SECOND))
            .await,
    );
    let took = dispatcher.now().since(began);
    assert!(took <= 3 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_earliest_end_comes_first_and_tenants_take_turns() {
    let dispatcher = dispatcher();
    let told = Told::default();
    for minutes in [120_u32, 40, 30] {
        for (tenant, path) in [("a", "kv/data"), ("b", "kv/data")] {
            let path = format!("{path}-{minutes}");
            let waiter = dispatcher.renewal(tenant, &path, minutes * 60 * SECOND);
            dispatcher.call(waiter, SECOND / 100, &told);
        }
    }
    // They come in one after the other, while the server is away.
    let scope = Scope::new("x", None, TOKENS);
    (0..3).for_each(|_| {
        dispatcher.note(HERE, &scope, HealthSignal::Unreachable);
    });
    pass(SECOND / 10).await;
    dispatcher.note(HERE, &scope, HealthSignal::Healthy);
    pass(10 * SECOND).await;
    let told = told.lock().unwrap();
    let order: Vec<String> = told
        .iter()
        .map(|(_, scope)| format!("{} {}", scope.tenant, scope.backend))
        .collect();
    assert_eq!(
        order,
        [
            "a kv/data-30",
            "b kv/data-30",
            "a kv/data-40",
            "b kv/data-40",
            "a kv/data-120",
            "b kv/data-120",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn of_mounts_nobody_takes_more_than_a_share_and_tenants_take_turns() {
    let dispatcher = dispatcher();
    let (greedy, others) = (Told::default(), Told::default());
    for at in 0..100 {
        let path = format!("engine-{}/data/x", at % 10);
        dispatcher.call(dispatcher.mount("greedy", &path), 1000 * SECOND, &greedy);
    }
    pass(SECOND).await;
    assert_eq!(greedy.lock().unwrap().len(), 16, "a quarter");
    for at in 0..200 {
        let tenant = format!("tenant-{at}");
        dispatcher.call(
            dispatcher.mount(&tenant, "kv/data/x"),
            SECOND / 100,
            &others,
        );
    }
    pass(SECOND).await;
    assert_eq!(others.lock().unwrap().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn one_namespaces_quota_leaves_the_others_alone() {
    let dispatcher = dispatcher();
    let (mine, others) = (Told::default(), Told::default());
    let scope = Scope::new("a", None, "database/creds/app");
    let quota = HealthSignal::Failing {
        retry_after: Some(60 * SECOND),
        reach: Reach::Quota,
    };
    (0..3).for_each(|_| {
        dispatcher.note(HERE, &scope, quota);
    });
    let began = dispatcher.now();
    dispatcher.call(
        dispatcher.renewal("a", "database/creds/app", 600 * SECOND),
        SECOND / 100,
        &mine,
    );
    dispatcher.call(
        dispatcher.renewal("b", "database/creds/app", 600 * SECOND),
        SECOND / 100,
        &others,
    );
    assert!(dispatcher.admit(HERE, &scope).is_err());
    assert!(
        dispatcher
            .admit(HERE, &Scope::new("b", None, "database/creds/app"))
            .is_ok()
    );
    pass(SECOND).await;
    assert_eq!(others.lock().unwrap().len(), 1);
    assert!(mine.lock().unwrap().is_empty());
    pass(61 * SECOND).await;
    let started = mine.lock().unwrap().first().map(|(at, _)| at.since(began));
    assert!(
        started.is_some_and(|after| after >= 60 * SECOND),
        "{started:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_the_queue_and_gives_its_place_back() {
    let dispatcher = dispatcher();
    let path = "kv/data/x";
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(dispatcher.permit(HERE, dispatcher.mount("a", path)).await);
    }
    let waits = dispatcher.permit(HERE, dispatcher.mount("a", path));
    assert!(tokio::time::timeout(SECOND, waits).await.is_err());
    assert!(!dispatcher.lock().addresses[HERE].queue.is_waiting());
    held.iter_mut().for_each(Permit::leave_address);
    drop(held);
    pass(SECOND).await;
    let now = dispatcher.now();
    let is_idle = |state: &mut State| state.addresses.get_mut(HERE).unwrap().queue.is_idle(now);
    assert!(is_idle(&mut dispatcher.lock()));
    for at in 0..1000 {
        let address = format!("http://{at}");
        drop(
            dispatcher
                .permit(&address, dispatcher.mount("a", path))
                .await,
        );
    }
    assert!(dispatcher.lock().addresses.len() <= IDLE + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn everybody_comes_to_his_turn(
        calls in proptest::collection::vec((0_usize..4, 0_usize..4, 0_usize..4, 1_u32..2000, 0_u32..3000), 1..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let dispatcher = dispatcher();
            let told = Told::default();
            for (tenant, backend, class, left, takes) in &calls {
                let waiter = Waiter {
                    class: [Class::Mount, Class::Renewal, Class::Revocation, Class::LookUp][*class],
                    ..dispatcher.renewal(&format!("t{tenant}"), &format!("b{backend}/x"), *left * SECOND)
                };
                dispatcher.call(waiter, SECOND / 1000 * *takes, &told);
                if left % 7 == 0 {
                    pass(SECOND / 20).await;
                }
            }
            pass(1000 * SECOND).await;
            assert_eq!(told.lock().unwrap().len(), calls.len());
            let state = dispatcher.lock();
            let known = &state.addresses[HERE];
            assert!(!known.queue.is_waiting() && known.granted.is_empty() && known.timer.is_none());
        });
    }
}
