use super::*;

const HERE: &str = "http://vault";
const FAILING: HealthSignal = HealthSignal::Failing {
    retry_after: None,
    reach: Reach::Server,
};

fn at(millis: u64) -> Moment {
    Moment::from_boot(Duration::from_millis(millis))
}

fn health() -> Health {
    Health::new(Duration::from_secs(15), Metrics::new())
}

fn scope(tenant: &str, path: &str) -> Scope {
    Scope::new(tenant, None, path)
}

fn note(health: &mut Health, scope: &Scope, signal: HealthSignal) -> Noted {
    health.note(HERE, scope, signal, at(0), 1.0)
}

fn is_open(health: &Health, scope: &Scope) -> bool {
    health.open(HERE, scope, None, at(0)).is_some()
}

#[test]
fn one_tenants_failures_stop_it_alone_and_there_alone() {
    let mut health = health();
    let (mine, other) = (scope("a", "kv/data/x"), scope("b", "kv/data/x"));
    let quota = HealthSignal::Failing {
        retry_after: Some(Duration::from_secs(60)),
        reach: Reach::Quota,
    };
    for _ in 0..10 {
        assert!(!note(&mut health, &mine, quota).ask_server, "it is exempt");
    }
    let open = health.open(HERE, &mine, None, at(0)).unwrap();
    assert_eq!(open.until, at(60_000));
    assert!(!is_open(&health, &other));
    assert!(!is_open(&health, &scope("a", "database/creds/app")));
    note(&mut health, &mine, HealthSignal::Healthy);
    assert!(!is_open(&health, &mine));
    assert!(health.addresses.is_empty(), "nothing to remember");
}

#[test]
fn an_answer_in_between_keeps_it_closed() {
    let mut health = health();
    let mine = scope("a", "kv/data/x");
    for signal in [
        FAILING,
        FAILING,
        HealthSignal::Healthy,
        FAILING,
        FAILING,
        HealthSignal::Silent,
        HealthSignal::Ambiguous,
    ] {
        note(&mut health, &mine, signal);
        assert!(!is_open(&health, &mine));
    }
    assert!(
        note(&mut health, &mine, FAILING).ask_server,
        "is it the server's trouble?"
    );
    assert!(is_open(&health, &mine));
}

#[test]
fn several_tenants_speak_for_a_backend_and_several_backends_for_an_address() {
    let mut health = health();
    for tenant in ["a", "b", "c"] {
        note(&mut health, &scope(tenant, "pki/issue/web"), FAILING);
    }
    assert!(is_open(&health, &scope("d", "pki/issue/web")));
    assert!(!is_open(&health, &scope("d", "kv/data/x")));
    for backend in ["kv/data", "database/creds"] {
        note(&mut health, &scope("a", backend), FAILING);
    }
    assert!(is_open(&health, &scope("d", "auth/kubernetes")), "three");
    let mut one_tenant = self::health();
    for backend in ["kv/data", "database/creds", "pki/issue", "auth/token"] {
        note(&mut one_tenant, &scope("a", backend), FAILING);
    }
    assert!(!is_open(&one_tenant, &scope("d", "auth/kubernetes")));
    let mut slowly = self::health();
    for (minute, tenant) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let now = at(61_000 * u64::try_from(minute).unwrap());
        let scope = scope(tenant, &format!("{tenant}/creds"));
        slowly.note(HERE, &scope, FAILING, now, 1.0);
    }
    assert!(
        !is_open(&slowly, &scope("e", "auth/kubernetes")),
        "it was long ago"
    );
    let answers = |health: &mut Health| {
        let scope = scope("d", "auth/kubernetes");
        health.note(HERE, &scope, HealthSignal::Healthy, at(9), 1.0)
    };
    assert!(!answers(&mut health).recovered, "it was a moment");
    assert!(!is_open(&health, &scope("d", "kv/data/x")));
}

#[test]
fn a_success_elsewhere_shows_that_the_address_is_there() {
    let mut health = health();
    for backend in ["kv/data", "database/creds", "pki/issue", "ssh/sign"] {
        (0..5).for_each(|_| {
            note(&mut health, &scope("a", backend), FAILING);
        });
        note(
            &mut health,
            &scope("b", "auth/token"),
            HealthSignal::Healthy,
        );
    }
    assert!(!is_open(&health, &scope("b", "kv/data")));
    assert!(is_open(&health, &scope("a", "kv/data")));
}

