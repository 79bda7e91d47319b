use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ltq_core::Offset;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Body, CHANNELS};

/// What was published, confirmed, delivered and acked, by whoever saw it happen.
pub struct Ledger {
    state: Mutex<State>,
    news: Notify,
}

struct State {
    /// When each life of the node ended.
    kills: Vec<Instant>,
    /// By producer: how many it has published, and the offset of each confirmed one as far as
    /// its receipt told.
    published: Vec<u64>,
    confirmed: BTreeMap<Body, Option<Offset>>,
    channels: [Channel; CHANNELS.len()],
    calm: bool,
}

#[derive(Default)]
struct Channel {
    seen: BTreeMap<Body, Seen>,
    /// Confirmed messages that it has not seen.
    missing: usize,
    /// The last offset of a first attempt in each life, for the order.
    last_first: Option<(usize, Offset)>,
    deliveries: u64,
    /// Steps back in the log, by life. The first of a life may be the consumer coming back after
    /// a kill; within one subscription there is none.
    steps_back: BTreeMap<usize, Vec<(Offset, Offset)>>,
    repeats_after_ack: Vec<String>,
}

struct Seen {
    offset: Offset,
    /// When its ack was confirmed.
    acked: Option<Instant>,
}

/// What a torment amounted to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Kills.
    pub kills: usize,
    /// Messages published.
    pub published: u64,
    /// Messages confirmed.
    pub confirmed: usize,
    /// Deliveries, in all channels.
    pub deliveries: u64,
    /// Acks whose confirm was seen.
    pub acks_confirmed: usize,
}

impl Ledger {
    pub(super) fn new(producers: usize) -> Self {
        let state = State {
            kills: Vec::new(),
            published: vec![0; producers],
            confirmed: BTreeMap::new(),
            channels: Default::default(),
            calm: false,
        };
        Self { state: Mutex::new(state), news: Notify::new() }
    }

    pub(super) fn killed(&self) {
        self.state.lock().kills.push(Instant::now());
    }

    /// Nothing more is published.
    pub(super) fn calm(&self) {
        self.state.lock().calm = true;
        self.news.notify_waiters();
    }

    pub(super) fn published(&self, body: Body) {
        self.state.lock().published[body.producer] = body.number;
    }

    pub(super) fn confirmed(&self, body: Body, offset: Option<Offset>) {
        let mut state = self.state.lock();
        assert!(state.confirmed.insert(body, offset).is_none(), "{body:?} confirmed twice");
        for channel in &mut state.channels {
            if !channel.seen.contains_key(&body) {
                channel.missing += 1;
            }
        }
    }

    /// Returns the life of the node in which it happened.
    pub(super) fn delivered(
        &self,
        channel: usize,
        body: Body,
        offset: Offset,
        attempt: u32,
    ) -> usize {
        let mut state = self.state.lock();
        let life = state.kills.len();
        assert!(
            state.published.get(body.producer).is_some_and(|last| body.number <= *last),
            "{body:?} was delivered and never published"
        );
        let confirmed = state.confirmed.contains_key(&body);
        let kills = state.kills.clone();
        let channel = &mut state.channels[channel];
        channel.deliveries += 1;
        if attempt == 1 {
            if let Some((last_life, last)) = channel.last_first
                && last_life == life
                && offset <= last
            {
                channel.steps_back.entry(life).or_default().push((last, offset));
            }
            channel.last_first = Some((life, offset));
        }
        match channel.seen.get_mut(&body) {
            None => {
                channel.seen.insert(body, Seen { offset, acked: None });
                if confirmed {
                    channel.missing -= 1;
                }
            }
            Some(seen) => {
                assert_eq!(seen.offset, offset, "promise 6: {body:?} is stored at two offsets");
                // Promise 12: an ack may repeat only if a kill came close behind it.
                if let Some(acked) = seen.acked.take() {
                    let kill = kills.iter().find(|kill| **kill >= acked);
                    let covered = kill.is_some_and(|kill| *kill - acked < ACK_COMMIT_MAX);
                    if !covered {
                        let since = kill.map(|kill| *kill - acked);
                        channel.repeats_after_ack.push(format!(
                            "{body:?} at {offset}, acked {since:?} before the next kill"
                        ));
                    }
                }
            }
        }
        drop(state);
        self.news.notify_waiters();
        life
    }

    /// An ack was confirmed, of a delivery in this life.
    pub(super) fn acked(&self, channel: usize, body: Body, life: usize) {
        let mut state = self.state.lock();
        if state.kills.len() == life
            && let Some(seen) = state.channels[channel].seen.get_mut(&body)
        {
            seen.acked = Some(Instant::now());
        }
    }

    /// Confirmed messages that a channel has not seen yet, over all channels.
    pub(super) fn left(&self) -> usize {
        self.state.lock().channels.iter().map(|channel| channel.missing).sum()
    }

    /// Waits until every channel has seen every confirmed message.
    pub(super) async fn drained(&self) {
        loop {
            let news = self.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            {
                let state = self.state.lock();
                if state.calm && state.channels.iter().all(|channel| channel.missing == 0) {
                    return;
                }
            }
            news.await;
        }
    }

    /// Balances the ledger.
    ///
    /// # Panics
    /// When a promise is broken, naming it.
    #[must_use]
    pub fn check(&self) -> Summary {
        let state = self.state.lock();
        let mut offsets: BTreeMap<Offset, Body> = BTreeMap::new();
        for (index, channel) in state.channels.iter().enumerate() {
            let (name, consumers) = CHANNELS[index];
            for (body, receipt) in &state.confirmed {
                let seen = channel.seen.get(body);
                let seen = seen.unwrap_or_else(|| {
                    panic!(
                        "promises 1 and 2: {body:?}, confirmed at {receipt:?}, never reached {name}"
                    )
                });
                if let Some(offset) = receipt {
                    assert_eq!(seen.offset, *offset, "{body:?}: its receipt names another place");
                }
            }
            for (body, seen) in &channel.seen {
                let other = *offsets.entry(seen.offset).or_insert(*body);
                assert_eq!(other, *body, "two messages at offset {}", seen.offset);
            }
            // Messages of one producer stand in the log in the order of their numbers.
            let mut last: Option<(Body, Offset)> = None;
            for (body, seen) in &channel.seen {
                if let Some((before, offset)) = last
                    && before.producer == body.producer
                {
                    assert!(offset < seen.offset, "order: {body:?} stands before {before:?}");
                }
                last = Some((*body, seen.offset));
            }
            if consumers == 1 {
                for (life, steps) in &channel.steps_back {
                    assert!(steps.len() <= 1, "promise 4: {name}, life {life}: {steps:?}");
                }
            }
            let none: [String; 0] = [];
            assert_eq!(channel.repeats_after_ack, none, "promise 12: {name} repeats acked ones");
        }
        Summary {
            kills: state.kills.len(),
            published: state.published.iter().sum(),
            confirmed: state.confirmed.len(),
            deliveries: state.channels.iter().map(|channel| channel.deliveries).sum(),
            acks_confirmed: state
                .channels
                .iter()
                .flat_map(|channel| channel.seen.values())
                .filter(|seen| seen.acked.is_some())
                .count(),
        }
    }
}

/// How long after it an ack may still be taken back by a kill. The broker commits acks every 20
/// ms; the rest is for a machine that is busy with other things.
const ACK_COMMIT_MAX: Duration = Duration::from_millis(700);
