use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use ltq_client::{ClusterConsumer, ClusterDelivery, ID_HEADER};
use tokio::time::timeout;

use super::{Failed, Journal};

/// Takes what comes, for ever.
pub(super) async fn consume(
    mut consumer: ClusterConsumer,
    journal: Arc<Journal>,
) -> Result<(), Failed> {
    let topic = consumer.topic().to_string();
    let mut held = Vec::new();
    let mut count = 0_u64;
    loop {
        // What is held is answered in the end.
        let Ok(next) = timeout(QUIET, consumer.next()).await else {
            join_all(held.drain(..).map(ClusterDelivery::ack_confirmed)).await;
            continue;
        };
        let Some(delivery) = next else { break };
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                eprintln!("consuming {topic}: {error}");
                continue;
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let body = text(&delivery.message.body);
        let (node, offset) = (delivery.node(), delivery.offset().0);
        let mut headers = delivery.message.headers.iter();
        let id = headers.find(|(name, _)| name == ID_HEADER).map(|(_, id)| text(id));
        let id = id.unwrap_or_default();
        journal.write(&format!("G\t{topic}\t{body}\t{node}\t{offset}\t{id}"))?;
        journal.note(&topic, body);
        count += 1;
        // Some are given back, and some answered late, so that there is always something in flight.
        match count % 50 {
            0 => drop(delivery.requeue(Duration::from_millis(100))),
            1..=5 => held.push(delivery),
            _ => drop(delivery.ack()),
        }
        if held.len() > 20 {
            join_all(held.drain(..).map(ClusterDelivery::ack_confirmed)).await;
        }
    }
    Err(format!("the consumer of {topic} is over").into())
}

/// After what time without a message those that are held are answered.
const QUIET: Duration = Duration::from_millis(500);
