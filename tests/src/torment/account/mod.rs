mod checks;
mod losses;
mod overtaking;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use thiserror::Error;

pub(super) use self::{
    losses::Loss,
    overtaking::{Excuse, Excused},
};
use super::{field::Ends, worker};

/// What became of every message, as those wrote down who sent and took them: see [`worker`](super::worker).
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// What went wrong on purpose, and how often.
    pub faults: BTreeMap<&'static str, u32>,
    /// How often a registry forgot a node.
    pub forgotten: usize,
    /// Whether a bridge brings everything elsewhere.
    pub is_bridged: bool,
    /// By topic and body.
    messages: BTreeMap<(String, String), Became>,
    /// The numbers at which the publisher of a topic and key was told that its order moves.
    moves: BTreeMap<(String, String), BTreeSet<u64>>,
    /// What stands at the destination of the bridge, by where it is said to come from.
    origins: BTreeMap<String, (String, String)>,
    /// One origin, and two messages.
    mixed: Option<String>,
    lines: u64,
    /// What came before its delay was over: where, and from when to when.
    early: Vec<(String, u64, u64)>,
    /// When programs ended.
    pub(super) ends: Ends,
    /// When messages may have come over the bridge in another order than they had.
    pub(super) excuses: Vec<Excuse>,
    /// Which devices lost what they had not taken.
    pub(super) losses: Vec<Loss>,
    /// From when to when programs were kept from running, by the names of their journals.
    stalls: BTreeMap<Arc<str>, Vec<(u64, u64)>>,
    /// How often messages were confirmed or taken in each of the [`ways`](worker::ways).
    ways: BTreeMap<String, u64>,
    /// Of what came over the bridge so far, when the last was published; by topic.
    latest: BTreeMap<String, u64>,
}

/// What became of one message.
#[derive(Clone, Debug, Default)]
struct Became {
    /// Somebody was about to publish it.
    is_meant: bool,
    /// What its publisher was told; nothing, if that was killed.
    told: Option<Told>,
    /// Who wrote down when it was published, if more than once the last time, and how long the call took.
    by: Arc<str>,
    published: u64,
    took_ms: u64,
    /// Where a receipt says that it is, and whether that outlasts a kill.
    receipt: Option<(String, Option<u64>)>,
    is_fleeting: bool,
    /// Where consumers found it, how often it came, and when it came first.
    places: BTreeSet<(String, u64)>,
    taken: u32,
    first_taken: u64,
    /// By what it can be told from others.
    ids: BTreeSet<String>,
    /// Each time that it was taken, and that its node confirmed an ack.
    deliveries: Vec<Delivery>,
    acks: Vec<Delivery>,
    /// Where it comes from, as the destination of the bridge has it, and its first arrival; and how often it is there.
    arrived_from: BTreeMap<(String, u64), Arrival>,
    arrived: u32,
}

/// One delivery of a message, and when something became of it.
#[derive(Clone, Debug)]
struct Delivery {
    node: String,
    offset: u64,
    attempt: u64,
    at: u64,
}

/// Where a message stands among all that came over the bridge, and when it was there at the earliest.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    line: u64,
    earliest: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Confirmed,
    Unknown,
    /// Nothing happened, and why.
    Failed(String),
}

