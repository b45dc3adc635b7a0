use std::fs;
use std::path::Path;

use super::entries::POOLS;
use super::*;

const ADDRESS: &str = "http://127.0.0.1:9";
const SECURE: &str = "https://127.0.0.1:9";

fn pools() -> Pools {
    let second = Duration::from_secs(1);
    Pools::new(
        second,
        100 * second,
        Proxies::default(),
        1024,
        TlsFiles::default(),
    )
}

async fn get(pools: &Pools) -> Arc<Pool> {
    pools.get(ADDRESS, &Tls::default()).await.unwrap()
}

async fn after(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

fn certificate() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["vault".to_owned()]).unwrap();
    made.cert.pem()
}

fn trusting(file: &Path) -> Tls {
    Tls {
        ca_file: Some(file.to_owned()),
        ..Tls::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_replaced_before_it_has_grown_too_old() {
    let pools = pools();
    let first = get(&pools).await;
    after(49).await;
    assert!(Arc::ptr_eq(&first, &get(&pools).await));
    after(51).await;
    assert!(!Arc::ptr_eq(&first, &get(&pools).await));
}

#[tokio::test(start_paused = true)]
async fn a_pool_whose_server_does_not_serve_is_replaced_once() {
    let pools = pools();
    let first = get(&pools).await;
    pools.retire(ADDRESS, &Tls::default(), &first);
    let second = get(&pools).await;
    assert!(!Arc::ptr_eq(&first, &second));
    // The others that were on their way to the first one.
    pools.retire(ADDRESS, &Tls::default(), &first);
    assert!(Arc::ptr_eq(&second, &get(&pools).await));
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_replaces_no_young_pool() {
    let pools = pools();
    let first = get(&pools).await;
    let age = Duration::from_secs(10);
    pools.retire_older(ADDRESS, &Tls::default(), age);
    assert!(Arc::ptr_eq(&first, &get(&pools).await));
    tokio::time::advance(age).await;
    pools.retire_older(ADDRESS, &Tls::default(), age);
    assert!(!Arc::ptr_eq(&first, &get(&pools).await));
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_together_make_one_pool() {
    let pools = pools();
    let (one, other) = tokio::join!(get(&pools), get(&pools));
    assert!(Arc::ptr_eq(&one, &other));
}

#[tokio::test(start_paused = true)]
async fn files_are_looked_at_once_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    fs::write(&file, certificate()).unwrap();
    let (pools, settings) = (pools(), trusting(&file));
    let first = pools.get(SECURE, &settings).await.unwrap();
    fs::write(&file, certificate()).unwrap();
    let same = pools.get(SECURE, &settings).await.unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    after(1).await;
    let second = pools.get(SECURE, &settings).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    after(1).await;
    let same = pools.get(SECURE, &settings).await.unwrap();
    assert!(Arc::ptr_eq(&second, &same));
}

#[tokio::test(start_paused = true)]
async fn a_pool_outlives_its_files_for_a_bounded_time() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    fs::write(&file, certificate()).unwrap();
    let (pools, settings) = (pools(), trusting(&file));
    let first = pools.get(SECURE, &settings).await.unwrap();
    fs::write(&file, "half of a certifi").unwrap();
    for _ in 0..98 {
        after(1).await;
        let same = pools.get(SECURE, &settings).await.unwrap();
        assert!(Arc::ptr_eq(&first, &same));
    }
    // The clock of the first failure is not set back by another one.
    fs::write(&file, "another half").unwrap();
    after(1).await;
    assert!(pools.get(SECURE, &settings).await.is_ok());
    after(2).await;
    let told = pools.get(SECURE, &settings).await.err().unwrap();
    assert!(told.to_string().contains("vaultCACertPath"), "{told}");
    fs::write(&file, certificate()).unwrap();
    after(1).await;
    assert!(pools.get(SECURE, &settings).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn files_that_cannot_be_used_are_not_read_at_each_request() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    fs::write(&file, "no certificate").unwrap();
    let (pools, settings) = (pools(), trusting(&file));
    let key = (SECURE.to_owned(), settings.clone());
    assert!(pools.get(SECURE, &settings).await.is_err());
    let read = pools.0.locked().read(&key).unwrap();
    after(5).await;
    assert!(pools.get(SECURE, &settings).await.is_err());
    assert_eq!(pools.0.locked().read(&key), Some(read));
    after(5).await;
    assert!(pools.get(SECURE, &settings).await.is_err());
    assert_ne!(pools.0.locked().read(&key), Some(read), "a fault may pass");
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_pools_are_forgotten() {
    let pools = pools();
    let first = get(&pools).await;
    for at in 0..POOLS + 10 {
        after(0).await;
        tokio::time::advance(Duration::from_millis(1)).await;
        let address = format!("http://127.0.0.1:{}", at + 10);
        pools.get(&address, &Tls::default()).await.unwrap();
        assert!(Arc::ptr_eq(&first, &get(&pools).await), "{at}");
    }
    assert_eq!(pools.0.locked().len(), POOLS);
}

#[tokio::test(start_paused = true)]
async fn what_all_pools_trust_takes_a_bounded_memory() {
    let pools = pools();
    let pem = certificate();
    let key = |at: usize| {
        let settings = Tls {
            ca_pem: Some(format!("{at}\n{pem}")),
            ..Tls::default()
        };
        (SECURE.to_owned(), settings)
    };
    for at in 0..4 {
        tokio::time::advance(Duration::from_millis(1)).await;
        let (address, settings) = key(at);
        pools.get(&address, &settings).await.unwrap();
    }
    let mut entries = pools.0.locked();
    let kept = |entries: &Entries| (0..4).map(|at| entries.has(&key(at))).collect::<Vec<_>>();
    // Each takes the text, the certificate and some more.
    let (last, now) = (key(3), Instant::now());
    entries.evict(5 * pem.len(), &last, now);
    assert_eq!(kept(&entries), [false, false, true, true]);
    entries.evict(0, &last, now);
    assert_eq!(kept(&entries), [false, false, false, true]);
}

async fn get_for(pools: &Pools, tenant: &str, address: &str) -> Arc<Pool> {
    let settings = Tls::default();
    let pool = tenant::on_behalf_of(tenant, pools.get(address, &settings)).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    pool.unwrap()
}

fn address(at: usize) -> String {
    format!("http://127.0.0.1:{}", at + 10)
}

#[tokio::test(start_paused = true)]
async fn a_tenants_thousand_addresses_cost_nobody_else_a_pool() {
    let pools = pools();
    let own = get_for(&pools, "shop", ADDRESS).await;
    let shared = get_for(&pools, "crowd", "http://127.0.0.1:8").await;
    get_for(&pools, "shop", "http://127.0.0.1:8").await;
    for poll in 0..3 {
        for at in 0..1000 {
            get_for(&pools, "crowd", &address(at)).await;
        }
        assert!(
            Arc::ptr_eq(&own, &get_for(&pools, "shop", ADDRESS).await),
            "{poll}"
        );
        let found = get_for(&pools, "shop", "http://127.0.0.1:8").await;
        assert!(Arc::ptr_eq(&shared, &found), "{poll}");
    }
    assert_eq!(pools.0.locked().len(), POOLS);
}

#[tokio::test(start_paused = true)]
async fn two_tenants_that_share_a_thousand_addresses_are_no_better_off() {
    let pools = pools();
    let own = get_for(&pools, "shop", ADDRESS).await;
    for at in 0..500 {
        get_for(&pools, "crowd", &address(at)).await;
        get_for(&pools, "other", &address(at)).await;
    }
    assert!(Arc::ptr_eq(&own, &get_for(&pools, "shop", ADDRESS).await));
}

#[tokio::test(start_paused = true)]
async fn pools_that_nobody_has_used_lately_go_first() {
    let pools = pools();
    for at in 0..200 {
        get_for(&pools, "crowd", &address(at)).await;
    }
    after(50).await;
    let own = get_for(&pools, "shop", ADDRESS).await;
    after(49).await;
    // The crowd is gone; another tenant has many addresses, though fewer than were left behind.
    for minute in 0..12 {
        after(50).await;
        pools.0.locked().used(
            &(ADDRESS.to_owned(), Tls::default()),
            Some("shop".into()),
            Instant::now(),
        );
        for at in 0..5 {
            get_for(&pools, "busy", &address(1000 + 5 * minute + at)).await;
        }
    }
    assert!(pools.0.locked().has(&(ADDRESS.to_owned(), Tls::default())));
    assert!(!pools.0.locked().has(&(address(0), Tls::default())));
    assert!(pools.0.locked().has(&(address(1000), Tls::default())));
    drop(own);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_large_bundles_cost_nobody_else_a_pool() {
    let pools = pools();
    let pem = certificate();
    let key = |at: usize| {
        let settings = Tls {
            ca_pem: Some(format!("{at}\n{pem}")),
            ..Tls::default()
        };
        (SECURE.to_owned(), settings)
    };
    for (at, tenant) in ["shop", "crowd", "crowd", "crowd"].into_iter().enumerate() {
        let (address, settings) = key(at);
        let made = tenant::on_behalf_of(tenant, pools.get(&address, &settings)).await;
        made.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let mut entries = pools.0.locked();
    let (last, now) = (key(3), Instant::now());
    entries.evict(5 * pem.len(), &last, now);
    let kept: Vec<bool> = (0..4).map(|at| entries.has(&key(at))).collect();
    assert_eq!(kept, [true, false, false, true]);
}
