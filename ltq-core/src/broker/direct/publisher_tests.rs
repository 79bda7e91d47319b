//! A publisher whose topic says what the test wants it to say.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::{
    broker::{
        budget::Budget,
        inbox::Inbox,
        outbox::Outbox,
        testing::{self, topic},
        together::Together,
    },
    model::SessionId,
};

fn publisher() -> Publisher {
    let (shared, _) = testing::shared(true);
    let link = Link {
        shared,
        inbox: Inbox::new(topic("t"), Arc::new(Budget::new(usize::MAX)), 8192),
        session: SessionId(1),
        outbox: Outbox::new(Together::of(Arc::new(Budget::new(usize::MAX)))),
        outgoing: VecDeque::new(),
    };
    Publisher {
        link,
        durability: None,
        last_sequence: 0,
        next: 1,
        unconfirmed: VecDeque::new(),
        unconfirmed_bytes: 0,
        rewind: None,
        ended: None,
    }
}

fn records() -> Records {
    Records::encode([&Message::new("x")])
}

fn says(publisher: &Publisher, reply: Reply) {
    publisher.link.outbox.push(Outgoing::Reply(reply));
}

fn refusal(code: RefusalCode) -> Refusal {
    Refusal::new(code, "a test")
}

async fn code<T: std::fmt::Debug>(
    call: impl Future<Output = Result<T, DirectError>>,
) -> RefusalCode {
    match timeout(Duration::from_secs(1), call).await.expect("it does not hang") {
        Err(DirectError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn promise_15_a_publisher_that_is_fenced_behind_a_refused_publish_says_so_and_does_not_hang()
{
    let mut publisher = publisher();
    for _ in 0..2 {
        publisher.enqueue(records()).await.unwrap();
    }
    let refusal_of = |sequence, code| Reply::PublishRefused {
        handle: 0,
        sequence,
        count: 1,
        refusal: refusal(code),
    };
    says(&publisher, refusal_of(1, RefusalCode::StoreFull));
    says(&publisher, Reply::ProducerRefused { handle: 0, refusal: refusal(RefusalCode::Fenced) });
    says(&publisher, refusal_of(2, RefusalCode::Fenced));
    assert_eq!(code(publisher.confirmed()).await, RefusalCode::StoreFull);
    assert_eq!(code(publisher.enqueue(records())).await, RefusalCode::Fenced);
    for _ in 0..3 {
        assert_eq!(code(publisher.enqueue(records())).await, RefusalCode::Fenced);
        assert_eq!(code(publisher.publish(&Message::new("x"))).await, RefusalCode::Fenced);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_publish_sets_the_sequence_back_once_all_behind_it_are_answered() {
    let mut publisher = publisher();
    for _ in 0..3 {
        publisher.enqueue(records()).await.unwrap();
    }
    let ranges = vec![SequenceRange { sequence: 1, count: 1, offset: Some(Offset(0)) }];
    says(&publisher, Reply::Confirmed { handle: 0, ranges, durability: Durability::Memory });
    for (sequence, code) in [(2, RefusalCode::StoreFull), (3, RefusalCode::SequenceGap)] {
        let refusal = refusal(code);
        says(&publisher, Reply::PublishRefused { handle: 0, sequence, count: 1, refusal });
    }
    assert_eq!(publisher.confirmed().await.unwrap().0[0].sequence, 1);
    assert_eq!(code(publisher.confirmed()).await, RefusalCode::StoreFull);
    // The next one is not sent while the answer to the third is missing.
    assert_eq!(code(publisher.enqueue(records())).await, RefusalCode::SequenceGap);
    assert_eq!(publisher.enqueue(records()).await.unwrap(), 2);
    assert_eq!(publisher.unconfirmed_bytes, records().byte_len());
}
