use super::*;

#[test]
fn a_scrape_shows_what_was_counted() {
    let metrics = Metrics::new();
    metrics.clone().mount("Ok", Duration::from_millis(3));
    metrics.volumes(7);
    metrics.degraded("journal", true);
    let text = metrics.encode();
    assert!(
        text.contains("leasehold_mounts_total{code=\"Ok\"} 1"),
        "{text}"
    );
    assert!(text.contains("leasehold_mount_duration_seconds_count{code=\"Ok\"} 1"));
    assert!(text.contains("leasehold_volumes 7"));
    assert!(text.contains("leasehold_degraded{reason=\"journal\"} 1"));
}

#[test]
fn nothing_ends_before_anything_is_known() {
    let text = Metrics::new().encode();
    let line = text
        .lines()
        .find(|line| line.starts_with("leasehold_nearest_end_timestamp_seconds "));
    assert!(line.unwrap().to_lowercase().ends_with("inf"), "{line:?}");
}

#[test]
fn a_thousand_addresses_that_are_away_make_no_thousand_series() {
    let metrics = Metrics::new();
    let series = || {
        let text = metrics.encode();
        let lines = text.lines();
        lines
            .filter(|line| line.starts_with("leasehold_breaker_open{"))
            .count()
    };
    let address = |at: usize| format!("http://127.0.0.1:{at}");
    for at in 0..1000 {
        metrics.breaker_open(&address(at), true);
        metrics.breaker_open(&address(at), true);
    }
    assert_eq!(series(), MOST_BREAKERS + 1);
    let others = format!("address=\"others\"}} {}", 1000 - MOST_BREAKERS);
    assert!(metrics.encode().contains(&others));
    for at in 1..1000 {
        metrics.breaker_open(&address(at), false);
    }
    assert_eq!(series(), 1);
    assert!(metrics.encode().contains(&format!("{:?}}} 1", address(0))));
    metrics.breaker_open(&address(0), false);
    assert_eq!(series(), 0);
}

#[test]
fn a_servers_own_statuses_make_no_series() {
    let metrics = Metrics::new();
    for status in 100..1000_u16 {
        metrics.vault_call("read", &status.to_string(), Duration::ZERO);
    }
    let text = metrics.encode();
    let series = text
        .lines()
        .filter(|line| line.starts_with("leasehold_vault_calls_total{"));
    assert!((20..80).contains(&series.count()));
    for known in ["ok", "none", "403", "429", "473", "503"] {
        metrics.vault_call("read", known, Duration::ZERO);
        assert!(
            metrics.encode().contains(&format!("status=\"{known}\"")),
            "{known}"
        );
    }
}
