//! What may happen to a topic, and how likely it is.

use std::time::Duration;

use proptest::prelude::*;

use crate::{Durability, Keep, Retention, TopicName, TopicSettings, Verdict};

/// A whole history before it happens.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) settings: TopicSettings,
    /// Whether the topic goes when nobody needs it.
    pub(super) ephemeral: bool,
    pub(super) narrow: Narrow,
    /// The most durability that the store reaches.
    pub(super) reach: Durability,
    pub(super) steps: Vec<Step>,
}

/// Limits on counts that are met often; the usual ones where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Narrow {
    pub(super) runs: Option<usize>,
    pub(super) consumers: Option<usize>,
    pub(super) channels: Option<usize>,
    pub(super) producers: Option<usize>,
}

impl Scenario {
    pub(super) fn topic(&self) -> TopicName {
        let name = if self.ephemeral { "t#ephemeral" } else { "t" };
        TopicName::new(name).expect("a name")
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Open {
        producer: usize,
        resume: bool,
    },
    Close {
        producer: usize,
        forget: bool,
    },
    ProducerGone {
        producer: usize,
    },
    Publish {
        producer: usize,
        back: u64,
        count: u64,
        durability: Option<Durability>,
    },
    Gap {
        producer: usize,
    },
    RefusePublish {
        producer: usize,
    },
    Subscribe {
        consumer: usize,
        channel: usize,
        start: Start,
        create: bool,
        terms: Terms,
    },
    Unsubscribe {
        consumer: usize,
    },
    SessionEnded {
        session: usize,
    },
    Grant {
        consumer: usize,
        messages: u64,
        bytes: u64,
    },
    /// Credit is made smaller, by so much.
    TakeBack {
        consumer: usize,
        messages: u64,
        bytes: u64,
    },
    Hold {
        consumer: usize,
        held: bool,
    },
    Settle {
        consumer: usize,
        answer: bool,
        parts: Vec<Part>,
    },
    /// Time passes, and the topic is woken exactly when it wants to be.
    Advance {
        millis: u64,
    },
    /// Time passes, and nobody tells the topic.
    Oversleep {
        millis: u64,
    },
    /// The topic is told of time though none has passed, or even of an earlier moment.
    Nudge {
        back_ms: u64,
    },
    /// The clock on the wall is set.
    SetWall {
        by_ms: i64,
    },
    /// So many events are told before the topic is asked what to do.
    Gather {
        events: usize,
    },
    HoldCommits(bool),
    Commit,
    Fail(Failure),
    HoldReads(bool),
    Read,
    Unreadable(bool),
    /// Messages can be read no more: so many from so far before the end of the log.
    Damage {
        back: u64,
        count: u64,
    },
    Ensure,
    Show,
    PauseTopic(bool),
    PauseChannel(usize, bool),
    CreateChannel(usize, Start),
    DeleteChannel(usize),
    Alter(Retention),
    DeleteTopic,
    /// The node begins to stop, and other things still happen.
    Stop,
    Restart {
        how: Restart,
        keeps: usize,
        away_ms: i64,
    },
}

/// Where a new channel begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    Earliest,
    Latest,
    /// So far before the end of the log, or 10 behind it for 0.
    Back(u64),
    /// So long before now, or behind it.
    Ago(i64),
}

/// What a consumer wants at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) timeout_ms: Option<u64>,
    /// Which seat it asks for, which somebody may have, and in which turn.
    pub(super) seat: Option<(u8, u64)>,
}

/// A verdict on so many tags, the first being so far before the last one delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) back: u64,
    pub(super) count: u64,
    pub(super) verdict: Verdict,
}

/// How a commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no room for it; nothing of it is there.
    Full,
    /// The device failed: it may be there after the next start, and no more are taken until then.
    Device,
    /// Anything else; nothing of it is there.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Stopped first.
    Clean,
    /// Stopped first, and commits fail meanwhile.
    Failing(Failure),
    /// The process was killed, and the commit under way was lost.
    Kill,
    /// The process was killed, and the commit under way was not lost.
    KillAfter,
    /// The machine lost power.
    PowerLoss,
}

pub(super) const CHANNELS: [&str; 3] = ["a", "b", "e#ephemeral"];
pub(super) const PRODUCERS: usize = 3;
pub(super) const CONSUMERS: usize = 4;

