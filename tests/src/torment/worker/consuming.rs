use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures::future::join_all;
use ltq_client::{ClusterConsumer, ClusterDelivery, ID_HEADER};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Failed, Journal, uptime_ms};

/// Takes what comes, for ever.
pub(super) async fn consume(
    mut consumer: ClusterConsumer,
    journal: Arc<Journal>,
) -> Result<(), Failed> {
    let topic = consumer.topic().to_string();
    let mut held = Vec::new();
    let mut delayed = Delayed::default();
    let mut count = 0_u64;
    loop {
        // What is held is answered in the end.
        let Ok(next) = timeout(QUIET, consumer.next()).await else {
            answer(&mut held, &topic, &journal).await?;
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
        let (id, attempt, now) = (id.unwrap_or_default(), delivery.attempt(), uptime_ms()?);
        if let Some(asked_ms) = delayed.is_early(node.as_str(), offset) {
            journal.write(&format!("E\t{topic}\t{body}\t{node}\t{asked_ms}\t{now}"))?;
        }
        journal.write(&format!("G\t{topic}\t{body}\t{node}\t{offset}\t{id}\t{attempt}\t{now}"))?;
        journal.note(&topic, body);
        count += 1;
        // Some are given back, and some answered late, so that there is always something in flight.
        match count % 50 {
            0 if count.is_multiple_of(100) => delayed.give_back(delivery)?,
            0 => drop(delivery.requeue(Duration::from_millis(100))),
            1..=5 => held.push(delivery),
            _ => drop(delivery.ack()),
        }
        if held.len() > 20 {
            answer(&mut held, &topic, &journal).await?;
        }
    }
    Err(format!("the consumer of {topic} is over").into())
}

/// Acks them, and writes down which of it their nodes have confirmed.
async fn answer(
    held: &mut Vec<ClusterDelivery>,
    topic: &str,
    journal: &Journal,
) -> Result<(), Failed> {
    let acks = held.drain(..).map(|delivery| async {
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        let (node, offset) = (delivery.node().clone(), delivery.offset().0);
        let attempt = delivery.attempt();
        // Before it: its node may be killed right behind the confirm, which is heard of later.
        let now = uptime_ms()?;
        if delivery.ack_confirmed().await.is_ok() {
            journal.write(&format!("A\t{topic}\t{body}\t{node}\t{offset}\t{attempt}\t{now}"))?;
        }
        Ok(())
    });
    join_all(acks).await.into_iter().collect()
}

/// Messages that were given back for a while.
#[derive(Default)]
struct Delayed {
    under_way: JoinSet<Option<Asked>>,
    /// By node and offset: those of which the node has said that it knows.
    asked: HashMap<(String, u64), Asked>,
}

struct Asked {
    node: String,
    offset: u64,
    at: Instant,
    at_ms: u64,
}

impl Delayed {
    fn give_back(&mut self, delivery: ClusterDelivery) -> io::Result<()> {
        let (node, offset) = (delivery.node().to_string(), delivery.offset().0);
        let asked = Asked { node, offset, at: Instant::now(), at_ms: uptime_ms()? };
        self.under_way
            .spawn(async move { delivery.requeue_confirmed(DELAY).await.is_ok().then_some(asked) });
        Ok(())
    }

    /// When a message was given back that comes too early.
    fn is_early(&mut self, node: &str, offset: u64) -> Option<u64> {
        while let Some(ended) = self.under_way.try_join_next() {
            if let Ok(Some(asked)) = ended {
                self.asked.insert((asked.node.clone(), asked.offset), asked);
            }
        }
        let asked = self.asked.remove(&(node.to_owned(), offset))?;
        (asked.at.elapsed() < DELAY).then_some(asked.at_ms)
    }
}

/// For how long some are given back: long enough for a clock to step meanwhile.
const DELAY: Duration = Duration::from_secs(2);
/// After what time without a message those that are held are answered.
const QUIET: Duration = Duration::from_millis(500);
