use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures::future::join_all;
use ltq_client::{ClusterBatch, ClusterConsumer, Delivery, ID_HEADER, Message};
use ltq_core::Credit;
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{CREDIT, Failed, Journal, uptime_ms, ways::Take};

/// Takes what comes, for ever.
pub(super) async fn consume(
    consumer: ClusterConsumer,
    way: Take,
    journal: Arc<Journal>,
) -> Result<(), Failed> {
    let topic = consumer.topic().to_string();
    let taking = Taking::new(&topic, way, journal);
    match way {
        Take::Batch => by_batches(consumer, taking).await?,
        Take::Handler => by_handler(consumer, taking).await?,
        _ => one_by_one(consumer, taking).await?,
    }
    Err(format!("the consumer of {topic} is over").into())
}

async fn one_by_one(mut consumer: ClusterConsumer, mut taking: Taking) -> Result<(), Failed> {
    let mut turn = 0;
    loop {
        // What is held is answered in the end.
        let Ok(next) = timeout(QUIET, consumer.next()).await else {
            taking.answer().await?;
            continue;
        };
        match next {
            None => return Ok(()),
            Some(Err(error)) => eprintln!("consuming {}: {error}", taking.topic),
            Some(Ok(delivery)) => {
                let node = delivery.node().to_string();
                taking.take(&node, delivery.into_delivery()).await?;
            }
        }
        turn += 1;
        if taking.way == Take::EveryNode && turn % 40 == 0 {
            // Down to what hardly goes around, and up again.
            let messages = [CREDIT, 6, 3 * CREDIT, 25][turn / 40 % 4];
            consumer.set_credit(Credit { messages, bytes: 1 << 20 });
        }
    }
}

async fn by_batches(mut consumer: ClusterConsumer, mut taking: Taking) -> Result<(), Failed> {
    for turn in 1_u64.. {
        let Ok(next) = timeout(QUIET, consumer.next_batch(BATCH_MAX)).await else {
            taking.answer().await?;
            continue;
        };
        let batch = match next {
            None => break,
            Some(Err(error)) => {
                eprintln!("consuming {}: {error}", taking.topic);
                continue;
            }
            Some(Ok(batch)) => batch,
        };
        match turn % 10 {
            // One by one, each with a fate of its own.
            0..4 => {
                let node = batch.node().to_string();
                for delivery in batch.into_deliveries() {
                    taking.take(&node, delivery?.into_delivery()).await?;
                }
            }
            4..7 => {
                taking.note_all(&batch)?;
                let _void = batch.ack_all();
            }
            7..9 => {
                let all = taking.note_all(&batch)?;
                taking.acks(all, batch.ack_all_confirmed().await.is_ok())?;
            }
            _ => {
                taking.note_all(&batch)?;
                let _void = batch.requeue_all(Duration::from_millis(100));
            }
        }
    }
    Ok(())
}

async fn by_handler(consumer: ClusterConsumer, taking: Taking) -> Result<(), Failed> {
    let (taking, count) = (Arc::new(taking), Arc::new(Mutex::new(0_u64)));
    let handler = move |received: ltq_client::ClusterReceived| {
        let taking = taking.clone();
        let turn = {
            let mut count = count.lock();
            *count += 1;
            *count
        };
        async move {
            let node = received.node.as_str();
            taking.note(node, &received.message, received.offset.0, received.attempt)?;
            if turn.is_multiple_of(5) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            match turn % 50 {
                0 => Err(io::Error::other("another time")),
                _ => Ok(()),
            }
        }
    };
    consumer.for_each(HANDLERS, handler).await?;
    Ok(())
}

/// What somebody does with what comes, and where that is written down.
pub(super) struct Taking {
    topic: String,
    way: Take,
    journal: Arc<Journal>,
    held: Vec<(String, Delivery)>,
    delayed: Delayed,
    count: u64,
}

/// A message that was taken.
struct Taken {
    node: String,
    offset: u64,
    body: String,
    attempt: u32,
    at: u64,
}