#[test]
fn a_locked_namespace_is_its_own() {
    let mut health = health();
    let locked = HealthSignal::Failing {
        retry_after: None,
        reach: Reach::Namespace,
    };
    for tenant in ["a", "b", "c", "d"] {
        for path in [
            "kv/data/x",
            "auth/kubernetes/login",
            "pki/issue/x",
            "auth/token",
        ] {
            let scope = Scope::new(tenant, Some("team"), path);
            (0..3).for_each(|_| {
                assert_eq!(note(&mut health, &scope, locked), Noted::default());
            });
        }
    }
    assert!(is_open(
        &health,
        &Scope::new("a", Some("team"), "kv/data/y")
    ));
    assert!(!is_open(&health, &Scope::new("a", None, "kv/data/y")));
    assert!(!is_open(
        &health,
        &Scope::new("e", Some("team"), "kv/data/y")
    ));
}

#[test]
fn an_address_that_cannot_be_reached_is_away_for_everybody() {
    let mut health = health();
    let (mine, other) = (scope("a", "kv/data/x"), scope("b", "auth/token"));
    (0..3).for_each(|_| {
        note(&mut health, &mine, HealthSignal::Unreachable);
    });
    assert!(is_open(&health, &other));
    health.begins(HERE, &other, at(1000));
    // It answers, if only that it has enough of this tenant.
    let quota = HealthSignal::Failing {
        retry_after: None,
        reach: Reach::Quota,
    };
    assert!(health.note(HERE, &other, quota, at(5000), 1.0).recovered);
    assert!(health.open(HERE, &mine, None, at(5000)).is_none());
}

#[test]
fn the_servers_own_health_check_decides_for_the_address() {
    let mut health = health();
    let (mine, other) = (scope("a", "kv/data/x"), scope("b", "auth/token"));
    assert!(!health.checked(HERE, false, at(0), 1.0));
    assert!(!is_open(&health, &other), "it may be lost on the way");
    (0..3).for_each(|_| {
        note(&mut health, &mine, FAILING);
    });
    assert!(!is_open(&health, &other), "one tenant's backend");
    assert!(!health.checked(HERE, false, at(0), 1.0));
    assert_eq!(health.last_check(HERE, at(999)), Some(false));
    assert_eq!(health.last_check(HERE, at(1000)), None);
    assert!(is_open(&health, &other));
    health.begins(HERE, &mine, at(1000));
    let noted = health.note(HERE, &mine, FAILING, at(1100), 1.0);
    assert!(noted.ask_server, "the probe has failed");
    assert!(health.checked(HERE, true, at(6000), 1.0), "it is back");
    assert!(health.open(HERE, &other, None, at(6000)).is_none());
}

#[test]
fn a_tenants_thousand_failing_addresses_and_paths_are_not_all_remembered() {
    let mut health = health();
    for at_ in 0..3000_u64 {
        let address = format!("http://{at_}");
        health.note(&address, &scope("a", "kv/data"), FAILING, at(at_), 1.0);
        let path = format!("kv/{at_}/x");
        health.note(HERE, &scope("a", &path), FAILING, at(at_), 1.0);
    }
    assert!(health.addresses.len() <= REMEMBERED);
    let (kept, quota) = (
        scope("b", "kv/data"),
        HealthSignal::Failing {
            retry_after: Some(Duration::from_secs(60)),
            reach: Reach::Quota,
        },
    );
    for _ in 0..3 {
        health.note("http://kept", &kept, quota, at(0), 1.0);
        health.note(HERE, &kept, quota, at(0), 1.0);
    }
    for at_ in 0..3000_u64 {
        let address = format!("http://more-{at_}");
        health.note(&address, &scope("a", "kv/data"), FAILING, at(at_), 1.0);
        let path = format!("more/{at_}/x");
        health.note(HERE, &scope("a", &path), FAILING, at(at_), 1.0);
    }
    for address in ["http://kept", HERE] {
        assert!(
            health.open(address, &kept, None, at(5000)).is_some(),
            "another tenant's"
        );
    }
    assert!(health.addresses[HERE].backends.len() <= REMEMBERED);
}
