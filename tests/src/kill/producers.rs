use std::{collections::VecDeque, sync::Arc, time::Duration};

use ltq_client::{Client, Durability, Message, Outcome, PendingReceipt};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::sync::watch;

use super::{Body, Ledger, TOPIC};

/// Publishes numbered messages until told to stop, and then waits for the last confirms.
pub(super) async fn run(
    server: String,
    producer: usize,
    seed: u64,
    ledger: Arc<Ledger>,
    running: watch::Receiver<bool>,
) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let durability = if producer.is_multiple_of(2) { Durability::Disk } else { Durability::Os };
    let window = 1 << chance.random_range(0..8);
    let client = Client::connect(&server).await.expect("a connection");
    let publisher = client
        .producer_builder(TOPIC)
        .name(&format!("load-{producer}"))
        .durability(durability)
        .timeout(Duration::from_secs(20))
        .open()
        .await
        .expect("a producer");
    let mut unconfirmed: VecDeque<(Body, PendingReceipt)> = VecDeque::new();
    let mut number = publisher.last_sequence();
    assert_eq!(number, 0, "a new name has published nothing");
    while *running.borrow() {
        number += 1;
        let body = Body { producer, number };
        ledger.published(body);
        match publisher.enqueue(Message::new(body.bytes())).await {
            Ok(pending) => unconfirmed.push_back((body, pending)),
            Err(error) => panic!("promise 15: {body:?} was not even taken: {error}"),
        }
        while unconfirmed.len() >= window {
            confirm(&mut unconfirmed, durability, &ledger).await;
        }
    }
    while !unconfirmed.is_empty() {
        confirm(&mut unconfirmed, durability, &ledger).await;
    }
    client.close().await.expect("a clean close");
}

async fn confirm(
    unconfirmed: &mut VecDeque<(Body, PendingReceipt)>,
    durability: Durability,
    ledger: &Ledger,
) {
    let Some((body, pending)) = unconfirmed.pop_front() else { return };
    match pending.await {
        Ok(receipt) => {
            assert!(receipt.durability >= durability, "promise 1: {body:?} got {receipt:?}");
            assert_eq!(receipt.sequence, body.number, "the receipt is for another message");
            ledger.confirmed(body, receipt.offset);
        }
        Err(error) => {
            // Neither is a loss, but the node is away for less than the time that a call has.
            let outcome = error.outcome();
            assert!(matches!(outcome, Outcome::Nothing | Outcome::Unknown));
            panic!("promise 15: {body:?} ended {outcome:?}: {error}");
        }
    }
}
