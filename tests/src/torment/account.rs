use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use thiserror::Error;

use super::{field::Ends, worker};

/// What became of every message, as those wrote down who sent and took them: see [`worker`](super::worker).
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// What went wrong on purpose, and how often.
    pub faults: BTreeMap<&'static str, u32>,
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
}

/// What became of one message.
#[derive(Clone, Debug, Default)]
struct Became {
    /// Somebody was about to publish it.
    is_meant: bool,
    /// What its publisher was told; nothing, if that was killed.
    told: Option<Told>,
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
    /// Where it comes from, as the destination of the bridge has it, which came first, and how often it is there.
    arrived_from: BTreeMap<(String, u64), u64>,
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

    /// A kill may take it although it is confirmed.
    fn may_be_lost(&self) -> bool {
        !self.is_confirmed() || self.is_fleeting
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
    /// Takes in what a worker wrote.
    pub(super) fn read(&mut self, journal: &str) {
        // Of a line that is not whole nothing is known yet, and of one that somebody who was killed left so.
        let lines = journal.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        for line in lines.filter(|line| !line.ends_with(worker::BROKEN)) {
            self.lines += 1;
            let words: Vec<_> = line.split('\t').collect();
            if let [kind, topic, body, rest @ ..] = &words[..] {
                self.read_line(kind, topic, body, rest);
            }
        }
    }

    fn read_line(&mut self, kind: &str, topic: &str, body: &str, rest: &[&str]) {
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
        let delivery = |attempt, at| {
            let (offset, attempt) = (number(1)?, number(attempt)?);
            Some(Delivery { node: word(0), offset, attempt, at: number(at)? })
        };
        let name = (topic.to_owned(), body.to_owned());
        let became = self.messages.entry(name.clone()).or_default();
        match kind {
            "P" => became.is_meant = true,
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
                if became.taken == 0 {
                    became.first_taken = self.lines;
                }
                became.taken += 1;
                became.ids.extend(rest.get(2).map(|id| (*id).to_owned()));
                became.deliveries.extend(delivery(3, 4));
            }
            "A" => became.acks.extend(delivery(2, 3)),
            "D" => {
                became.arrived += 1;
                let id = word(1);
                // SITE/NODE/TOPIC/OFFSET/TIME
                let parts: Vec<_> = id.split('/').collect();
                if let [_, node, _, offset, _] = parts[..] {
                    let offset = offset.parse().unwrap_or(u64::MAX);
                    became.arrived_from.entry((node.to_owned(), offset)).or_insert(self.lines);
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
        self.messages.values().filter(|it| !it.may_be_lost() && it.taken == 0).count()
    }

    /// Faults that there were.
    #[must_use]
    pub fn faults(&self) -> u32 {
        self.faults.values().sum()
    }

    /// Checks every promise.
    pub(super) fn check(&self) -> Result<(), Unsound> {
        self.none("were confirmed and lost", |_, it| !it.may_be_lost() && it.taken == 0)?;
        let denied = |it: &Became| matches!(it.told, Some(Told::Failed(_)));
        self.none("were stored, and their publisher was told that nothing happened", |_, it| {
            denied(it) && (it.taken > 0 || it.arrived > 0)
        })?;
        self.none("came that nobody published", |_, it| !it.is_meant)?;
        self.none("are not where their receipt says", |_, it| {
            let Some((node, Some(offset))) = &it.receipt else { return false };
            !it.is_fleeting && it.taken > 0 && !it.places.contains(&(node.clone(), *offset))
        })?;
        self.none("are stored twice in a mode that stores once", |topic, it| {
            !worker::may_repeat(topic) && it.places.len() > 1
        })?;
        self.none("have two ids", |_, it| it.ids.len() > 1)?;
        let late = worker::TIMEOUT + SLACK;
        self.none("took far longer than they may", |_, it| {
            u128::from(it.took_ms) > late.as_millis()
        })?;
        if self.is_bridged {
            self.bridged()?;
        }
        self.none(
            "came again after their ack was confirmed, and their node was not killed",
            |_, it| {
                it.acks
                    .iter()
                    .any(|ack| it.deliveries.iter().any(|later| self.is_repeat(ack, later)))
            },
        )?;
        self.none_early()?;
        self.in_order()?;
        self.in_order_of_sending()
    }

    /// Everything is at the destination, and known there by where it is at the source.
    fn bridged(&self) -> Result<(), Unsound> {
        self.none("were confirmed and did not come over the bridge", |_, it| {
            !it.may_be_lost() && it.arrived == 0
        })?;
        self.none("came over the bridge from where they are not", |topic, it| {
            topic != worker::FLEETING && it.arrived_from.keys().any(|at| !it.places.contains(at))
        })?;
        match &self.mixed {
            Some(example) => Err(Unsound {
                count: 2,
                what: "have one origin at the destination",
                example: example.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Messages that came over the bridge behind one that lies behind them on their node, and has the same key, or
    /// none as they have. Where one comes twice, its first coming counts.
    fn overtaken(&self, of_mode: &str) -> (usize, String) {
        let mut came: BTreeMap<_, BTreeMap<u64, u64>> = BTreeMap::new();
        for ((topic, body), it) in self.messages.iter().filter(|((it, _), _)| mode(it) == of_mode) {
            let key = numbered(body).filter(|_| worker::is_ordered(topic)).map(|(key, _)| key);
            for ((node, offset), at) in &it.arrived_from {
                came.entry((topic, key, node)).or_default().insert(*offset, *at);
            }
        }
        let (mut count, mut example) = (0, String::new());
        for ((topic, _, node), came) in came {
            let (mut last, mut latest) = (0, 0);
            for (offset, at) in came {
                if at < latest {
                    count += 1;
                    example =
                        format!(" (offset {last} of {topic} on {node}, say, behind {offset})");
                } else {
                    (last, latest) = (offset, at);
                }
            }
        }
        (count, example)
    }

    /// Whether a node's program ended meanwhile, or was killed if only that counts.
    fn ended(&self, node: &str, from: u64, to: u64, only_kills: bool) -> bool {
        let mut ends = self.ends.get(node).into_iter().flatten();
        ends.any(|end| (from..=to).contains(&end.at) && (end.is_kill || !only_kills))
    }

    /// Whether a message was delivered anew that had been acked for good.
    fn is_repeat(&self, ack: &Delivery, later: &Delivery) -> bool {
        (&ack.node, ack.offset) == (&later.node, later.offset)
            && later.attempt > ack.attempt
            && !self.ended(&ack.node, ack.at, later.at, true)
    }

    /// No delay is over early as long as its node runs, whatever clocks do meanwhile.
    fn none_early(&self) -> Result<(), Unsound> {
        let ended = |(node, from, to): &&(String, u64, u64)| self.ended(node, *from, *to, false);
        let mut early = self.early.iter().filter(|early| !ended(early));
        let Some((node, from, to)) = early.next() else { return Ok(()) };
        let example =
            format!("the first is of {node}, given back at {from} ms and taken at {to} ms");
        Err(Unsound { count: 1 + early.count(), what: "came before their delay was over", example })
    }

    /// On each node, messages of one key lie in the order in which they were published; and between two that
    /// follow on each other and lie on different nodes, their publisher was told that the order moves, unless it
    /// was killed between them.
    fn in_order(&self) -> Result<(), Unsound> {
        let mut on_nodes: BTreeMap<_, BTreeMap<u64, u64>> = BTreeMap::new();
        let mut of_keys: BTreeMap<_, BTreeMap<u64, &str>> = BTreeMap::new();
        for ((topic, body), it) in &self.messages {
            let Some((key, number)) = numbered(body) else { continue };
            for (node, offset) in it.places.iter().filter(|_| worker::is_ordered(topic)) {
                on_nodes.entry((topic, key, node)).or_default().insert(*offset, number);
                of_keys.entry((topic, key)).or_default().insert(number, node);
            }
        }
        for ((topic, key, node), numbers) in on_nodes {
            let numbers: Vec<_> = numbers.into_values().collect();
            if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
                let example =
                    format!("{topic} key {key} on {node}: {} before {}", pair[0], pair[1]);
                return Err(Unsound { count: 1, what: "are out of order", example });
            }
        }
        for ((topic, key), places) in of_keys {
            let places: Vec<_> = places.into_iter().collect();
            for pair in places.windows(2) {
                let [(before, from), (after, to)] = pair else { continue };
                let moves = self.moves.get(&(topic.clone(), key.to_owned()));
                let is_told = moves.is_some_and(|at| at.range(before + 1..=*after).count() > 0);
                let one_publisher = before / worker::LIFE == after / worker::LIFE;
                if from != to && one_publisher && !is_told {
                    let example =
                        format!("{topic} key {key}: {before} is on {from}, {after} on {to}");
                    return Err(Unsound { count: 1, what: "moved in silence", example });
                }
            }
        }
        Ok(())
    }

    /// What one program of a mesh sent to another, its only reader took in that order, but for what it took again.
    fn in_order_of_sending(&self) -> Result<(), Unsound> {
        let mut taken: BTreeMap<_, BTreeMap<u64, u64>> = BTreeMap::new();
        for ((topic, body), it) in self.messages.iter().filter(|(_, it)| it.taken > 0) {
            if let (true, Some((_, number))) = (topic.starts_with(worker::MESH), numbered(body)) {
                taken.entry(topic).or_default().insert(it.first_taken, number);
            }
        }
        for (topic, numbers) in taken {
            let numbers: Vec<_> = numbers.into_values().collect();
            if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
                let example = format!("{topic}: {} before {}", pair[0], pair[1]);
                return Err(Unsound { count: 1, what: "were taken out of order", example });
            }
        }
        Ok(())
    }

    fn none(
        &self,
        what: &'static str,
        is_bad: impl Fn(&str, &Became) -> bool,
    ) -> Result<(), Unsound> {
        let mut bad = self.messages.iter().filter(|((topic, _), it)| is_bad(topic, it));
        let Some(((topic, body), it)) = bad.next() else { return Ok(()) };
        let example = format!("the first is {body} of {topic}: {it:?}");
        Err(Unsound { count: 1 + bad.count(), what, example })
    }
}

/// What stands before the last `/` of a body, and the number behind it.
fn numbered(body: &str) -> Option<(&str, u64)> {
    let (before, number) = body.rsplit_once('/')?;
    Some((before, number.parse().ok()?))
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> =
            self.faults.iter().map(|(what, count)| format!("{what} {count}")).collect();
        writeln!(f, "{} faults: {}", self.faults(), kinds.join(", "))?;
        let modes: BTreeSet<_> = self.messages.keys().map(|(topic, _)| mode(topic)).collect();
        for mode in modes {
            let of: Vec<_> =
                self.messages.iter().filter(|((topic, _), _)| self::mode(topic) == mode).collect();
            let count = |is: &dyn Fn(&Became) -> bool| of.iter().filter(|(_, it)| is(it)).count();
            let confirmed = count(&Became::is_confirmed);
            let unknown = |it: &Became| it.told == Some(Told::Unknown);
            let failed = count(&|it| matches!(it.told, Some(Told::Failed(_))));
            let unheard = |it: &Became| it.told.is_none();
            let lost = count(&|it| it.is_confirmed() && it.taken == 0);
            let twice = count(&|it| it.places.len() > 1);
            let again = count(&|it| it.taken as usize > it.places.len());
            let longest = of.iter().map(|(_, it)| it.took_ms).max().unwrap_or_default();
            let moves = self.moves.iter().filter(|((topic, _), _)| self::mode(topic) == mode);
            let moves: usize = moves.map(|(_, at)| at.len()).sum();
            write!(
                f,
                "{mode}: {confirmed} confirmed of which {lost} are lost, {failed} failed, {} unknown of which {} are \
                 stored, {} whose publisher was killed of which {} are stored, {twice} on two nodes, {again} \
                 delivered again, order moved {moves} times, longest call {longest} ms",
                count(&unknown),
                count(&|it| unknown(it) && it.taken > 0),
                count(&unheard),
                count(&|it| unheard(it) && it.taken > 0),
            )?;
            if self.is_bridged {
                let arrived = count(&|it| it.arrived > 0);
                let repeated = count(&|it| it.arrived as usize > it.arrived_from.len());
                let (overtaken, example) = self.overtaken(mode);
                write!(
                    f,
                    "; {arrived} over the bridge, {repeated} of them twice, {overtaken} behind later ones{example}"
                )?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The mode of a topic, of which each client may have one.
fn mode(topic: &str) -> &str {
    topic.split_once('-').map_or(topic, |(mode, _)| mode)
}

/// What two processors that have much else to do may add to a publish timeout.
const SLACK: Duration = Duration::from_secs(12);

#[cfg(test)]
mod tests {
    use super::{super::field::End, *};

    fn account(journal: &str) -> Account {
        let mut account = Account { is_bridged: true, ..Account::default() };
        // Whatever is said of was meant to be published, unless it begins with an x.
        for line in journal.lines() {
            let words: Vec<_> = line.split('\t').collect();
            if let ["C" | "U" | "F" | "G", topic, body, ..] = words[..]
                && !body.starts_with('x')
            {
                account.read(&format!("P\t{topic}\t{body}\n"));
            }
        }
        account.read(journal);
        account
    }

    /// Confirmed, taken and brought over.
    fn whole(topic: &str, body: &str, node: &str, offset: u64) -> String {
        format!(
            "C\t{topic}\t{body}\t{node}\t{offset}\t3\tdisk\nG\t{topic}\t{body}\t{node}\t{offset}\ti-{body}\n\
             D\t{topic}\t{body}\t0\ts/{node}/{topic}/{offset}/7\n"
        )
    }

    const REPEAT: &str = "A\tplain\ta/1\tn1\t7\t1\t100\nG\tplain\ta/1\tn1\t7\ti-a/1\t2\t200\n";

    #[test]
    fn each_broken_promise_is_found_by_its_name() {
        let sound = format!(
            "{}{}U\tsame\ta/2\t9\tgone\nF\tplain\ta/3\t3000\tno node\nG\tordered-a\t1/2\tn1\t4\n\
             U\tordered-a\t1/2\t1\t\nP\tplain\ta/10\nM\tordered-a\t1/3\n{}C\tmemory\ta/1\tn1\t5\t1\tmemory\n",
            whole("plain", "a/1", "n1", 7),
            whole("ordered-a", "1/1", "n1", 0),
            whole("ordered-a", "1/3", "n2", 0),
        );
        account(&sound).check().unwrap();
        let mesh =
            "P\tmesh-a>b\ta/2\nP\tmesh-a>b\ta/1\nG\tmesh-a>b\ta/2\tb\t1\nG\tmesh-a>b\ta/1\tb\t1\n";
        for (line, what) in [
            ("C\tplain\ta/4\tn1\t8\t3\tdisk\n", "lost"),
            ("G\tplain\ta/3\tn1\t8\n", "nothing happened"),
            ("G\tplain\tx\tn1\t9\n", "nobody published"),
            ("G\tplain\ta/5\tn2\t7\nC\tplain\ta/5\tn1\t7\t3\tos\n", "not where"),
            ("G\tsame\ta/2\tn1\t7\nG\tsame\ta/2\tn2\t7\n", "twice"),
            ("G\tplain\ta/1\tn1\t7\tanother\n", "two ids"),
            ("F\tplain\ta/8\t16000\tno node\n", "longer than"),
            ("U\tordered-a\t1/0\t1\t\nG\tordered-a\t1/0\tn1\t9\n", "out of order"),
            ("U\tordered-a\t1/4\t1\t\nG\tordered-a\t1/4\tn1\t9\n", "in silence"),
            ("G\tplain\ta/6\tn2\t8\nC\tplain\ta/6\tn2\t8\t3\tos\n", "did not come over the bridge"),
            ("D\tplain\ta/1\t1\ts/n1/plain/9/7\n", "from where they are not"),
            (
                "P\tplain\ta/7\nG\tplain\ta/7\tn1\t7\nD\tplain\ta/7\t1\ts/n1/plain/7/7\n",
                "one origin",
            ),
            (mesh, "taken out of order"),
            (REPEAT, "after their ack"),
            ("E\tplain\ta/1\tn1\t100\t200\n", "before their delay"),
        ] {
            let error = account(&format!("{sound}{line}")).check().unwrap_err().to_string();
            assert!(error.contains(what), "{error} is not {what}");
        }
        // On two nodes is what plain producers may do, half a line is none, a new publisher knows of no node
        // before, and in memory nothing lasts.
        let more = format!(
            "G\tplain\ta/1\tn2\t1\n{}C\tplain\ta/9",
            whole("ordered-a", "1/1000000", "n1", 9)
        );
        account(&format!("{sound}{more}{}\nC\tplain\ta/9", worker::BROKEN)).check().unwrap();
        // A node that was started again may take its clock's word for it.
        let mut early = account(&format!("{sound}E\tplain\ta/1\tn1\t100\t200\n"));
        let end = End { at: 150, is_kill: false };
        early.ends.insert("n1".to_owned(), vec![end]);
        early.check().unwrap();
        // And one that was killed may have forgotten an ack.
        let repeated = format!("{sound}{REPEAT}");
        let end = End { at: 150, is_kill: true };
        let mut repeated = account(&repeated);
        repeated.ends.insert("n1".to_owned(), vec![end]);
        repeated.check().unwrap();
    }
}
