//! What goes, goes whole, once and in order.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_message_is_the_same_byte_for_byte_and_in_its_place(
        mut messages in prop::collection::vec(any_message(), 1..60),
        at in any::<prop::sample::Index>(),
    ) {
        // As large as a message may be, and one with nothing in it.
        let beside = 1;
        let largest = settings().message_bytes_max as usize - beside;
        messages.insert(at.index(messages.len()), Message::new(vec![7; largest]));
        messages.insert(at.index(messages.len()), Message::default());
        let (taken, weak) = paused(async {
            let field = Field::new().await;
            let other = field.other("b").await;
            channel(&field.here, "orders", "a").await;
            publish(&field.here, "orders", &messages).await;
            let _going = field.hand_over(&["b"]);
            field.until_empty().await;
            let weak = of_channel(&other, "orders", "a").await.delivered;
            (take(&other, "orders", "a").await, weak)
        });
        prop_assert_eq!((taken, weak), (messages, 0));
    }

    #[test]
    fn what_any_channel_has_still_to_settle_goes_once_and_in_the_order_of_the_topic(
        acked in prop::collection::vec(prop::collection::btree_set(0_u64..60, 0..60), 1..5),
    ) {
        let wanted: Vec<_> = (0..60).filter(|it| acked.iter().any(|of| !of.contains(it))).collect();
        let wanted: Vec<_> = wanted.into_iter().map(|it| Message::new(it.to_string())).collect();
        paused(async {
            let field = Field::new().await;
            let other = field.other("b").await;
            let names: Vec<_> = (0..acked.len()).map(|index| format!("c{index}")).collect();
            for name in &names {
                channel(&field.here, "orders", name).await;
            }
            publish(&field.here, "orders", &numbers(0..60)).await;
            for (name, acked) in names.iter().zip(&acked) {
                ack(&field.here, "orders", name, 60, acked).await;
            }
            let _going = field.hand_over(&["b"]);
            field.until_empty().await;
            for name in &names {
                if !wanted.is_empty() {
                    assert_eq!(take(&other, "orders", name).await, wanted, "{name}");
                }
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_anew() {
    let field = Field::new().await;
    let other = field.other("b").await;
    channel(&field.here, "orders", "a").await;
    publish(&field.here, "orders", &numbers(0..1)).await;
    for attempt in 1..4 {
        let mut consumer = field.here.subscribe("orders", "a", Default::default()).await.unwrap();
        let received = consumer.receive().await.unwrap().unwrap();
        assert_eq!(received.attempt, attempt);
        consumer.requeue(received.tag, Duration::ZERO).unwrap();
    }
    let _going = field.hand_over(&["b"]);
    field.until_empty().await;
    // It asks for the first attempt.
    assert_eq!(take(&other, "orders", "a").await, numbers(0..1));
}

/// Takes a while to read the first 30 messages of a log, and none to read others.
struct Slow(MemoryStore, Duration);

#[async_trait]
impl StoreLayer for Slow {
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
        if from.0 < 30 { None } else { self.0.try_read(log, from, limits) }
    }

    async fn read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        sleep(self.1).await;
        self.0.read(log, from, limits).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_read_slowly_is_waited_for_and_comes_before_what_is_behind_it() {
    for millis in [300, 2_000, 25_000] {
        let slow = Slow(MemoryStore::new(64 << 20), Duration::from_millis(millis));
        let field = Field::over(slow).await;
        let other = field.other("b").await;
        for name in ["ahead", "behind"] {
            channel(&field.here, "orders", name).await;
        }
        publish(&field.here, "orders", &numbers(0..60)).await;
        ack(&field.here, "orders", "ahead", 60, &(0..30).collect()).await;
        let _going = field.hand_over(&["b"]);
        if millis > 10_000 {
            until("it is told", async || !field.here.stats().await.held_up.is_empty()).await;
            let held = field.here.stats().await.held_up[0].to_string();
            let wanted = "orders from 0 on: channel behind has messages that cannot be read yet";
            assert_eq!(held, wanted);
            assert!(shown(&other, "orders").await.is_none(), "nothing overtakes it");
        }
        field.until_empty().await;
        for name in ["ahead", "behind"] {
            assert_eq!(take(&other, "orders", name).await, numbers(0..60), "{name}, {millis}");
        }
        assert!(field.here.stats().await.held_up.is_empty(), "{millis}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_more_than_16_channels_those_furthest_behind_go_first_and_each_message_once() {
    let field = Field::new().await;
    let other = field.other("b").await;
    let names: Vec<_> = (0..20).map(|index| format!("c{index}")).collect();
    for name in &names {
        channel(&field.here, "orders", name).await;
    }
    publish(&field.here, "orders", &numbers(0..60)).await;
    for (index, name) in (0..).zip(&names) {
        let acked = match index {
            0..16 => (0..index).chain(30..40).collect(),
            _ => (0..16 + index).collect(),
        };
        ack(&field.here, "orders", name, 60, &acked).await;
    }
    let _going = field.hand_over(&["b"]);
    field.until_empty().await;
    // What the first 16 lack comes when they are through, behind the end of the topic.
    let wanted = [numbers(0..30), numbers(40..60), numbers(32..40)].concat();
    for name in &names {
        assert_eq!(take(&other, "orders", name).await, wanted, "{name}");
    }
}
