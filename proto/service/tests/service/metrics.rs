//! The Prometheus text, read as a scraper reads it.

use std::collections::{BTreeMap, BTreeSet};

use tessera_service::metrics::{QUEUE_SECONDS, REFUSALS_TOTAL, STEP_TOKENS, WAITING_REQUESTS, install, render};

/// Types and helps by metric, and values by sample with its labels.
struct Scrape {
    types: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    samples: Vec<(String, f64)>,
}

fn scrape(text: &str) -> Scrape {
    let mut scrape = Scrape { types: BTreeMap::new(), helped: BTreeSet::new(), samples: Vec::new() };
    for line in text.lines().filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => drop(scrape.types.insert(name.to_owned(), kind.to_owned())),
            ["#", "HELP", name, help] => assert!(!help.is_empty() && scrape.helped.insert(name.to_owned()), "{line}"),
            _ => {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                scrape.samples.push((sample.to_owned(), value.parse().unwrap()));
            }
        }
    }
    scrape
}

impl Scrape {
    fn value(&self, sample: &str) -> f64 {
        let found: Vec<_> = self.samples.iter().filter(|(name, _)| name == sample).collect();
        assert_eq!(found.len(), 1, "{sample} in {:?}", self.samples);
        found[0].1
    }

    /// A histogram's counts, by rising bound.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("{name}_bucket{{le=\"");
        let bound = |sample: &str| sample.strip_prefix(&prefix)?.strip_suffix("\"}")?.parse().ok();
        self.samples.iter().filter_map(|(sample, value)| Some((bound(sample)?, *value))).collect()
    }
}

#[test]
fn what_is_recorded_is_what_a_scraper_reads() {
    install().unwrap();
    install().expect("a second role of the process installs again");
    metrics::counter!(REFUSALS_TOTAL, "reason" => "full").increment(3);
    metrics::gauge!(WAITING_REQUESTS).set(7.0);
    for seconds in [0.0002, 0.2, 0.2, 500.0] {
        metrics::histogram!(QUEUE_SECONDS).record(seconds);
    }
    metrics::histogram!(STEP_TOKENS).record(33.0);
    let scrape = scrape(&render());

    assert_eq!(scrape.value("tessera_refusals_total{reason=\"full\"}"), 3.0);
    assert_eq!(scrape.value("tessera_waiting_requests"), 7.0);
    assert_eq!(scrape.value("tessera_queue_seconds_count"), 4.0);
    assert!((scrape.value("tessera_queue_seconds_sum") - 500.4002).abs() < 1e-9);
    let queue = scrape.buckets("tessera_queue_seconds");
    assert!(queue.is_sorted_by(|low, high| low.0 < high.0 && low.1 <= high.1), "{queue:?}");
    for (bound, count) in &queue {
        let below = [0.0002, 0.2, 0.2, 500.0].iter().filter(|seconds| *seconds <= bound).count();
        assert_eq!(*count, below as f64, "up to {bound}");
    }
    assert_eq!(queue.last(), Some(&(f64::INFINITY, 4.0)));
    assert!(scrape.buckets("tessera_step_tokens").contains(&(64.0, 1.0)), "{:?}", scrape.samples);

    for (name, kind) in &scrape.types {
        assert!(scrape.helped.contains(name), "{name} has no help");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        if name.ends_with("_seconds") {
            assert_eq!(kind, "histogram", "{name}");
        }
    }
}
