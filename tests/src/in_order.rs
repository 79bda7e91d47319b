//! Who consumes what was published by keys, and judges its order.

use std::{collections::BTreeMap, sync::Arc};

use ltq_client::ClusterConsumer;
use tokio::sync::watch;

/// The last number of each key that was consumed.
pub type Consumed = watch::Sender<BTreeMap<String, u64>>;

/// Consumes bodies of a key, `/` and a number until one is `end`. Returns how many those were.
///
/// # Panics
/// When one comes again, or the numbers of a key are not those from 0 on, one after the other.
pub async fn consume_in_order(mut consumer: ClusterConsumer, consumed: Arc<Consumed>) -> u64 {
    let mut count = 0;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.expect("whole");
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        if body == "end" {
            break;
        }
        let (key, number) = body.split_once('/').expect("a key and a number");
        let number: u64 = number.parse().expect("a number");
        let node = delivery.node().clone();
        assert_eq!(delivery.attempt(), 1, "{body} of {node} came again");
        delivery.ack().expect("in time");
        consumed.send_modify(|consumed| {
            let before = consumed.insert(key.to_owned(), number);
            let wanted = before.map_or(0, |before| before + 1);
            assert_eq!(number, wanted, "promise 5: {body} of {node} out of order");
        });
        count += 1;
    }
    count
}
