//! Whatever a peer sends: what it makes the broker keep is counted once and given back once.

use std::{collections::VecDeque, task::Waker};

use proptest::{collection::vec, prelude::*};
use tokio::sync::watch;

use super::*;
use crate::{
    Address, AdminRequest, Message, Peer, Settlement, Tag, TagRange, Verdict,
    broker::testing::{self, topic},
};

/// The handles of a session whose hello was accepted.
fn greeted(shared: &Arc<Shared>, session: SessionId, outbox: &Arc<Outbox>) -> Handles {
    let peer = Peer { address: Address::new("in-process", "peer"), identity: None };
    let standing = Standing::new(shared.clone(), outbox.together().clone(), &peer);
    let mut handles = Handles::new(standing, shared.clone(), session, outbox.clone());
    handles.standing().admitted(shared.admit(&peer, None, None).unwrap());
    handles
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        handle: u32,
        topic: u8,
        name: Option<u8>,
        epoch: Option<u64>,
    },
    Publish {
        handle: u32,
        sequence: Sequence,
        count: u8,
        bad: bool,
    },
    Close {
        handle: u32,
        forget: bool,
    },
    /// Small publishes one behind the other, as from a pipeline.
    PublishRun {
        handle: u32,
        back: u64,
        count: u8,
    },
    Subscribe {
        handle: u32,
        topic: u8,
    },
    Unsubscribe {
        handle: u32,
    },
    Settle {
        handle: u32,
        tags: TagRange,
    },
    /// What was gathered goes to the topics, as at the end of a read.
    HandOver,
    /// Topics have their turns, and the session hears what they say.
    Run,
    Gate(bool),
    Delete {
        topic: u8,
    },
    NewSession,
}

#[derive(Clone, Debug)]
enum Sequence {
    Next(u64),
    Any(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let handle = 1..4u32;
    let sequence = prop_oneof![
        6 => Just(Sequence::Next(0)),
        2 => (0..3u64).prop_map(Sequence::Next),
        1 => prop_oneof![1..5u64, Just(u64::MAX - 9)].prop_map(Sequence::Any),
    ];
    let tags = (0..6u64, 0..6u64).prop_map(|(a, b)| TagRange { first: Tag(a), last: Tag(b) });
    prop_oneof![
        3 => (handle.clone(), 0..2u8, proptest::option::of(0..2u8), proptest::option::of(0..3u64))
            .prop_map(|(handle, topic, name, epoch)| {
                Step::Open { handle, topic, name, epoch: epoch.filter(|_| name.is_some()) }
            }),
        9 => (handle.clone(), sequence, 1..4u8, prop::bool::weighted(0.15)).prop_map(
            |(handle, sequence, count, bad)| Step::Publish { handle, sequence, count, bad }
        ),
        2 => (handle.clone(), any::<bool>())
            .prop_map(|(handle, forget)| Step::Close { handle, forget }),
        6 => (handle.clone(), 0..4u64, 2..12u8)
            .prop_map(|(handle, back, count)| Step::PublishRun { handle, back, count }),
        2 => (handle.clone(), 0..2u8).prop_map(|(handle, topic)| Step::Subscribe { handle, topic }),
        1 => handle.clone().prop_map(|handle| Step::Unsubscribe { handle }),
        1 => (handle, tags).prop_map(|(handle, tags)| Step::Settle { handle, tags }),
        4 => Just(Step::HandOver),
        4 => Just(Step::Run),
        2 => any::<bool>().prop_map(Step::Gate),
        1 => (0..2u8).prop_map(|topic| Step::Delete { topic }),
        1 => Just(Step::NewSession),
    ]
}

struct World {
    shared: Arc<Shared>,
    gate: watch::Sender<bool>,
    handles: Handles,
    outbox: Arc<Outbox>,
    next: [u64; 4],
    deleting: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let (shared, gate) = testing::shared(true);
        let outbox = Outbox::new(shared.together(testing::far(1)));
        let handles = greeted(&shared, shared.new_session(), &outbox);
        Self { shared, gate, handles, outbox, next: [1; 4], deleting: JoinSet::new() }
    }

