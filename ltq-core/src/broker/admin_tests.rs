//! Operators' requests that are given up leave nothing behind.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::broker::testing;

#[tokio::test(start_paused = true)]
async fn promise_9_a_request_that_is_given_up_leaves_nothing_with_its_topic() {
    let (shared, _gate) = testing::shared(true);
    // A topic whose task never has its turn.
    let inbox = Inbox::new(testing::topic("t"), shared.published.clone(), 8192);
    let given_up = timeout(Duration::from_secs(1), ask(&shared, &inbox, TopicAction::Ensure)).await;
    assert!(given_up.is_err());
    let mut left = Vec::new();
    inbox.close(|entry| left.push(entry));
    let [Entry::Attach(attached, _), Entry::Event(asked), Entry::Event(ended)] = &left[..] else {
        panic!("{left:?}");
    };
    assert!(matches!(asked, Event::Admin { request, .. } if request.session == *attached));
    assert_eq!(*ended, Event::SessionEnded { session: *attached });
}

#[tokio::test(start_paused = true)]
async fn stats_wait_for_no_store_and_leave_out_what_ends_meanwhile() {
    let (shared, gate) = testing::shared(true);
    for name in ["b", "a", "c"] {
        let create =
            AdminRequest::CreateTopic { topic: testing::topic(name), options: Default::default() };
        assert_eq!(perform(&shared, create).await, Ok(AdminResponse::Done));
    }
    gate.send_replace(false);
    // A deletion is under way, and waits for the store.
    let delete = AdminRequest::DeleteTopic { topic: testing::topic("c") };
    assert!(timeout(Duration::from_secs(1), perform(&shared, delete)).await.is_err());
    let names = |stats: NodeStats| {
        stats.topics.into_iter().map(|topic| topic.topic.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(stats(&shared).await), ["a", "b", "c"]);
    // The stats are asked for, and then the topic goes before it has answered.
    let asking = stats(&shared);
    let mut asking = std::pin::pin!(asking);
    assert!(futures::poll!(&mut asking).is_pending());
    for inbox in shared.inboxes().iter().filter(|inbox| inbox.topic().as_str() == "c") {
        let mut left = Vec::new();
        inbox.close(|entry| left.push(entry));
        for entry in left {
            if let Entry::Show(outbox) = entry {
                let result = Err(gone(inbox.topic(), false));
                outbox.push(Outgoing::Own(Reply::Admin { request: 0, result }));
            }
        }
    }
    assert_eq!(names(asking.await), ["a", "b"]);
}