impl Became {
    fn is_confirmed(&self) -> bool {
        self.told == Some(Told::Confirmed)
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{count} messages {what}; {example}")]
pub struct Unsound {
    count: usize,
    what: &'static str,
    example: String,
}

impl Account {
    /// Takes in what somebody wrote. What came over the bridge is read when all else was.
    pub(super) fn read(&mut self, who: &str, journal: &str) {
        let who = Arc::from(who);
        // Of a line that is not whole nothing is known yet, and of one that somebody who was killed left so.
        let lines = journal.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        for line in lines.filter(|line| !line.ends_with(worker::BROKEN)) {
            self.lines += 1;
            let words: Vec<_> = line.split('\t').collect();
            if let [kind, topic, body, rest @ ..] = &words[..] {
                self.read_line(&who, (kind, topic, body), rest);
            }
        }
    }

    fn read_line(
        &mut self,
        who: &Arc<str>,
        (kind, topic, body): (&str, &str, &str),
        rest: &[&str],
    ) {
        let number = |index: usize| rest.get(index).and_then(|word| word.parse::<u64>().ok());
        let word = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
        if kind == "M" {
            if let Some((key, number)) = numbered(body) {
                self.moves.entry((topic.to_owned(), key.to_owned())).or_default().insert(number);
            }
            return;
        }
        if kind == "E" {
            let at = |index| number(index).unwrap_or_default();
            self.early.push((word(0), at(1), at(2)));
            return;
        }
        if kind == "S" {
            let stall = number(0).zip(number(1));
            self.stalls.entry(who.clone()).or_default().extend(stall);
            return;
        }
        let mut goes = |way: usize| {
            if let Some(way) = rest.get(way) {
                *self.ways.entry((*way).to_owned()).or_default() += 1;
            }
        };
        match kind {
            "C" => goes(4),
            "G" => goes(5),
            _ => {}
        }
        let delivery = |attempt, at| {
            let (offset, attempt) = (number(1)?, number(attempt)?);
            Some(Delivery { node: word(0), offset, attempt, at: number(at)? })
        };
        let name = (topic.to_owned(), body.to_owned());
        let became = self.messages.entry(name.clone()).or_default();
        match kind {
            "P" => {
                became.is_meant = true;
                (became.by, became.published) = (who.clone(), number(0).unwrap_or_default());
            }
            "C" => {
                became.told = Some(Told::Confirmed);
                became.receipt = Some((word(0), number(1)));
                became.took_ms = number(2).unwrap_or_default();
                became.is_fleeting = word(3) == "memory";
            }
            "U" => {
                became.told = Some(Told::Unknown);
                became.took_ms = number(0).unwrap_or_default();
            }
            "F" => {
                became.told = Some(Told::Failed(word(1)));
                became.took_ms = number(0).unwrap_or_default();
            }
            "G" => {
                became.places.insert((word(0), number(1).unwrap_or_default()));
                became.deliveries.extend(delivery(3, 4));
                if became.taken == 0 {
                    became.first_taken = self.lines;
                }
                became.taken += 1;
                became.ids.extend(rest.get(2).map(|id| (*id).to_owned()));
            }
            "A" => became.acks.extend(delivery(2, 3)),
            "D" => {
                became.arrived += 1;
                let id = word(1);
                let latest = self.latest.entry(name.0.clone()).or_default();
                *latest = became.published.max(*latest);
                let arrival = Arrival { line: self.lines, earliest: *latest };
                // SITE/NODE/TOPIC/OFFSET/TIME
                let parts: Vec<_> = id.split('/').collect();
                if let [_, node, _, offset, _] = parts[..] {
                    let offset = offset.parse().unwrap_or(u64::MAX);
                    became.arrived_from.entry((node.to_owned(), offset)).or_insert(arrival);
                }
                let known = self.origins.entry(id).or_insert_with(|| name.clone());
                if *known != name {
                    self.mixed = Some(format!("{known:?} and {name:?}"));
                }
            }
            _ => {}
        }
    }

    /// Messages that were confirmed, must not be lost, and that no consumer has had.
    #[must_use]
    pub fn missing(&self) -> usize {
        let is_missing = |((topic, _), it): &(&(String, String), &Became)| {
            it.taken == 0 && !self.may_be_lost(topic, it)
        };
        self.messages.iter().filter(is_missing).count()
    }

    /// Of these topics, those of which nothing is confirmed that was published since.
    pub(super) fn silent<'a>(
        &self,
        topics: &'a BTreeSet<String>,
        since: u64,
    ) -> impl Iterator<Item = &'a String> {
        let messages = self.messages.iter();
        let confirmed: BTreeSet<_> = messages
            .filter(|(_, it)| it.is_confirmed() && it.published >= since)
            .map(|((topic, _), _)| topic.clone())
            .collect();
        topics.iter().filter(move |topic| !confirmed.contains(*topic))
    }

    /// That there are such topics.
    pub(super) fn silent_since(&self, topics: &BTreeSet<String>, since: u64) -> Unsound {
        let silent: Vec<_> = self.silent(topics, since).map(String::as_str).collect();
        Unsound {
            count: 0,
            what: "were confirmed in some topics since all was well again",
            example: format!("those are {}", silent.join(", ")),
        }
    }

    /// Faults that there were.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.faults.values().sum()
    }

    /// In which ways messages were confirmed or taken, and how often.
    #[must_use]
    pub const fn ways(&self) -> &BTreeMap<String, u64> {
        &self.ways
    }

    /// The longest call, beyond the time that it had and that in which its program was kept from running.
    fn latest_call_ms(&self) -> i64 {
        let late = |it: &Became| self.own_ms(it) as i64 - worker::TIMEOUT.as_millis() as i64;
        let called = self.messages.values().filter(|it| it.told.is_some());
        called.map(late).max().unwrap_or_default()
    }

    /// How long a call took, but for the time in which its program was kept from running.
    fn own_ms(&self, it: &Became) -> u64 {
        let (from, to) = (it.published, it.published + it.took_ms);
        let stalls = self.stalls.get(&it.by).into_iter().flatten();
        let part = |stall: &(u64, u64)| stall.1.min(to).saturating_sub(stall.0.max(from));
        it.took_ms.saturating_sub(stalls.map(part).sum())
    }
}

/// What stands before the last `/` of a body, and the number behind it.
fn numbered(body: &str) -> Option<(&str, u64)> {
    let (before, number) = body.rsplit_once('/')?;
    Some((before, number.parse().ok()?))
}

/// The mode of a topic, of which each client may have one.
fn mode(topic: &str) -> &str {
    topic.split_once('-').map_or(topic, |(mode, _)| mode)
}
