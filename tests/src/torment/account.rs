use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use thiserror::Error;

use super::worker;

/// What became of every message.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Faults that there were.
    pub faults: u32,
    /// By topic and body.
    messages: BTreeMap<(String, String), Became>,
}

/// What became of one message.
#[derive(Clone, Debug, Default)]
struct Became {
    /// What its publisher was told.
    told: Option<Told>,
    took_ms: u64,
    /// Where a receipt says that it is.
    receipt: Option<(String, Option<u64>)>,
    /// Where consumers found it, and how often it came.
    places: BTreeSet<(String, u64)>,
    taken: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Confirmed,
    Unknown,
    /// Nothing happened, and why.
    Failed(String),
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
        // Of a line that is not whole nothing is known yet.
        for line in journal.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<_> = line.split('\t').collect();
            let [kind, topic, body, rest @ ..] = &words[..] else { continue };
            let became =
                self.messages.entry(((*topic).to_owned(), (*body).to_owned())).or_default();
            let number = |index: usize| rest.get(index).and_then(|word| word.parse::<u64>().ok());
            let word = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
            match *kind {
                "C" => {
                    became.told = Some(Told::Confirmed);
                    became.receipt = Some((word(0), number(1)));
                    became.took_ms = number(2).unwrap_or_default();
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
                    became.taken += 1;
                }
                _ => {}
            }
        }
    }

    /// Messages that were confirmed and that no consumer has had.
    #[must_use]
    pub fn missing(&self) -> usize {
        let missing = |it: &&Became| it.told == Some(Told::Confirmed) && it.taken == 0;
        self.messages.values().filter(missing).count()
    }

    /// Checks every promise.
    pub(super) fn check(&self) -> Result<(), Unsound> {
        let confirmed = |it: &Became| it.told == Some(Told::Confirmed);
        self.none("were confirmed and lost", |_, it| confirmed(it) && it.taken == 0)?;
        let denied = |it: &Became| matches!(it.told, Some(Told::Failed(_)));
        self.none("were stored, and their publisher was told that nothing happened", |_, it| {
            denied(it) && it.taken > 0
        })?;
        self.none("came that nobody published", |_, it| it.told.is_none())?;
        self.none("are not where their receipt says", |_, it| {
            let Some((node, Some(offset))) = &it.receipt else { return false };
            it.taken > 0 && !it.places.contains(&(node.clone(), *offset))
        })?;
        self.none("are stored twice in a mode that stores once", |topic, it| {
            topic != "plain" && it.places.len() > 1
        })?;
        let late = worker::TIMEOUT + SLACK;
        self.none("took far longer than they may", |_, it| {
            u128::from(it.took_ms) > late.as_millis()
        })?;
        self.in_order()
    }

    /// On each node, messages of one key lie in the order in which they were published.
    fn in_order(&self) -> Result<(), Unsound> {
        let mut lies: BTreeMap<_, BTreeMap<u64, u64>> = BTreeMap::new();
        for ((topic, body), it) in &self.messages {
            let Some((key, number)) = body.split_once('/') else { continue };
            let Ok(number) = number.parse() else { continue };
            for (node, offset) in it.places.iter().filter(|_| topic.starts_with("ordered-")) {
                lies.entry((topic, key, node)).or_default().insert(*offset, number);
            }
        }
        for ((topic, key, node), numbers) in lies {
            let numbers: Vec<_> = numbers.into_values().collect();
            if let Some(pair) = numbers.windows(2).find(|pair| pair[0] >= pair[1]) {
                let example =
                    format!("{topic} key {key} on {node}: {} before {}", pair[0], pair[1]);
                return Err(Unsound { count: 1, what: "are out of order", example });
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

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} faults", self.faults)?;
        for mode in ["plain", "same", "ordered"] {
            let of: Vec<_> =
                self.messages.iter().filter(|((topic, _), _)| topic.starts_with(mode)).collect();
            let count = |is: &dyn Fn(&Became) -> bool| of.iter().filter(|(_, it)| is(it)).count();
            let confirmed = count(&|it| it.told == Some(Told::Confirmed));
            let unknown = count(&|it| it.told == Some(Told::Unknown));
            let failed = count(&|it| matches!(it.told, Some(Told::Failed(_))));
            let stored = count(&|it| it.told == Some(Told::Unknown) && it.taken > 0);
            let twice = count(&|it| it.places.len() > 1);
            let again = count(&|it| it.taken as usize > it.places.len());
            let longest = of.iter().map(|(_, it)| it.took_ms).max().unwrap_or_default();
            writeln!(
                f,
                "{mode}: {confirmed} confirmed, {failed} failed, {unknown} unknown of which {stored} are \
                 stored, {twice} on two nodes, {again} delivered again, longest call {longest} ms"
            )?;
        }
        Ok(())
    }
}

/// What two processors that have much else to do may add to a publish timeout.
const SLACK: Duration = Duration::from_secs(12);

#[cfg(test)]
mod tests {
    use super::*;

    fn account(journal: &str) -> Account {
        let mut account = Account::default();
        account.read(journal);
        account
    }

    #[test]
    fn each_broken_promise_is_found_by_its_name() {
        let sound = "C\tplain\ta/1\tn1\t7\t3\nG\tplain\ta/1\tn1\t7\nU\tsame\ta/2\t9\tgone\n\
                     F\tplain\ta/3\t3000\tno node\nC\tordered-a\t1/1\tn1\t0\t1\n\
                     G\tordered-a\t1/1\tn1\t0\nG\tordered-a\t1/2\tn1\t4\nU\tordered-a\t1/2\t1\t\n";
        account(sound).check().unwrap();
        for (line, what) in [
            ("C\tplain\ta/4\tn1\t8\t3\n", "lost"),
            ("G\tplain\ta/3\tn1\t8\n", "nothing happened"),
            ("G\tplain\tx\tn1\t9\n", "nobody published"),
            ("G\tplain\ta/5\tn2\t7\nC\tplain\ta/5\tn1\t7\t3\n", "not where"),
            ("G\tsame\ta/2\tn1\t7\nG\tsame\ta/2\tn2\t7\n", "twice"),
            ("F\tplain\ta/8\t16000\tno node\n", "longer than"),
            ("U\tordered-a\t1/0\t1\t\nG\tordered-a\t1/0\tn1\t9\n", "out of order"),
        ] {
            let error = account(&format!("{sound}{line}")).check().unwrap_err().to_string();
            assert!(error.contains(what), "{error} is not {what}");
        }
        // On two nodes is what plain producers may do, and half a line is none.
        account(&format!("{sound}G\tplain\ta/1\tn2\t1\nC\tplain\ta/9")).check().unwrap();
    }
}