impl Taking {
    pub(super) fn new(topic: &str, way: Take, journal: Arc<Journal>) -> Self {
        let (held, delayed) = (Vec::new(), Delayed::default());
        Self { topic: topic.to_owned(), way, journal, held, delayed, count: 0 }
    }

    /// Some are given back, and some answered late, so that there is always something in flight.
    pub(super) async fn take(&mut self, node: &str, delivery: Delivery) -> io::Result<()> {
        let (offset, now) = (delivery.offset().0, uptime_ms()?);
        if let Some(asked_ms) = self.delayed.is_early(node, offset) {
            let (topic, body) = (&self.topic, text(&delivery.message.body));
            self.journal.write(&format!("E\t{topic}\t{body}\t{node}\t{asked_ms}\t{now}"))?;
        }
        self.note(node, &delivery.message, offset, delivery.attempt())?;
        self.count += 1;
        match self.count % 50 {
            0 if self.count.is_multiple_of(100) => self.delayed.give_back(node, delivery)?,
            0 => drop(delivery.requeue(Duration::from_millis(100))),
            1..=5 => self.held.push((node.to_owned(), delivery)),
            _ => drop(delivery.ack()),
        }
        if self.held.len() > HELD_MAX { self.answer().await } else { Ok(()) }
    }

    /// Writes down that a message was taken.
    fn note(&self, node: &str, message: &Message, offset: u64, attempt: u32) -> io::Result<Taken> {
        let (topic, way, body) = (&self.topic, self.way, text(&message.body));
        let id = message.headers.get(ID_HEADER);
        let (id, at) = (id.map(text).unwrap_or_default(), uptime_ms()?);
        self.journal.write(&format!(
            "G\t{topic}\t{body}\t{node}\t{offset}\t{id}\t{attempt}\t{at}\t{way}"
        ))?;
        self.journal.note(topic, body.clone());
        Ok(Taken { node: node.to_owned(), offset, body, attempt, at })
    }

    fn note_all(&self, batch: &ClusterBatch) -> io::Result<Vec<Taken>> {
        let node = batch.node().as_str();
        let note = |received: Result<ltq_client::Received, _>| {
            let received = received.map_err(io::Error::other)?;
            self.note(node, &received.message, received.offset.0, received.attempt)
        };
        batch.iter().map(note).collect()
    }

    /// Writes down those acks that a node has confirmed.
    fn acks(&self, taken: Vec<Taken>, are_confirmed: bool) -> io::Result<()> {
        for Taken { node, offset, body, attempt, at } in taken.into_iter().filter(|_| are_confirmed)
        {
            let topic = &self.topic;
            self.journal
                .write(&format!("A\t{topic}\t{body}\t{node}\t{offset}\t{attempt}\t{at}"))?;
        }
        Ok(())
    }

    /// Acks what is held, and writes down which of it their nodes have confirmed.
    pub(super) async fn answer(&mut self) -> io::Result<()> {
        let (topic, journal) = (&self.topic, &self.journal);
        let acks = self.held.drain(..).map(|(node, delivery)| async move {
            let body = text(&delivery.message.body);
            let (offset, attempt) = (delivery.offset().0, delivery.attempt());
            // Before it: its node may be killed right behind the confirm, which is heard of later.
            let now = uptime_ms()?;
            if delivery.ack_confirmed().await.is_ok() {
                journal
                    .write(&format!("A\t{topic}\t{body}\t{node}\t{offset}\t{attempt}\t{now}"))?;
            }
            Ok(())
        });
        join_all(acks).await.into_iter().collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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
    fn give_back(&mut self, node: &str, delivery: Delivery) -> io::Result<()> {
        let (node, offset) = (node.to_owned(), delivery.offset().0);
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
pub(super) const QUIET: Duration = Duration::from_millis(500);
/// How many may be held.
const HELD_MAX: usize = 20;
/// How many are taken together.
const BATCH_MAX: usize = 30;
/// How many handlers run at a time.
const HANDLERS: usize = 8;
