//! Nodes that are elsewhere, or gone for a while.

use super::*;

#[tokio::test(start_paused = true)]
async fn of_a_node_that_moves_only_one_at_a_time_takes() {
    let namespace = InProcess::new();
    let field = Field::from(&namespace, "*", "", 10).await;
    for _ in 0..3 {
        field.publish("orders").await;
    }
    // What was sent to a destination that is not there is waited for.
    let taken = async |field: &Field| {
        field.channel("orders").await.is_some_and(|channel| channel.in_flight == 3)
    };
    field.until("the messages", taken).await;
    let by = tokio::time::Instant::now() + field.plan.stop_timeout * 3;
    field.nodes.send_replace(node_at(&["a2"]));
    while tokio::time::Instant::now() < by {
        let consumers = field.channel("orders").await.unwrap().consumers;
        assert!(consumers <= 1, "{consumers} at once");
        sleep(Duration::from_millis(10)).await;
    }
    field.start_b(&namespace).await;
    field.until_acked("orders", 3).await;
    assert_eq!(field.end("orders").await, 3, "each of them once");
    field.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_node_that_moves_while_answers_are_waited_for_only_one_at_a_time_takes() {
    let namespace = InProcess::new();
    let field = Field::from(&namespace, "*", "", 10).await;
    let b = Field::start(&namespace, &["b"]).await;
    field.publish("orders").await;
    field.until_acked("orders", 1).await;
    b.stop(Duration::from_secs(20)).await.unwrap();
    for _ in 0..3 {
        field.publish("orders").await;
    }
    let sent = async |field: &Field| {
        let all = field.plan.board.all();
        all.iter().any(|(.., figures)| figures.unconfirmed() == 3)
    };
    field.until("what is on its way", sent).await;
    let moved = tokio::time::Instant::now();
    field.nodes.send_replace(node_at(&["a2"]));
    let [mut least, mut waited] = [u64::MAX, 0];
    while moved.elapsed() < field.plan.stop_timeout * 3 {
        let channel = field.channel("orders").await.unwrap();
        assert!(channel.consumers <= 1, "{} at once", channel.consumers);
        if moved.elapsed() < field.plan.stop_timeout / 2 {
            least = least.min(channel.consumers);
            waited = waited.max(channel.in_flight);
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((least, waited), (1, 3), "the first one waited for its answers");
    field.stop().await;
}

#[tokio::test]
async fn a_node_that_is_elsewhere_is_taken_from_there() {
    let field = Field::new("*", "", 10).await;
    field.nodes.send_replace(node_at(&["nowhere"]));
    let trouble = async |field: &Field| {
        let nodes = field.plan.sight.nodes().unwrap_or_default();
        nodes.values().flatten().any(|why| why.contains("nowhere"))
    };
    field.until("the word of it", trouble).await;
    field.publish("orders").await;
    field.nodes.send_replace(node_at(&["a2"]));
    field.until_acked("orders", 1).await;
    let none = async |field: &Field| said(field).is_ok();
    field.until("that it is ready", none).await;
    field.stop().await;
}

#[tokio::test]
async fn what_was_forwarded_is_known_when_a_node_has_moved_or_comes_back() {
    let field = Field::new("*", "", 10).await;
    let admin = field.a.admin();
    admin.create_channel("orders", "check", StartAt::Earliest).await.unwrap();
    for _ in 0..20 {
        field.publish("orders").await;
    }
    field.until_acked("orders", 20).await;
    for places in [&["a2"][..], &["a", "a2"]] {
        field.nodes.send_replace(node_at(&[]));
        let gone = async |field: &Field| field.channel("orders").await.unwrap().consumers == 0;
        field.until("its end", gone).await;
        // As though no ack had come there.
        admin.delete_channel("orders", "bridge.r").await.unwrap();
        field.nodes.send_replace(node_at(places));
        field.until_acked("orders", 20).await;
    }
    // The same addresses in another order are the same place.
    let shown = field.plan.board.all().remove(0).2;
    field.nodes.send_replace(node_at(&["a2", "a"]));
    field.publish("orders").await;
    field.until_acked("orders", 21).await;
    assert!(Arc::ptr_eq(&shown, &field.plan.board.all()[0].2), "nothing begins anew");
    assert_eq!(field.end("orders").await, 21);
    let counts = field.counts();
    assert_eq!((counts.forwarded, counts.skipped_repeat), (21, 40));
    field.stop().await;
}
