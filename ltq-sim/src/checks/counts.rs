//! Promise 13: each message of a channel is in one state, and the figures that operators see say so: they
//! agree with each other, and with what producers and consumers were told.

use std::collections::{BTreeMap, BTreeSet};

use ltq_core::{ChannelStats, Offset, TopicStats};

use super::{Body, Deleted, Duration, Event, LASTING, Life, Violation, What, breaks, lasting};
use crate::topics::channel_name;

pub(super) fn check(events: &[Event]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let (mut told, lasting) = (Told::default(), lasting(events));
    let (mut is_damaged, mut deleted) = (false, Deleted::default());
    for event in events {
        told.takes(event, &lasting);
        deleted.takes(event);
        is_damaged |= matches!(event.what, What::Damaged(_));
        let What::Counted { topic, asked, stats } = &event.what else { continue };
        let mut wrong = |words: String| {
            broken.push(breaks(&[13], format!("at {:?}, t{topic}: {words}", event.at)));
        };
        for channel in &stats.channels {
            adds_up(stats, channel, &mut wrong);
        }
        if !is_damaged && !deleted.has(*topic) {
            told.agrees(*topic, *asked, stats, &mut wrong);
        }
    }
    broken
}

fn adds_up(stats: &TopicStats, channel: &ChannelStats, wrong: &mut impl FnMut(String)) {
    let all = stats.end.since(channel.start);
    let open = channel.waiting + channel.delayed + channel.in_flight;
    let done = channel.acked + channel.damaged + channel.dropped;
    if all != open + done {
        wrong(format!("of {all} messages {open} are open and {done} are done: {channel:?}"));
    }
    if channel.floor < channel.start || channel.floor > stats.end {
        wrong(format!("the floor is nowhere in the log: {channel:?}"));
    }
    if channel.consumers == 0 && channel.in_flight > 0 {
        wrong(format!("nobody is there to have what is in flight: {channel:?}"));
    }
}

/// What producers and consumers know, by topic.
#[derive(Default)]
struct Told {
    life: Life,
    published: BTreeMap<usize, u64>,
    /// Handed over since the node started.
    young: BTreeSet<Body>,
    /// When the young ones were confirmed.
    confirmed: BTreeMap<usize, Vec<Duration>>,
    /// Behind the newest message that lasts, by when that was known.
    ends: Vec<(Duration, Offset)>,
    /// Of each channel: the messages that somebody wanted to be acked; and who was told since the node
    /// started that his is, that he gave one back, and that he got one.
    asked: BTreeMap<(usize, usize), BTreeSet<Offset>>,
    acked: BTreeMap<(usize, usize), BTreeMap<Offset, Duration>>,
    requeued: BTreeMap<(usize, usize), Vec<Duration>>,
    delivered: BTreeMap<(usize, usize), Vec<Duration>>,
}

impl Told {
    fn takes(&mut self, event: &Event, lasting: &BTreeSet<Body>) {
        if self.life.begins(event) {
            self.young.clear();
            self.confirmed.clear();
            self.acked.clear();
            self.requeued.clear();
            self.delivered.clear();
        }
        match &event.what {
            What::Published { topic, body, .. } => {
                *self.published.entry(*topic).or_default() += 1;
                self.young.insert(*body);
            }
            What::Confirmed { topic, body, offset, .. } => {
                if self.young.contains(body) {
                    self.confirmed.entry(*topic).or_default().push(event.at);
                }
                if let Some(offset) = offset.filter(|_| *topic == LASTING && lasting.contains(body))
                {
                    self.ends.push((event.at, offset.plus(1)));
                }
            }
            What::Acks { place, .. } => {
                self.asked.entry((place.topic, place.channel)).or_default().insert(place.offset);
            }
            What::Acked(place, Ok(())) if self.life.is_of(*place) => {
                let acked = self.acked.entry((place.topic, place.channel)).or_default();
                acked.entry(place.offset).or_insert(event.at);
            }
            What::Requeued { place, result: Ok(()), .. } if self.life.is_of(*place) => {
                self.requeued.entry((place.topic, place.channel)).or_default().push(event.at);
            }
            What::Delivered(place, _) if self.life.is_of(*place) => {
                self.delivered.entry((place.topic, place.channel)).or_default().push(event.at);
            }
            _ => {}
        }
    }

    fn agrees(
        &self,
        topic: usize,
        asked: Duration,
        stats: &TopicStats,
        wrong: &mut impl FnMut(String),
    ) {
        let until = |times: Option<&Vec<Duration>>| {
            times.map_or(0, |times| times.iter().filter(|&&at| at < asked).count() as u64)
        };
        let published = self.published.get(&topic).copied().unwrap_or_default();
        if stats.end.since(Offset(0)) > published {
            wrong(format!("its end is {}, of {published} that were published", stats.end));
        }
        let ends = self.ends.iter().filter(|(at, _)| topic == LASTING && *at < asked);
        if let Some(end) = ends.map(|it| it.1).max().filter(|&end| stats.end < end) {
            wrong(format!("its end is {}, and one before {end} is confirmed", stats.end));
        }
        let confirmed = until(self.confirmed.get(&topic));
        if stats.published < confirmed {
            wrong(format!("{} are said to be published, {confirmed} are", stats.published));
        }
        for channel in &stats.channels {
            let Some(number) =
                (0..).take(9).find(|&it| channel.channel.as_str() == channel_name(it))
            else {
                continue;
            };
            let place = (topic, number);
            let asked_for = self.asked.get(&place).map_or(0, |asked| asked.len() as u64);
            let acked = self.acked.get(&place).into_iter().flat_map(BTreeMap::values);
            let acked = acked.filter(|&&at| at < asked).count() as u64;
            if channel.acked < acked || channel.acked > asked_for {
                wrong(format!("{acked} are acked, {asked_for} at most: {channel:?}"));
            }
            let (requeued, delivered) =
                (until(self.requeued.get(&place)), until(self.delivered.get(&place)));
            if channel.requeued < requeued || channel.delivered < delivered {
                wrong(format!("{delivered} came, {requeued} were given back: {channel:?}"));
            }
            if channel.damaged + channel.dropped > 0 {
                wrong(format!("nothing was damaged or is limited: {channel:?}"));
            }
        }
    }
}
