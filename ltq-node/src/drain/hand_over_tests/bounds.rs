//! What a hand-over takes of memory and time.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_hand_over_has_in_memory_is_bounded_however_many_channels_there_are() {
    let field = Field::new().await;
    field.other("b").await;
    let names: Vec<_> = (0..40).map(|index| format!("c{index}")).collect();
    for topic in ["one", "two"] {
        for name in &names {
            channel(&field.here, topic, name).await;
        }
        publish(&field.here, topic, &vec![Message::new(vec![0; 5_000]); 1_500]).await;
    }
    let _going = field.hand_over(&["b"]);
    let in_flight = async || {
        let topics = field.here.stats().await.topics;
        let of = |it: &TopicStats| it.channels.iter().map(|it| it.in_flight).sum::<u64>();
        topics.iter().map(of).collect::<Vec<_>>()
    };
    at_once(async || in_flight().await.iter().all(|it| *it > 0)).await;
    field.line.mute_answers_of("b");
    // More than was asked for once does not come.
    sleep(Duration::from_secs(2)).await;
    for (topic, count) in field.here.stats().await.topics.iter().zip(in_flight().await) {
        let consumers = topic.channels.iter().filter(|it| it.consumers > 0).count();
        assert_eq!(consumers, CHANNELS_MAX);
        let most = (4 << 20) + consumers as u64 * 5_000;
        assert!(count * 5_000 <= most, "{}: {count} of 5,000 bytes", topic.topic);
    }
}

#[tokio::test(start_paused = true)]
async fn large_messages_are_two_of_each_channel_beside_4_mib() {
    for bytes in [100_000, 140_000, 400_000] {
        let field = Field::new().await;
        field.other("b").await;
        for index in 0..CHANNELS_MAX {
            channel(&field.here, "orders", &format!("c{index}")).await;
        }
        publish(&field.here, "orders", &vec![Message::new(vec![0; bytes]); 60]).await;
        let _going = field.hand_over(&["b"]);
        let in_flight = async || {
            let topic = shown(&field.here, "orders").await.unwrap();
            topic.channels.iter().map(|it| it.in_flight).sum::<u64>()
        };
        at_once(async || in_flight().await > 0).await;
        field.line.mute_answers_of("b");
        sleep(Duration::from_secs(2)).await;
        let held = in_flight().await * bytes as u64;
        // Of those that are larger than a channel's part of it there is nothing beside.
        let beside = if bytes > 128 << 10 { 0 } else { 4 << 20 };
        let most = beside + (2 * CHANNELS_MAX * bytes) as u64;
        assert!((CHANNELS_MAX * bytes) as u64 <= held && held <= most, "{held} of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_costs_its_topics_a_few_seconds_all_together() {
    let field = Field::new().await;
    let others = [field.other("b").await, field.other("c").await];
    for index in 0..16 {
        channel(&field.here, &format!("t{index}"), "a").await;
        publish(&field.here, &format!("t{index}"), &numbers(0..1)).await;
    }
    let _going = field.hand_over(&["b", "c"]);
    field.until_empty().await;
    for other in &others {
        assert!(!other.stats().await.topics.is_empty(), "both are connected");
    }
    // Its connection is lost, and no other is made.
    field.line.lose();
    field.line.mute_at("b");
    field.here.set_draining(false);
    for index in 0..600 {
        channel(&field.here, &format!("u{index}"), "a").await;
        publish(&field.here, &format!("u{index}"), &numbers(0..1)).await;
    }
    field.here.set_draining(true);
    let began = tokio::time::Instant::now();
    field.until_empty().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
