use std::{sync::Arc, time::Duration};

use ltq_client::Client;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, time::timeout};

use super::{Body, Ledger, TOPIC};

/// Consumes until told to stop: acks most messages, gives some back, forgets some.
pub(super) async fn run(
    server: String,
    channel: &'static str,
    index: usize,
    seed: u64,
    ledger: Arc<Ledger>,
    running: watch::Receiver<bool>,
) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let client = Client::connect(&server).await.expect("a connection");
    let mut consumer = client.consumer(TOPIC, channel).await.expect("a consumer");
    while *running.borrow() {
        // Looks at `running` from time to time.
        let Ok(next) = timeout(Duration::from_millis(50), consumer.next()).await else { continue };
        let Some(delivery) = next else { panic!("the consumer of {channel} ended") };
        let delivery = delivery.expect("a delivery");
        let body = Body::parse(&delivery.message.body)
            .unwrap_or_else(|| panic!("promise 8: wrong bytes in {delivery:?}"));
        let life = ledger.delivered(index, body, delivery.offset(), delivery.attempt());
        // Stale when the node was killed since it was handed out: then it comes again.
        let _stale = match chance.random_range(0..100) {
            0..2 => {
                drop(delivery);
                continue;
            }
            2..4 => delivery.requeue(Duration::ZERO).is_err(),
            4..5 => delivery.requeue(Duration::from_millis(30)).is_err(),
            5..15 => match delivery.ack_confirmed().await {
                Ok(()) => {
                    ledger.acked(index, body, life);
                    false
                }
                Err(_) => true,
            },
            _ => delivery.ack().is_err(),
        };
    }
    drop(consumer);
    client.close().await.expect("a clean close");
}
