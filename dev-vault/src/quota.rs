//! Rate-limit quotas (OpenBao `vault/quotas`): keyed by path, for all callers together, since they all
//! come from one address.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::answer::Answer;

/// These are never limited.
const EXEMPT: &[&str] = &["sys/health", "sys/seal-status", "sys/unseal"];

#[derive(Default)]
pub struct Quotas {
    pub with_headers: bool,
    limits: BTreeMap<String, Limit>,
}

struct Limit {
    path: String,
    rate: u64,
    interval: Duration,
    window: Instant,
    used: u64,
}

impl Quotas {
    pub fn set(&mut self, name: &str, path: &str, rate: u64, interval: Duration) {
        let limit = Limit {
            path: path.to_owned(),
            rate,
            interval,
            window: Instant::now(),
            used: 0,
        };
        self.limits.insert(name.to_owned(), limit);
    }

    pub fn remove(&mut self, name: &str) {
        self.limits.remove(name);
    }

    /// Counts a request; an answer means that it is refused. Of several limits the most particular counts.
    pub fn refuse(&mut self, path: &str) -> Option<Answer> {
        if EXEMPT.contains(&path) {
            return None;
        }
        let limit = self
            .limits
            .values_mut()
            .filter(|limit| path.starts_with(&limit.path))
            .max_by_key(|limit| limit.path.len())?;
        if limit.window.elapsed() >= limit.interval {
            limit.window = Instant::now();
            limit.used = 0;
        }
        limit.used += 1;
        if limit.used <= limit.rate {
            return None;
        }
        let text = format!("request path \"{path}\": rate limit quota exceeded");
        let mut answer = Answer::error(429, text);
        if self.with_headers {
            let wait = limit.interval.saturating_sub(limit.window.elapsed());
            let wait = wait.as_secs().to_string();
            answer.headers = vec![
                ("Retry-After".to_owned(), wait.clone()),
                ("X-Ratelimit-Limit".to_owned(), limit.rate.to_string()),
                ("X-Ratelimit-Remaining".to_owned(), "0".to_owned()),
                ("X-Ratelimit-Reset".to_owned(), wait),
            ];
        }
        Some(answer)
    }
}
