//! Whole runs against a broker in this process.

use std::sync::Arc;

use clap::Parser;

use super::{
    faulty::{Fault, Faulty, STALL},
    *,
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    bench: BenchArgs,
}

async fn outcome(line: &str) -> (run::Outcome, serde_json::Value) {
    let words = ["bench"].into_iter().chain(line.split_whitespace());
    let line = Line::try_parse_from(words).unwrap();
    let target = Target::new(&line.server, &line.bench).await.unwrap();
    let plan = Plan::new(line.bench.mode.unwrap(), &line.bench).unwrap();
    let outcome = run::run(&target, &plan, &[], &ProgressBar::hidden()).await.unwrap();
    let report = serde_json::to_value(Report::new(&target, &plan, &outcome)).unwrap();
    assert!(!Report::new(&target, &plan, &outcome).table().is_empty());
    // A run leaves nothing behind.
    let client = target.connect().await.unwrap();
    assert_eq!(client.admin().list_topics().await.unwrap(), []);
    client.close().await.unwrap();
    target.close().await.unwrap();
    (outcome, report)
}

#[tokio::test]
async fn all_modes_run_and_verify() {
    for (line, published, delivered) in [
        ("pub --count 5000 --producers 3 --topics 2", 5000, 0),
        ("pub --count 300 --producers 7 --wait-each", 300, 0),
        ("e2e --count 500 --topics 5 --producers 2", 500, 500),
        ("sub --count 5000 --consumers 2", 5000, 5000),
        ("e2e --count 5001 --producers 3 --topics 2 --consumers 2 --size 33", 5001, 5001),
        ("fanout --count 2000 --channels 3", 2000, 6000),
        ("latency --count 500 --rate 5000 --producers 3", 500, 500),
        ("e2e --count 20 --size 100000 --batch 3 --in-flight 5", 20, 20),
    ] {
        let (outcome, report) = outcome(&format!("{line} --in-process")).await;
        assert_eq!((outcome.published, outcome.delivered), (published, delivered), "{line}");
        let messages = if delivered > 0 { delivered } else { published };
        assert_eq!(report["messages"], messages, "{line}");
        for figure in ["seconds", "messages_per_second", "bytes_per_second"] {
            assert!(report[figure].as_f64().unwrap() > 0.0, "{line}: {figure}");
        }
        assert_eq!(report["durability"], "memory");
        if !line.starts_with("sub") {
            for quantile in ["p50", "p90", "p99", "p999", "max"] {
                assert!(report["latency_us"][quantile].is_u64(), "{line}: {report}");
            }
            assert_eq!(outcome.receipts.len(), published);
        }
    }
}

#[tokio::test]
async fn a_run_ends_with_its_duration() {
    let (outcome, _) = outcome("e2e --duration 200ms --in-process").await;
    assert!(outcome.published > 0 && outcome.published == outcome.delivered);
    assert!((0.2..10.0).contains(&outcome.seconds), "{}", outcome.seconds);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let (outcome, report) = outcome("latency --rate 400 --duration 500ms --in-process").await;
    assert_eq!(outcome.published, 200);
    assert!(outcome.seconds >= 0.49, "{}", outcome.seconds);
    assert_eq!(report["rate"], 400);
    assert_eq!(outcome.deliveries.len(), outcome.published);
}

#[tokio::test]
async fn a_prefilled_topic_is_drained_and_kept() {
    let words = |line: &str| Line::try_parse_from(line.split_whitespace()).unwrap();
    let first = words("bench pub --count 700 --producers 2 --topic kept --in-process");
    let target = Target::new(&first.server, &first.bench).await.unwrap();
    let bar = ProgressBar::hidden();
    let plan = Plan::new(Mode::Pub, &first.bench).unwrap();
    run::run(&target, &plan, &[], &bar).await.unwrap();
    let second = words("bench sub --prefilled --topic kept --in-process");
    let plan = Plan::new(Mode::Sub, &second.bench).unwrap();
    let outcome = run::run(&target, &plan, &[], &bar).await.unwrap();
    assert_eq!((outcome.published, outcome.delivered), (0, 700));
    let client = target.connect().await.unwrap();
    let stats = client.admin().show_topic("kept").await.unwrap();
    assert_eq!((stats.end.0, stats.channels.len()), (700, 0));
    client.close().await.unwrap();
    target.close().await.unwrap();
}

