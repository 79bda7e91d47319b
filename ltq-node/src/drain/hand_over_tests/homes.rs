//! Where an order by key goes on: each message is given to the node that an ordered producer would give it to.

use ltq_client::{NodeId, ordered_home};

use super::*;

fn ids(names: &[&str]) -> Vec<NodeId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// So many messages of each of some keys, in turns, and one without a key after each turn.
fn keyed(keys: u64, of_each: u64) -> Vec<Message> {
    let turn = |number: u64| {
        let with_key = move |key: u64| {
            Message::new(format!("{key}/{number}")).with_key(key.to_be_bytes().to_vec())
        };
        (0..keys).map(with_key).chain([Message::new(format!("none/{number}"))])
    };
    (0..of_each).flat_map(turn).collect()
}

/// What of `all` each of these nodes is to have: what an ordered producer would give it.
fn of_each_home(all: &[Message], nodes: &[NodeId]) -> Vec<Vec<Message>> {
    let topic = "orders".parse().unwrap();
    let is_of = |message: &Message, node: &NodeId| {
        ordered_home(&topic, message.key.as_deref(), nodes) == Some(node)
    };
    let of = |node| all.iter().filter(|it| is_of(it, node)).cloned().collect();
    nodes.iter().map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn promise_5_each_message_goes_in_order_to_the_node_of_its_key() {
    // Those without a name of their own are known by their addresses, as a registry is told.
    let named = |name: &str| BrokerSettings { node: name.to_owned(), ..settings() };
    let cases = [
        (settings(), settings(), ["in-process://b", "in-process://c"]),
        (named("east"), named("west"), ["east", "west"]),
    ];
    for (of_b, of_c, names) in cases {
        let field = Field::new().await;
        let others = [
            field.other_with("b", of_b, 64 << 20).await,
            field.other_with("c", of_c, 64 << 20).await,
        ];
        channel(&field.here, "orders", "a").await;
        let all = keyed(40, 25);
        publish(&field.here, "orders", &all).await;
        // In whatever order they are named.
        let _going = field.hand_over(&["c", "b"]);
        field.until_empty().await;
        let wanted = of_each_home(&all, &ids(&names));
        for (other, wanted) in others.iter().zip(wanted) {
            assert!(wanted.len() > 100, "{} by {names:?}: both are to have some", wanted.len());
            assert_eq!(take(other, "orders", "a").await, wanted, "{names:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_a_node_that_cannot_be_reached_go_to_the_next_of_each() {
    let field = Field::new().await;
    let others = [field.other("b").await, field.other("c").await];
    channel(&field.here, "orders", "a").await;
    let all = keyed(40, 25);
    publish(&field.here, "orders", &all).await;
    let _going = field.hand_over(&["b", "c", "nobody"]);
    field.until_empty().await;
    let wanted = of_each_home(&all, &ids(&["in-process://b", "in-process://c"]));
    for (other, wanted) in others.iter().zip(wanted) {
        assert_eq!(take(other, "orders", "a").await, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_node_refuses_the_others_have_and_no_order_of_theirs_is_touched() {
    let field = Field::new().await;
    let small = BrokerSettings { message_bytes_max: 10_000, ..settings() };
    let (small, other) = (field.other_with("b", small, 64 << 20).await, field.other("c").await);
    channel(&field.here, "orders", "a").await;
    let nodes = ids(&["in-process://b", "in-process://c"]);
    let topic = "orders".parse().unwrap();
    let mut all = keyed(40, 25);
    // Right in the middle, and of a key that is the small one's.
    let of_small =
        |key: &u64| ordered_home(&topic, Some(&key.to_be_bytes()), &nodes) == nodes.first();
    let key = (0..40_u64).find(of_small).unwrap();
    let large = Message::new(vec![0; 20_000]).with_key(key.to_be_bytes().to_vec());
    all.insert(500, large.clone());
    publish(&field.here, "orders", &all).await;
    let _going = field.hand_over(&["b", "c"]);
    field.until_empty().await;
    let (of_b, of_c) = (take(&small, "orders", "a").await, take(&other, "orders", "a").await);
    assert!(of_c.contains(&large));
    let mut found: Vec<_> = of_b.iter().chain(&of_c).collect();
    let mut wanted: Vec<_> = all.iter().collect();
    found.sort_by(|a, b| (&a.key, &a.body).cmp(&(&b.key, &b.body)));
    wanted.sort_by(|a, b| (&a.key, &a.body).cmp(&(&b.key, &b.body)));
    assert_eq!(found, wanted, "each of them once");
    // On each node a key's messages are in their order, and what is the other one's is there alone.
    let place = |message: &Message| all.iter().position(|it| it == message).unwrap();
    for taken in [&of_b, &of_c] {
        for key in 0..40_u64 {
            let of_key = taken.iter().filter(|it| it.key.as_deref() == Some(&key.to_be_bytes()));
            assert!(of_key.map(place).is_sorted(), "key {key}");
        }
    }
    assert!(of_b.iter().all(|it| it.key.is_none() || of_each_home(&all, &nodes)[0].contains(it)));
}
