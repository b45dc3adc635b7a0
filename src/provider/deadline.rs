//! How long the driver waits for an answer: the `grpc-timeout` of its request.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// kubelet's own timeout for a NodePublishVolume, which the driver hands on (`csiTimeout` in Kubernetes
/// `pkg/volume/csi/csi_plugin.go`).
const KUBELET: Duration = Duration::from_secs(120);
/// An answer needs time on its way through a busy node. Past the deadline the driver reports
/// `DeadlineExceeded`, which kubelet does not take as final.
const LONGEST_MARGIN: Duration = Duration::from_secs(5);

/// The longest time without an answer. Who waits for the pod is shown the reason only once an attempt has ended,
/// and the Mount goes on meanwhile.
const LONGEST: Duration = Duration::from_secs(30);

/// For how long a request may be worked on before it must be answered.
pub fn answer_within(metadata: &MetadataMap) -> Duration {
    let stated = metadata.get("grpc-timeout").and_then(|value| {
        let text = value.to_str().ok()?;
        parse(text)
    });
    let timeout = stated.unwrap_or(KUBELET);
    let margin = (timeout / 8).min(LONGEST_MARGIN);
    timeout.saturating_sub(margin).min(LONGEST)
}

/// At most eight digits and a unit (gRPC over HTTP/2, `Timeout`).
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(timeout: &str) -> Duration {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", timeout.parse().unwrap());
        answer_within(&metadata)
    }

    #[test]
    fn every_unit_is_read_and_a_margin_kept() {
        // grpc-go writes the shortest unit that fits eight digits.
        for (timeout, millis) in [
            ("119999m", 30_000),
            ("8S", 7_000),
            ("30S", 26_250),
            ("2M", 30_000),
            ("1H", 30_000),
            ("800000u", 700),
            ("80000000n", 70),
        ] {
            assert_eq!(within(timeout), Duration::from_millis(millis), "{timeout}");
        }
    }

    #[test]
    fn without_a_readable_one_kubelets_holds() {
        let usual = LONGEST;
        assert_eq!(answer_within(&MetadataMap::new()), usual);
        for timeout in [
            "",
            "S",
            "1",
            "123456789S",
            "-1S",
            "1.5S",
            "1s",
            "1 S",
            "\u{e9}",
        ] {
            let read = timeout.parse().map(|value| {
                let mut metadata = MetadataMap::new();
                metadata.insert("grpc-timeout", value);
                answer_within(&metadata)
            });
            assert!(
                read.is_err() || read.is_ok_and(|read| read == usual),
                "{timeout}"
            );
        }
    }
}
