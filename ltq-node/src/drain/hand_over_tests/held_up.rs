//! What no node takes.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_message_that_no_node_takes_is_told_and_holds_up_what_is_behind_it_alone() {
    let field = Field::new().await;
    let small = BrokerSettings { message_bytes_max: 10_000, ..settings() };
    let other = field.other_with("b", small, 64 << 20).await;
    for topic in ["orders", "other", "alone"] {
        channel(&field.here, topic, "a").await;
    }
    let large = || vec![Message::new(vec![0; 20_000])];
    publish(&field.here, "other", &numbers(0..3)).await;
    publish(&field.here, "alone", &large()).await;
    // All of them come together.
    let client = Client::builder().transports(Transports::new().with(field.namespace.clone()));
    let client = client.server("in-process://here").connect().await.unwrap();
    let all = [numbers(0..3), large(), numbers(4..6)].concat();
    client.producer("orders").await.unwrap().send_batch(all).await.unwrap();
    let known = Known::new(&field.here);
    let _going = field.hand_over_by(&["b"], &known);
    until("it is told", async || field.here.stats().await.held_up.len() == 2).await;
    let mut held = field.here.stats().await.held_up;
    assert_eq!(held.remove(0).topic.as_str(), "alone");
    let told = held.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let named = ["orders from 3 on", "20001 bytes", "in-process://b", "10000", "message_too_large"];
    assert!(named.iter().all(|name| told.contains(name)), "{told}");
    assert_eq!((held.len(), held[0].offset.0, held[0].bytes), (1, 3, 20_001));
    sleep(Duration::from_secs(60)).await;
    // Those before it went, once, and other topics do not wait.
    assert_eq!(take(&other, "orders", "a").await, numbers(0..3));
    assert_eq!(take(&other, "other", "a").await, numbers(0..3));
    assert_eq!(field.here.stats().await.backlog(), 4);
    // They are consumed here: what was behind one goes.
    ack(&field.here, "alone", "a", 1, &BTreeSet::from([0])).await;
    let mut consumer = field.here.subscribe("orders", "a", Default::default()).await.unwrap();
    loop {
        let received = consumer.receive().await.unwrap().unwrap();
        if received.offset.0 == 3 {
            consumer.ack(received.tag).unwrap();
            break;
        }
    }
    drop(consumer);
    field.until_empty().await;
    assert_eq!(take(&other, "orders", "a").await, numbers(4..6));
    known.held.look(&field.here.stats().await, true);
    assert!(field.here.stats().await.held_up.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_no_node_takes_is_shown_while_a_consumer_has_it() {
    let field = Field::new().await;
    let small = BrokerSettings { message_bytes_max: 10_000, ..settings() };
    field.other_with("b", small, 64 << 20).await;
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &[Message::new(vec![0; 20_000])]).await;
    let known = Known::new(&field.here);
    let _going = field.hand_over_by(&["b"], &known);
    let look = async || {
        let stats = field.here.stats().await;
        known.held.look(&stats, true);
        field.here.stats().await.held_up.len()
    };
    until("it is told", async || look().await == 1).await;
    let mut consumer = field.here.subscribe("orders", "a", Default::default()).await.unwrap();
    let received = consumer.receive().await.unwrap().unwrap();
    for _ in 0..50 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(look().await, 1, "it may come back");
    }
    consumer.ack(received.tag).unwrap();
    until("it is told no more", async || look().await == 0).await;
}

/// Its third message is none.
struct Junk(MemoryStore);

impl Junk {
    fn spoil(mut batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
        for batch in &mut batches {
            let records = &batch.records;
            let mut payload = records.payload().to_vec();
            let at = 2_u64.checked_sub(batch.first.0).filter(|at| *at < records.count() as u64);
            if let Some(at) = at {
                let before: usize =
                    (0..at as usize).map(|index| records.encoded(index).unwrap().len()).sum();
                payload[before] = 0xff;
                let (base, table) = (records.base(), records.table().clone());
                batch.records = ltq_core::Records::from_parts(base, table, payload.into()).unwrap();
            }
        }
        batches
    }
}

#[async_trait]
impl StoreLayer for Junk {
    type Inner = MemoryStore;

    fn inner(&self) -> &MemoryStore {
        &self.0
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        Some(self.0.try_read(log, from, limits)?.map(Self::spoil))
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        self.0.read(log, from, limits).await.map(Self::spoil)
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_read_is_told_and_holds_up_what_is_behind_it() {
    let field = Field::over(Junk(MemoryStore::new(1 << 20))).await;
    let other = field.other("b").await;
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &numbers(0..5)).await;
    let _going = field.hand_over(&["b"]);
    until("it is told", async || !field.here.stats().await.held_up.is_empty()).await;
    let told = field.here.stats().await.held_up[0].to_string();
    assert!(
        told.starts_with("orders from 2 on, a message of 2 bytes: it cannot be read"),
        "{told}"
    );
    sleep(Duration::from_secs(60)).await;
    assert_eq!(take(&other, "orders", "a").await, numbers(0..2));
    assert_eq!(field.here.stats().await.backlog(), 3);
}