    async fn take(&mut self, step: Step) {
        let name = |number: u8| topic(["a", "b"][usize::from(number)]);
        let frame = match step {
            Step::Open { handle, topic, name: producer, epoch } => {
                self.next[handle as usize] = 1;
                let producer = producer.map(|n| ProducerName::new(["p", "q"][usize::from(n)]));
                let name_of = producer.map(Result::unwrap);
                Frame::OpenProducer { handle, topic: name(topic), name: name_of, epoch, seat: None }
            }
            Step::Publish { handle, sequence, count, bad } => {
                let next = &mut self.next[handle as usize];
                let sequence = match sequence {
                    Sequence::Next(back) => next.saturating_sub(back).max(1),
                    Sequence::Any(sequence) => sequence,
                };
                let bytes = if bad { 1 << 21 } else { 10 };
                let message = Message::new(vec![1; bytes]);
                let records = Records::encode(std::iter::repeat_n(&message, count.into()));
                if !bad && sequence <= *next {
                    *next = (*next).max(sequence + u64::from(count));
                }
                Frame::Publish { handle, sequence, durability: None, records }
            }
            Step::PublishRun { handle, back, count } => {
                return self.publish_run(handle, back, count);
            }
            Step::Close { handle, forget } => Frame::CloseProducer { handle, forget },
            Step::Subscribe { handle, topic } => Frame::Subscribe {
                handle,
                topic: name(topic),
                channel: ChannelName::new("c").unwrap(),
                start: StartAt::Earliest,
                timeout_ms: None,
                credit: Credit { messages: 3, bytes: 1000 },
                make_topic: true,
                seat: None,
            },
            Step::Unsubscribe { handle } => Frame::Unsubscribe { handle },
            Step::Settle { handle, tags } => {
                let settlements = vec![Settlement { tags, verdict: Verdict::Ack }];
                Frame::Settle { handle, request: 1, settlements }
            }
            Step::HandOver => return self.handles.hand_over(),
            Step::Run => return self.run().await,
            Step::Gate(open) => {
                self.gate.send_replace(open);
                return;
            }
            Step::Delete { topic } => {
                let (shared, topic) = (self.shared.clone(), name(topic));
                self.deleting.spawn(async move {
                    let _ =
                        crate::broker::admin::perform(&shared, AdminRequest::DeleteTopic { topic })
                            .await;
                });
                return;
            }
            Step::NewSession => {
                // Another stream of the same connection, before the one before is known to be gone.
                self.outbox = Outbox::new(self.outbox.together().clone());
                let session = self.shared.new_session();
                self.handles = greeted(&self.shared, session, &self.outbox);
                return;
            }
        };
        self.handles.handle(frame).unwrap();
    }

    fn publish_run(&mut self, handle: u32, back: u64, count: u8) {
        let next = &mut self.next[handle as usize];
        let first = next.saturating_sub(back).max(1);
        *next = (*next).max(first + u64::from(count));
        for sequence in first..first + u64::from(count) {
            let records = Records::encode(&[Message::new("small")]);
            let frame = Frame::Publish { handle, sequence, durability: None, records };
            self.handles.handle(frame).unwrap();
        }
    }

    async fn run(&mut self) {
        let context = Context::from_waker(Waker::noop());
        let mut heard = VecDeque::new();
        for _ in 0..10 {
            tokio::task::yield_now().await;
            while self.outbox.poll_drain(&context, &mut heard).is_ready() {
                for outgoing in heard.drain(..) {
                    match outgoing {
                        Outgoing::Reply(mut reply) => drop(self.handles.replied(&mut reply)),
                        Outgoing::Delivery(handle, delivery) => {
                            self.handles.delivered(handle, delivery.batch.records.count() as u64);
                        }
                        _ => {}
                    }
                }
                self.handles.heard();
            }
        }
        self.handles.heard();
        self.check();
    }

    fn check(&self) {
        let handles = &self.handles;
        handles.producers.check();
        let mut users = vec![0; handles.topics.len()];
        handles.producers.slots().for_each(|slot| users[slot] += 1);
        handles.subscriptions.values().for_each(|subscription| users[subscription.slot] += 1);
        let counted: Vec<_> =
            handles.topics.iter().map(|slot| slot.as_ref().map_or(0, |slot| slot.users)).collect();
        assert_eq!(counted, users);
        let mut free = handles.free.clone();
        free.sort_unstable();
        let empty = handles.topics.iter().enumerate().filter(|(_, slot)| slot.is_none());
        assert_eq!(free, empty.map(|(index, _)| index).collect::<Vec<_>>());
        let together = self.outbox.together();
        let (producers, subscriptions) = (handles.producers.len(), handles.subscriptions.len());
        assert_eq!(together.open.count(Kind::Producer), producers);
        assert_eq!(together.open.count(Kind::Subscription), subscriptions);
        assert_eq!(self.shared.handles.taken(), producers + subscriptions);
        // What a stream left behind counts beside it.
        let (own, all) = (handles.producers.unconfirmed_bytes(), together.publishes.used());
        assert!(all >= own, "{all} bytes of the connection, {own} of its stream");
        assert_eq!(together.address.as_ref().unwrap().published.used(), all);
    }

    /// The store works again, and everything that was sent is answered.
    async fn come_to_rest(mut self) {
        self.gate.send_replace(true);
        self.handles.hand_over();
        while self.deleting.join_next().await.is_some() {}
        for _ in 0..5 {
            self.run().await;
        }
        assert!(self.handles.producers.are_at_rest(), "{:?}", self.handles.producers);
        assert_eq!(self.shared.published.used(), 0, "and nothing is counted any more");
        let outbox = self.outbox.clone();
        assert_eq!(outbox.together().publishes.used(), 0);
        drop(self.handles);
        self.shared.stop_topics().await;
        assert_eq!(self.shared.published.used(), 0);
        assert_eq!(self.shared.handles.taken(), 0);
        assert_eq!(outbox.together().publishes.used(), 0);
        assert_eq!(Arc::strong_count(&outbox), 2, "no topic keeps the session's outbox");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn promise_9_what_is_taken_is_given_back_once_on_every_way(steps in vec(step(), 1..60)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async move {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
            }
            world.come_to_rest().await;
        });
    }
}