/// Any history. The same source of chance makes the same one.
pub(super) fn scenario() -> impl Strategy<Value = Scenario> {
    let durability = prop_oneof![
        6 => Just(Durability::Disk),
        2 => Just(Durability::Os),
        2 => Just(Durability::Memory),
    ];
    let ephemeral = prop_oneof![1 => Just(true), 6 => Just(false)];
    let reach = prop_oneof![6 => Just(Durability::Disk), 1 => Just(Durability::Os)];
    let retention = prop_oneof![2 => Just(Retention::default()), 3 => retention()];
    let steps = prop::collection::vec(step(), 1..250);
    let all = (durability, reach, retention, (ephemeral, narrow()), steps);
    all.prop_map(|(durability, reach, retention, (ephemeral, narrow), steps)| {
        let settings = TopicSettings { durability, retention };
        Scenario { settings, ephemeral, narrow, reach, steps }
    })
}

fn narrow() -> impl Strategy<Value = Narrow> {
    let few = |most: usize| prop_oneof![4 => Just(None), 1 => (1..=most).prop_map(Some)];
    (few(6), few(2), few(2), few(2)).prop_map(|(runs, consumers, channels, producers)| Narrow {
        runs,
        consumers,
        channels,
        producers,
    })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        5 => Just(Verdict::Ack),
        2 => Just(Verdict::Requeue { delay_ms: 0 }),
        2 => (1u64..3_000).prop_map(|delay_ms| Verdict::Requeue { delay_ms }),
        1 => Just(Verdict::Requeue { delay_ms: u64::MAX }),
        2 => Just(Verdict::Touch),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let count = prop_oneof![8 => 0u64..5, 1 => Just(u64::MAX)];
    (0u64..12, count, verdict()).prop_map(|(back, count, verdict)| Part { back, count, verdict })
}

fn durability() -> impl Strategy<Value = Option<Durability>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Durability::Disk)),
        1 => Just(Some(Durability::Os)),
        1 => Just(Some(Durability::Memory)),
    ]
}

/// Limits as small as the histories are.
fn retention() -> impl Strategy<Value = Retention> {
    let keep = prop_oneof![2 => Just(Keep::Unacked), 1 => Just(Keep::All)];
    let age = prop_oneof![3 => Just(None), 2 => (200u64..6_000).prop_map(Some)];
    let bytes = prop_oneof![3 => Just(None), 2 => (100u64..1_500).prop_map(Some)];
    (keep, age, bytes).prop_map(|(keep, age, bytes_max)| Retention {
        keep,
        age_max: age.map(Duration::from_millis),
        bytes_max,
    })
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        3 => Just(Start::Earliest),
        2 => Just(Start::Latest),
        1 => (0u64..40).prop_map(Start::Back),
        1 => (-1_000i64..8_000).prop_map(Start::Ago),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    let bytes = prop_oneof![4 => Just(1u64 << 20), 1 => 0u64..200];
    let timeout_ms =
        prop_oneof![4 => Just(None), 2 => (1u64..2_500).prop_map(Some), 1 => Just(Some(9_000))];
    let seat = prop_oneof![1 => Just(None), 1 => (0..3u8, 0..4u64).prop_map(Some)];
    (0u64..12, bytes, timeout_ms, seat).prop_map(|(messages, bytes, timeout_ms, seat)| Terms {
        messages,
        bytes,
        timeout_ms,
        seat,
    })
}

fn wall() -> impl Strategy<Value = i64> {
    prop_oneof![2 => -2_000i64..2_000, 1 => -50_000i64..50_000]
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![3 => Just(Failure::Full), 2 => Just(Failure::Device), 1 => Just(Failure::Other)]
}

fn on_and_off() -> impl Strategy<Value = bool> {
    prop_oneof![1 => Just(true), 2 => Just(false)]
}

fn publishing() -> impl Strategy<Value = Step> {
    let p = 0..PRODUCERS;
    let back = prop_oneof![4 => Just(0u64), 1 => 1u64..6];
    prop_oneof![
        6 => (p.clone(), any::<bool>()).prop_map(|(producer, resume)| Step::Open { producer, resume }),
        4 => (p.clone(), any::<bool>())
            .prop_map(|(producer, forget)| Step::Close { producer, forget }),
        1 => p.clone().prop_map(|producer| Step::ProducerGone { producer }),
        28 => (p.clone(), back, 1u64..7, durability()).prop_map(
            |(producer, back, count, durability)| Step::Publish { producer, back, count, durability }
        ),
        2 => p.clone().prop_map(|producer| Step::Gap { producer }),
        1 => p.prop_map(|producer| Step::RefusePublish { producer }),
    ]
}

