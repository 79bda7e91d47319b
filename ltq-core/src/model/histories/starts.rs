//! Where new channels have to begin.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

/// Who asked for which channel, and when what was published.
#[derive(Default)]
pub(super) struct Starts {
    asked: BTreeMap<String, Vec<Asked>>,
    /// When a body was first published, and when last.
    told: HashMap<String, (u64, u64)>,
    tick: u64,
}

/// A wish for a channel, and the log by then.
#[derive(Debug)]
struct Asked {
    for_what: Asks,
    tick: u64,
    first: u64,
    end: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Asks {
    Earliest,
    Latest,
    Offset(u64),
    /// The first message of that time, if it was there.
    Time(Option<u64>),
}

impl Starts {
    pub(super) fn published(&mut self, body: &str) {
        self.tick += 1;
        let tick = self.tick;
        let (_, last) = self.told.entry(body.to_owned()).or_insert((tick, tick));
        *last = tick;
    }

    pub(super) fn asks(&mut self, name: &str, for_what: Asks, (first, end): (u64, u64)) {
        self.tick += 1;
        let asked = Asked { for_what, tick: self.tick, first, end };
        self.asked.entry(name.to_owned()).or_default().push(asked);
    }

    /// All that was asked for is there or never will be.
    pub(super) fn forget(&mut self) {
        self.asked.clear();
    }

    /// A channel is there: it begins where one of those who asked for it wanted.
    pub(super) fn created(&mut self, name: &str, start: u64, first: u64, log: &[Rc<str>]) {
        let mut asked = self.asked.remove(name).unwrap_or_default();
        let wanted = asked.iter().find(|asked| self.fits(asked, start, first, log));
        let tick = wanted.map(|asked| asked.tick);
        let tick = tick.unwrap_or_else(|| {
            panic!("promise 2: {name} begins at {start}, the log at {first}: {asked:?}")
        });
        // Who asked later may get another one; a time is looked up for longer.
        asked.retain(|asked| asked.tick > tick || matches!(asked.for_what, Asks::Time(_)));
        self.asked.insert(name.to_owned(), asked);
    }

    fn fits(&self, asked: &Asked, start: u64, first: u64, log: &[Rc<str>]) -> bool {
        let end = log.len() as u64;
        let place = |offset: u64, first: u64, end: u64| offset.max(first).min(end);
        let between = |least: u64, most: u64| least <= start && start <= most;
        match asked.for_what {
            Asks::Earliest => between(asked.first, first),
            Asks::Latest => {
                // Behind all that was published before, and before all that was published after.
                let behind = |offset: u64| {
                    let told = log.get(offset as usize).and_then(|body| self.told.get(&**body));
                    told.is_none_or(|(before, last)| match offset < start {
                        true => *before < asked.tick,
                        false => *last > asked.tick,
                    })
                };
                between(asked.end, end) && (asked.end..end).all(behind)
            }
            Asks::Offset(offset) => {
                between(place(offset, asked.first, asked.end), place(offset, first, end))
            }
            Asks::Time(Some(found)) => {
                // Once that one is given up, none of that time may be left: clocks step back.
                let moved = first != asked.first || found < asked.first;
                let most = if moved { end } else { found.max(first) };
                between(place(found, asked.first, asked.end), most)
            }
            // What was being stored by then, or came later, is of that time or later.
            Asks::Time(None) => between(asked.end, end),
        }
    }
}
