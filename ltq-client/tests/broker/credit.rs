//! Credit that changes while a consumer runs.

use std::collections::VecDeque;

use ltq_client::{Consumer, Credit, CreditUse, Delivery, Message};

use super::namespace;
use crate::node::{Node, within};

const COUNT: u64 = 10_000;

const fn credit(messages: u64) -> Credit {
    Credit { messages, bytes: 16 << 20 }
}

/// A node on whose topic `t` so many wait, and a client of it.
async fn with_backlog() -> (Node, ltq_client::Client) {
    let node = Node::over(namespace()).await;
    let client = node.client().await;
    let producer = within(client.producer("t")).await.unwrap();
    for first in (0..COUNT).step_by(500) {
        let messages: Vec<_> = (first..first + 500).map(|n| Message::new(n.to_string())).collect();
        within(producer.send_batch(&messages)).await.unwrap();
    }
    (node, client)
}

/// Takes everything that came.
async fn take(consumer: &mut Consumer, held: &mut VecDeque<Delivery>) {
    while consumer.credit_use().unsettled.messages > held.len() as u64 {
        held.push_back(within(consumer.next()).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn promise_9_credit_holds_however_it_changes_while_10_000_wait_and_nothing_is_lost() {
    let (_node, client) = with_backlog().await;
    let builder = client.consumer_builder("t", "c").credit(1_000, 16 << 20);
    let mut consumer = within(builder.open()).await.unwrap();
    let (mut held, mut acked) = (VecDeque::new(), Vec::new());
    for size in [1_000, 1, 400, 1, 2_500, 3, 1_000] {
        consumer.set_credit(credit(size));
        // Until the broker has answered, and no more are held than there may be.
        within(async {
            loop {
                take(&mut consumer, &mut held).await;
                let CreditUse { open, unsettled, .. } = consumer.credit_use();
                if open.messages + unsettled.messages <= size {
                    break;
                }
                match held.pop_front() {
                    Some(delivery) if unsettled.messages > size => {
                        acked.push(delivery.offset().0);
                        delivery.ack().unwrap();
                    }
                    Some(delivery) => held.push_front(delivery),
                    None => {}
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        for _ in 0..100 {
            take(&mut consumer, &mut held).await;
            let CreditUse { open, unsettled, .. } = consumer.credit_use();
            let both = open.messages + unsettled.messages;
            assert!(both <= size, "{both} are open or held of {size}");
            let delivery = match held.pop_front() {
                Some(delivery) => delivery,
                None => within(consumer.next()).await.unwrap().unwrap(),
            };
            assert_eq!(delivery.attempt(), 1);
            acked.push(delivery.offset().0);
            within(delivery.ack_confirmed()).await.unwrap();
        }
        let shown = within(client.admin().show_topic("t")).await.unwrap();
        let in_flight = shown.channels[0].in_flight;
        assert!(in_flight <= size, "{in_flight} are in flight, with credit for {size}");
    }
    while (acked.len() as u64) < COUNT {
        let delivery = match held.pop_front() {
            Some(delivery) => delivery,
            None => within(consumer.next()).await.unwrap().unwrap(),
        };
        acked.push(delivery.offset().0);
        delivery.ack().unwrap();
    }
    assert_eq!(acked, (0..COUNT).collect::<Vec<_>>(), "promise 4: once each, in order");
    within(consumer.close()).await.unwrap();
    let shown = within(client.admin().show_topic("t")).await.unwrap();
    let channel = &shown.channels[0];
    assert_eq!((channel.acked, channel.redelivered, channel.stale), (COUNT, 0, 0));
}

#[tokio::test]
async fn credit_that_one_consumer_gives_up_leaves_its_messages_to_the_other() {
    let (_node, client) = with_backlog().await;
    let open = || client.consumer_builder("t", "c").credit(2_500, 16 << 20).open();
    let mut idle = within(open()).await.unwrap();
    // It has taken its share, and gives all of it back but one, which it keeps.
    idle.set_credit(credit(1));
    let kept = within(idle.next()).await.unwrap().unwrap();
    let mut busy = within(open()).await.unwrap();
    let mut seen = 1;
    while seen < COUNT {
        tokio::select! {
            delivery = idle.next() => drop(delivery.unwrap().unwrap()),
            batch = within(busy.next_batch(1_000)) => {
                let batch = batch.unwrap().unwrap();
                seen += batch.len() as u64;
                batch.ack_all().unwrap();
            }
        }
    }
    within(kept.ack_confirmed()).await.unwrap();
    within(busy.close()).await.unwrap();
    let shown = within(client.admin().show_topic("t")).await.unwrap();
    assert_eq!((shown.channels[0].acked, shown.channels[0].in_flight), (COUNT, 0));
}