#[tokio::test]
async fn a_broker_in_this_process_keeps_its_files_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("pub --count 50 --in-process --data-dir {}", folder.path().display());
    for (more, durability) in [("", "disk"), (" --durability os", "os")] {
        let (_, report) = outcome(&format!("{line}{more}")).await;
        assert_eq!(report["durability"], durability, "{more}");
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().count() > 0);
}

/// A run against a store with a fault.
async fn faulty(fault: Fault, line: &str) -> Result<run::Outcome, String> {
    let line = Line::try_parse_from(["bench"].into_iter().chain(line.split_whitespace())).unwrap();
    let target = Target::over(Arc::new(Faulty::new(fault)), &line.server).await.unwrap();
    let plan = Plan::new(line.bench.mode.unwrap(), &line.bench).unwrap();
    let outcome = run::run(&target, &plan, &[], &ProgressBar::hidden()).await;
    target.close().await.unwrap();
    outcome.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_message_that_is_wrong_missing_repeated_or_misplaced_fails_the_run() {
    for (fault, words) in [
        (Fault::Corrupts, &["1 messages are wrong", "at offset 101", "filler is damaged"][..]),
        (Fault::Repeats, &["1 messages came again", "1 messages are missing"]),
        (Fault::Swaps, &["1 messages came out of order"]),
    ] {
        let error = faulty(fault, "sub --count 1000").await.err();
        let error = error.unwrap_or_else(|| panic!("{fault:?} is not noticed"));
        for words in [&["verification failed"], words].concat() {
            assert!(error.contains(words), "{fault:?}: {error}");
        }
    }
}

/// Open loop: whether or not it could be sent, a message's time runs from when it was due.
#[tokio::test]
async fn a_stall_is_seen_by_every_message_that_it_delays() {
    // The window is small, so that the stall holds up sending too, to the end of the run.
    let line = "latency --rate 1000 --duration 200ms --in-flight 5 --batch 5";
    let outcome = faulty(Fault::Stalls, line).await.unwrap();
    assert_eq!(outcome.published, 200);
    let stall = u64::try_from(STALL.as_micros()).unwrap();
    for latencies in [&outcome.receipts, &outcome.deliveries] {
        assert!(latencies.max() >= stall * 9 / 10, "{}", latencies.max());
        // Due up to 200 ms after the stall began, and done after it.
        let delayed = latencies.value_at_quantile(0.25);
        assert!(delayed >= stall / 2, "{delayed}");
    }
}

#[tokio::test]
async fn a_topic_with_nothing_in_it_is_not_drained_and_not_made() {
    let words = "bench sub --prefilled --topic nothing --in-process";
    let line = Line::try_parse_from(words.split_whitespace()).unwrap();
    let target = Target::new(&line.server, &line.bench).await.unwrap();
    let plan = Plan::new(Mode::Sub, &line.bench).unwrap();
    let failed = run::run(&target, &plan, &[], &ProgressBar::hidden()).await;
    let error = failed.err().unwrap().to_string();
    assert!(error.contains("no_such_topic"), "{error}");
    let client = target.connect().await.unwrap();
    assert_eq!(client.admin().list_topics().await.unwrap(), []);
    client.admin().create_topic("nothing", Default::default()).await.unwrap();
    let failed = run::run(&target, &plan, &[], &ProgressBar::hidden()).await;
    let error = failed.err().unwrap().to_string();
    assert!(error.contains("nothing to drain"), "{error}");
    client.close().await.unwrap();
    target.close().await.unwrap();
}

#[tokio::test]
async fn what_is_not_what_was_published_fails_the_run() {
    let words = "bench sub --prefilled --topic odd --in-process";
    let line = Line::try_parse_from(words.split_whitespace()).unwrap();
    let target = Target::new(&line.server, &line.bench).await.unwrap();
    let client = target.connect().await.unwrap();
    let producer = client.producer("odd").await.unwrap();
    producer.send(ltq_client::Message::new("not from here")).await.unwrap();
    let plan = Plan::new(Mode::Sub, &line.bench).unwrap();
    let failed = run::run(&target, &plan, &[], &ProgressBar::hidden()).await;
    let error = failed.err().unwrap().to_string();
    assert!(error.contains("verification failed") && error.contains("13 bytes"), "{error}");
    client.close().await.unwrap();
    target.close().await.unwrap();
}