fn consuming() -> impl Strategy<Value = Step> {
    let (c, ch) = (0..CONSUMERS, 0..CHANNELS.len());
    let create = prop_oneof![9 => Just(true), 1 => Just(false)];
    let bytes = prop_oneof![4 => Just(1u64 << 20), 1 => 0u64..200];
    let less = prop_oneof![2 => Just(0u64), 1 => 0u64..200, 1 => (1u64 << 20) - 100..1 << 20];
    let parts = prop_oneof![
        4 => part().prop_map(|part| vec![part]),
        1 => prop::collection::vec(part(), 2..4),
    ];
    prop_oneof![
        14 => (c.clone(), ch, start(), create, terms()).prop_map(
            |(consumer, channel, start, create, terms)| {
                Step::Subscribe { consumer, channel, start, create, terms }
            }
        ),
        4 => c.clone().prop_map(|consumer| Step::Unsubscribe { consumer }),
        2 => (0..CONSUMERS).prop_map(|session| Step::SessionEnded { session }),
        12 => (c.clone(), 1u64..12, bytes)
            .prop_map(|(consumer, messages, bytes)| Step::Grant { consumer, messages, bytes }),
        4 => (c.clone(), 0u64..20, less)
            .prop_map(|(consumer, messages, bytes)| Step::TakeBack { consumer, messages, bytes }),
        4 => (c.clone(), any::<bool>()).prop_map(|(consumer, held)| Step::Hold { consumer, held }),
        28 => (c, any::<bool>(), parts)
            .prop_map(|(consumer, answer, parts)| Step::Settle { consumer, answer, parts }),
    ]
}

fn passing() -> impl Strategy<Value = Step> {
    let millis = || prop_oneof![3 => 0u64..50, 2 => 0u64..2_000];
    prop_oneof![
        12 => millis().prop_map(|millis| Step::Advance { millis }),
        2 => millis().prop_map(|millis| Step::Oversleep { millis }),
        1 => prop_oneof![1 => Just(0u64), 1 => 0u64..500]
            .prop_map(|back_ms| Step::Nudge { back_ms }),
        1 => wall().prop_map(|by_ms| Step::SetWall { by_ms }),
        3 => (2usize..7).prop_map(|events| Step::Gather { events }),
    ]
}

fn storing() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::HoldCommits),
        8 => Just(Step::Commit),
        5 => failure().prop_map(Step::Fail),
        2 => any::<bool>().prop_map(Step::HoldReads),
        6 => Just(Step::Read),
        2 => on_and_off().prop_map(Step::Unreadable),
        1 => (0u64..30, 1u64..5).prop_map(|(back, count)| Step::Damage { back, count }),
    ]
}

fn operating() -> impl Strategy<Value = Step> {
    let ch = 0..CHANNELS.len();
    let how = prop_oneof![
        6 => Just(Restart::Clean),
        1 => failure().prop_map(Restart::Failing),
        3 => Just(Restart::Kill),
        3 => Just(Restart::KillAfter),
        3 => Just(Restart::PowerLoss),
    ];
    let away = prop_oneof![3 => Just(0i64), 2 => wall()];
    prop_oneof![
        1 => Just(Step::Ensure),
        1 => Just(Step::Show),
        4 => on_and_off().prop_map(Step::PauseTopic),
        4 => (ch.clone(), on_and_off())
            .prop_map(|(channel, paused)| Step::PauseChannel(channel, paused)),
        2 => (ch.clone(), start()).prop_map(|(channel, start)| Step::CreateChannel(channel, start)),
        4 => ch.prop_map(Step::DeleteChannel),
        4 => retention().prop_map(Step::Alter),
        1 => Just(Step::DeleteTopic),
        1 => Just(Step::Stop),
        8 => (how, 0usize..6, away)
            .prop_map(|(how, keeps, away_ms)| Step::Restart { how, keeps, away_ms }),
    ]
}

/// Boxed, for the tree that a step is made from is as large as the largest of those it could have
/// been, and there are hundreds of them.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        42 => publishing().boxed(),
        60 => consuming().boxed(),
        16 => passing().boxed(),
        28 => storing().boxed(),
        15 => operating().boxed(),
    ]
}
