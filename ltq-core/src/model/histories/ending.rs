//! How a node ends and starts again, and how a history ends well.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use super::{
    history::History,
    real::Ending,
    saved::Saved,
    scenario::{CONSUMERS, PRODUCERS, Restart, Start, Step, Terms},
};
use crate::{
    ChannelStats, Durability, Keep, Monotonic, Settlement, StoreError, Verdict,
    model::{
        Event, Topic, TopicAction, keys,
        testing::{channel, tags},
    },
};

impl History {
    /// The node begins to stop.
    pub(super) fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            // What is for nobody is gone before anything is stored.
            self.tell_first(Event::Stop);
            self.oracle.stops();
            self.flush();
        }
    }

    pub(super) fn restart(&mut self, how: Restart, keeps: usize, away_ms: i64) {
        self.note("", || format!("{how:?}, {keeps}, and {away_ms} ms on the wall"));
        let how = if self.dark { Restart::PowerLoss } else { how };
        let level = match how {
            Restart::Clean => return self.restart_cleanly(keeps, away_ms),
            Restart::Failing(failure) if self.store.is_some() => {
                self.fail(failure);
                return self.restart_cleanly(keeps, away_ms);
            }
            Restart::Failing(failure) => {
                self.world.hold_commits = true;
                self.stop();
                self.fail(failure);
                self.world.hold_commits = false;
                self.commit_all();
                if !self.stopping {
                    // It was deleted before it came to rest.
                    return;
                }
                self.check_stopped();
                Durability::Memory
            }
            Restart::Kill => Durability::Os,
            Restart::KillAfter => {
                self.finish_commit(Durability::Os);
                Durability::Os
            }
            Restart::PowerLoss => {
                if keeps == 5 {
                    self.finish_commit(Durability::Disk);
                }
                Durability::Disk
            }
        };
        self.oracle.crashed = true;
        let ending = if level == Durability::Disk { Ending::PowerLost } else { Ending::Killed };
        if let Some((saved, level)) = self.reopen(ending) {
            return self.revive(&saved, level, away_ms);
        }
        if keeps % 2 == 1 {
            self.oracle.was_committed(level);
        }
        let saved = self.oracle.snapshots.after_crash(level, keeps);
        let saved = self.crashed(saved, level, keeps);
        self.revive(&saved, level, away_ms);
    }

    /// The commit under way is done, and nobody hears of it.
    fn finish_commit(&mut self, level: Durability) {
        if self.dark {
            return;
        }
        if let Some((_, asked)) = self.world.commit.take() {
            match self.store.as_mut().map(|store| store.finish()) {
                None => self.oracle.committed(asked.max(level)),
                Some(Ok(committed)) => self.oracle.committed(committed.durability),
                Some(Err(error)) => {
                    self.oracle.not_committed(matches!(error, StoreError::Failed(_)));
                }
            }
        }
    }

    fn restart_cleanly(&mut self, keeps: usize, away_ms: i64) {
        let at_once = !self.stopping;
        let hold = std::mem::take(&mut self.world.hold_commits);
        self.stop();
        self.commit_all();
        self.world.hold_commits = hold;
        if self.dark {
            return self.restart(Restart::PowerLoss, keeps, away_ms);
        }
        if !self.stopping {
            // It was deleted before it came to rest.
            return;
        }
        self.check_stopped();
        let (before, then) = (self.oracle.channels.clone(), self.world.now);
        let stored = self.world.topic.store.failed.is_none() && !self.unsaved;
        let was_new = self.world.stored.log.is_none();
        for name in self.given_up.iter().filter(|_| stored) {
            let key = keys::producer_key(&self.world.topic.name, name);
            assert!(!self.world.stored.values.contains_key(&key), "{name} is still stored");
        }
        self.oracle.crashed |= !stored;
        let (saved, level) = self.reopen(Ending::Closed).unwrap_or_else(|| {
            if keeps % 2 == 1 {
                self.oracle.was_committed(Durability::Memory);
            }
            (self.oracle.snapshots.now().clone(), Durability::Memory)
        });
        let stored = stored && level == Durability::Memory;
        self.oracle.crashed |= !stored;
        self.revive(&saved, level, away_ms);
        // While it stops, clocks may be set that nobody looks at any more.
        let kept = |name: &str| at_once && stored && !was_new && !name.ends_with("#ephemeral");
        for (name, before) in before.iter().filter(|(name, _)| kept(name)) {
            let after = self.oracle.channels.get(name).expect("the channel");
            let kept = after.is_as_kept(before, then, self.world.now, &self.oracle.discarded);
            assert!(kept, "promises 12 and 14: {before:?} {after:?}");
        }
    }

    fn check_stopped(&self) {
        assert!(self.stopped, "promise 11: it does not come to rest");
        assert_eq!(self.world.topic.unanswered_bytes(), 0, "promise 9: all were answered");
        self.oracle.answers.check_all();
        assert!(self.oracle.consumers.is_empty(), "promise 11: some believe to be subscribed");
    }

    /// The node starts with what is stored.
    fn revive(&mut self, saved: &Rc<Saved>, level: Durability, away_ms: i64) {
        self.set_wall(away_ms);
        if saved.contents.log.is_none() {
            // It was never made durable.
            self.oracle.check_promised(0, level);
            self.world.stored = saved.contents.clone();
            self.world.now.monotonic = Monotonic(7);
            return self.make_new();
        }
        self.world.stored = saved.contents.clone();
        self.world.restore();
        self.told = self.world.now;
        self.given_up.clear();
        self.locates.clear();
        (self.stopping, self.stopped, self.unsaved) = (false, false, false);
        self.may_forget |= self.is_volatile() && level > Durability::Memory;
        self.oracle.restarted(saved, level, &self.world.topic, self.world.now);
        for publisher in &mut self.publishers {
            (publisher.open, publisher.asked) = (false, false);
        }
        self.run();
    }

    /// It goes because somebody wants that or nobody needs it.
    pub(super) fn check_end(&self) {
        let topic = &self.world.topic;
        let made = self.world.stored.log.is_some();
        let needed = !self.oracle.channels.is_empty() || !self.oracle.consumers.is_empty();
        let unneeded = topic.name.is_ephemeral() && !needed;
        assert!(
            !made || unneeded || self.oracle.answers.deleted,
            "promise 2: it is gone, and nobody wanted that: {:?}",
            self.oracle.channels
        );
    }

    /// The topic said that it is gone: everybody was told.
    pub(super) fn make_anew(&mut self) {
        self.gone = false;
        if self.oracle.maybe.is_some() {
            // The store failed when it was to be made.
            return self.restart(Restart::Kill, 0, 0);
        }
        self.oracle.answers.check_all();
        assert_eq!(self.world.topic.unanswered_bytes(), 0, "promise 9: all were answered");
        assert!(self.world.stored.log.is_none(), "its log is left");
        let values = &self.world.stored.values;
        assert!(values.is_empty(), "promise 9: {values:?} are left of it");
        self.make_new();
    }

    fn make_new(&mut self) {
        let (name, limits) = (self.world.topic.name.clone(), self.world.topic.limits.clone());
        self.world.topic = Topic::create(name, self.settings, limits.clone(), self.world.now);
        self.told = self.world.now;
        (self.world.commit, self.world.loads) = (None, Vec::new());
        self.world.damaged = Default::default();
        self.oracle = super::oracle::Oracle::new((*limits).clone());
        self.oracle.retentions.push(self.settings.retention);
        self.given_up.clear();
        self.locates.clear();
        (self.stopping, self.stopped, self.unsaved) = (false, false, false);
        self.opened = false;
        (self.may_forget, self.names) = (false, BTreeSet::new());
        for publisher in &mut self.publishers {
            (publisher.open, publisher.asked, publisher.epoch) = (false, false, 0);
        }
    }

    /// When the faults stop, everything is delivered and done, and nothing is kept that nobody
    /// wants.
    pub(super) fn drain(&mut self) {
        self.flush();
        self.note("", || "nothing goes wrong any more".to_owned());
        (self.world.hold_commits, self.world.hold_loads) = (false, false);
        self.world.unreadable = false;
        self.commit_all();
        self.read_all();
        let unwell = self.store.as_mut().is_some_and(|store| {
            store.mend();
            store.is_unwell()
        });
        if self.dark || unwell {
            self.restart(Restart::PowerLoss, 0, 0);
        }
        if self.stopping || self.world.topic.store.failed.is_some() {
            self.restart(Restart::Clean, 0, 0);
        }
        self.check();
        if self.world.stored.log.is_none() {
            return;
        }
        self.admin(TopicAction::Pause(false));
        for name in self.oracle.channels.keys().cloned().collect::<Vec<_>>() {
            self.admin(TopicAction::PauseChannel(channel(&name), false));
        }
        for index in 0..CONSUMERS {
            self.step(&Step::Hold { consumer: index, held: false });
        }
        let terms = Terms { messages: 20, bytes: 1 << 20, timeout_ms: None, seat: None };
        for (index, name) in (10..).zip(["a", "b"]) {
            if self.oracle.channels.contains_key(name) {
                self.subscribe(index, name, Start::Earliest, false, terms);
            }
        }
        for round in 0..ROUNDS_MAX {
            let left = |told: &ChannelStats| told.waiting + told.delayed + told.in_flight;
            let is_done = |told: &ChannelStats| left(told) == 0 || told.consumers == 0;
            if round >= ROUNDS && self.world.topic.stats().channels.iter().all(is_done) {
                break;
            }
            for id in self.oracle.consumers.keys().copied().collect::<Vec<_>>() {
                self.grant(id, 20, 1 << 20);
                let all = Settlement { tags: tags(0, u64::MAX), verdict: Verdict::Ack };
                self.settle(id, false, vec![all]);
            }
            self.advance(Duration::from_millis(100));
            self.check();
        }
        for stats in self.world.topic.stats().channels {
            let left = stats.waiting + stats.delayed + stats.in_flight;
            assert!(left == 0 || stats.consumers == 0, "promise 16: {stats:?}");
        }
        self.oracle.answers.check_all();
        self.check_kept();
        self.come_to_rest();
        self.kill_at_rest();
    }

    /// Nothing is kept that nobody wants.
    fn check_kept(&mut self) {
        let retention = self.world.topic.settings().retention;
        let (first, end) = (self.world.stored.bounds().first.0, self.oracle.end());
        let channels = self.world.topic.stats().channels;
        // It is looked at when something was acked.
        let read = channels.iter().all(|channel| channel.consumers > 0)
            && channels.iter().any(|channel| channel.delivered > 0);
        let all_done = read && retention.keep == Keep::Unacked;
        assert!(!all_done || first == end, "promise 9: {first} to {end} are kept for nobody");
        if let Some(age) = retention.age_max {
            self.advance(age + age / 16 + Duration::from_millis(500));
            let (first, end) = (self.oracle.first_kept(), self.oracle.end());
            assert_eq!(first, end, "promise 9: what is older than {age:?} is kept");
        }
    }

    /// Everybody leaves, and nothing is left to do.
    fn come_to_rest(&mut self) {
        for id in self.oracle.consumers.keys().copied().collect::<Vec<_>>() {
            self.unsubscribe(id);
        }
        for index in 0..PRODUCERS {
            self.close(index, false);
        }
        for life in 1..=self.lives {
            self.producer_gone_of(life);
        }
        self.advance(Duration::from_secs(10));
        self.check();
        assert!(self.world.topic.is_idle(), "promise 9: a topic at rest has something to do");
        let name = &self.world.topic.name;
        let gone = self.world.stored.log.is_none();
        let needed = !self.oracle.channels.is_empty() || !self.opened;
        assert!(!name.is_ephemeral() || needed || gone, "promise 9: nobody needs {name}");
    }

    /// All that happened is stored by now.
    fn kill_at_rest(&mut self) {
        let (before, then) = (self.oracle.channels.clone(), self.world.now);
        self.restart(Restart::Kill, 0, 0);
        if self.is_volatile() {
            // Nothing that was said of messages that are lost is to be there.
            return self.check();
        }
        for (name, before) in before.iter().filter(|(name, _)| !name.ends_with("#ephemeral")) {
            let after = self.oracle.channels.get(name).expect("the channel");
            let kept = after.is_as_kept(before, then, self.world.now, &self.oracle.discarded);
            assert!(kept, "promise 12: {before:?} {after:?}");
        }
        self.check();
    }
}

/// Tenths of a second in which everybody takes and settles what there is: longer than any delay, and
/// as much longer as a channel needs that may have one run at a time.
const ROUNDS: usize = 60;
const ROUNDS_MAX: usize = 1_000;
