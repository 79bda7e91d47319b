//! How commits are put together, and what follows when they end.

use std::collections::VecDeque;

use super::{
    Command, Gate, ProducerId, Reply, SequenceRange, Topic,
    channel::Channel,
    commit::{Effect, Group, Opening, Outcome},
    keys,
    persisting::States,
    producers::Entry,
    publishing::gap,
    topic::{Stage, StoreWord},
    wish::{Flow, Wish, fenced},
};
use crate::{
    AdminResponse, ChannelName, Committed, Durability, LogOptions, Refusal, RefusalCode, StoreError,
};

impl Topic {
    /// Puts the next commit together from what is wished for, and hands it out unless nothing of
    /// it needs the store.
    pub(super) fn build(&mut self, gate: &mut dyn Gate) {
        self.commit.begin(self.bounds.end, self.now.wall);
        if self.stage == Stage::New {
            self.commit.creates = true;
            // That there is a topic has to last, whatever becomes of its messages.
            self.commit.needs(Durability::Disk);
            let durable = self.settings.durability > Durability::Memory;
            self.commit.batch.create_log(self.log.clone(), LogOptions { durable });
            self.put_topic();
        }
        while let Some(wish) = self.wishes.pop_front() {
            match self.take(wish, gate) {
                Flow::Next => {}
                Flow::Last => break,
                Flow::Wait(wish) => {
                    self.wishes.push_front(wish);
                    break;
                }
            }
            let appends = &self.commit.appends;
            if appends.bytes >= self.limits.commit_bytes_max
                || appends.publishes >= self.limits.commit_publishes_max
            {
                break;
            }
        }
        // A barrier stays empty, since only an empty batch speaks for what was before it.
        let alone = self.commit.barrier.is_some() || self.commit.deletes;
        let states = if alone { States::None } else { States::Riding };
        self.close_commit(states);
    }

    /// Adds what belongs to every commit, and hands it out.
    pub(super) fn close_commit(&mut self, states: States) {
        let commit = &mut *self.commit;
        commit.appends.flush(&mut commit.batch, &self.log);
        let stores = !commit.batch.is_empty()
            || !commit.puts.is_empty()
            || matches!(states, States::Alone | States::Last);
        if stores && !commit.deletes && commit.barrier.is_none() {
            for name in &self.producers.forgotten {
                commit.batch.delete(keys::producer_key(&self.name, name));
                commit.forgets += 1;
            }
        }
        self.put_producers();
        self.add_states(states);
        self.add_marks(states);
        if self.commit.batch.is_empty() && self.commit.barrier.is_none() {
            return self.succeeded(self.store.reach());
        }
        let batch = std::mem::take(&mut self.commit.batch);
        self.commit.outstanding = true;
        self.out.push_back(Command::Commit { batch, durability: self.commit.asked });
    }

    /// Puts what must be remembered of named producers into the commit.
    fn put_producers(&mut self) {
        let commit = &mut *self.commit;
        let asked = commit.asked.min(self.store.ceiling);
        let opened = commit.puts.iter().map(|&entry| (entry, None));
        let stored = commit.groups.iter();
        let stored = stored.filter_map(|group| Some((group.entry, Some(group.stored?))));
        for (entry, range) in opened.chain(stored) {
            let Some(producer) = self.producers.get(entry) else { continue };
            let Some(named) = &producer.name else { continue };
            let state = producer.state(range, self.now.wall, asked);
            commit.batch.put(named.key.clone(), super::state::encode(&state));
        }
    }

    /// The commit under way has ended.
    pub(super) fn committed(&mut self, result: Result<Committed, StoreError>) {
        if !self.commit.outstanding {
            return;
        }
        match result {
            Ok(Committed { durability }) => {
                self.store.learn(self.commit.asked, durability);
                self.succeeded(durability);
            }
            Err(error) => self.came_to_nothing(&error),
        }
    }

    fn succeeded(&mut self, reached: Durability) {
        let commit = &mut self.commit;
        if commit.creates {
            self.stage = Stage::Live;
        }
        self.figures.published += commit.appends.end.since(self.bounds.end);
        self.figures.published_bytes += commit.appends.bytes as u64;
        self.bounds.end = commit.appends.end;
        self.states_stored();
        self.marks_stored();
        if let Some(first) = self.commit.truncate {
            self.bounds.first = first;
            self.window.truncated(first);
            self.marks.truncate(first);
        }
        for &run in &self.commit.discards {
            self.window.discard(run, &self.limits);
        }
        let commit = &mut self.commit;
        if commit.barrier.is_some_and(|wanted| reached >= wanted) {
            self.producers.all_durable(reached);
        }
        self.producers.forgotten.drain(..commit.forgets);
        for group in &commit.groups {
            if let Some(producer) = self.producers.get_mut(group.entry) {
                producer.committed = producer.accepted;
                if group.stored.is_some() {
                    producer.durability = producer.durability.min(reached);
                }
            }
        }
        if !commit.appends.written_batches.is_empty() && self.channels.feed_hungry() {
            let fresh = std::mem::take(&mut commit.appends.written_batches);
            self.window.add_fresh(fresh, self.now.monotonic);
        }

        let mut orphans = Vec::new();
        let mut effects = std::mem::take(&mut self.commit.effects);
        for effect in effects.drain(..) {
            self.happened(effect, reached, &mut orphans);
        }
        self.commit.effects = effects;
        for channel in orphans {
            if let Some(index) = self.channels.find(&channel) {
                self.drop_if_abandoned(index);
            }
        }
        self.end_commit();
    }

    fn came_to_nothing(&mut self, error: &StoreError) {
        if let StoreError::Failed(why) = error {
            self.store.failed = Some(why.clone());
        } else if *error == StoreError::Closed {
            self.store.failed = Some(error.to_string());
        }
        let refusal = self.refusal(error);
        for group in &self.commit.groups {
            if let Some(producer) = self.producers.get_mut(group.entry) {
                producer.accepted = producer.committed;
            }
        }
        for &entry in &self.commit.puts {
            if let Some(producer) = self.producers.get_mut(entry) {
                producer.next_epoch = None;
            }
        }
        self.states_not_stored();
        if self.commit.barrier.is_some() && !self.commit.creates {
            // Whoever needed it is the first that waits.
            match self.wishes.pop_front() {
                Some(Wish::Publish(publish)) => {
                    self.wished_bytes -= publish.records.byte_len();
                    // Nothing of it was in the batch.
                    let refusal = self.store_failed().unwrap_or_else(|| refusal.clone());
                    self.refuse_unproven(&publish, &refusal);
                }
                Some(other) => self.wishes.push_front(other),
                None => {}
            }
        }
        let mut effects = std::mem::take(&mut self.commit.effects);
        for effect in &effects {
            self.undone(effect, &refusal);
        }
        effects.clear();
        self.commit.effects = effects;
        let creates = self.commit.creates;
        self.end_commit();
        if creates {
            let refusal = self.store_failed().unwrap_or(refusal);
            self.end(&refusal);
        }
    }

    fn end_commit(&mut self) {
        let mut closing = std::mem::take(&mut self.commit.closing);
        for (_, entry) in closing.drain(..) {
            self.producers.settle_down(entry);
        }
        self.commit.closing = closing;
        self.commit.finish();
        // Nobody is part of it any more.
        self.commit.number += 1;
    }

    /// What happens because a commit succeeded.
    fn happened(&mut self, effect: Effect, reached: Durability, orphans: &mut Vec<ChannelName>) {
        match effect {
            Effect::Publishes(group) => self.confirm(group, reached),
            Effect::Opened { id, entry, how, last } => self.opened(id, entry, how, last),
            Effect::Created { channel, start } => {
                self.vanish_at = None;
                let mut channel = Channel::new(channel, start);
                channel.put.rides_from = self.now.monotonic.plus(self.limits.ack_commit_interval);
                // A limit may have gone beyond its start since that was chosen.
                channel.drop_before(self.cut);
                self.channels.add(channel);
            }
            Effect::Joined { consumer, serial, channel } => match self.channels.find(&channel) {
                Some(index) if self.still_waits(consumer, serial) => {
                    self.join(index, consumer, serial);
                }
                _ => orphans.push(channel),
            },
            Effect::Dropped { channel, request } => {
                if let Some(index) = self.channels.find(&channel) {
                    self.drop_channel(index);
                }
                self.answer(Some(request), Ok(AdminResponse::Done));
            }
            Effect::Altered { retention, request } => {
                self.altered(retention);
                self.answer(Some(request), Ok(AdminResponse::Done));
            }
            Effect::ChannelPaused { request, .. }
            | Effect::TopicPaused { request, .. }
            | Effect::Done { request } => self.answer(Some(request), Ok(AdminResponse::Done)),
            Effect::Deleted { request } => {
                self.answer(request, Ok(AdminResponse::Done));
                let detail = format!("topic {} was deleted", self.name);
                self.end(&Refusal::new(RefusalCode::TopicDeleted, detail));
            }
        }
    }

    /// What follows when a commit came to nothing.
    fn undone(&mut self, effect: &Effect, refusal: &Refusal) {
        match *effect {
            Effect::Publishes(group) => self.take_back(group, refusal),
            Effect::Opened { id, entry, how: Opening::Resumed, last } => {
                self.tell_opened(id, entry, last);
            }
            Effect::Opened { id, entry, how, .. } => {
                match how {
                    Opening::New => self.producers.remove(entry),
                    Opening::Again => {
                        self.producers.detach(id, self.now.wall);
                        self.producers.settle_down(entry);
                    }
                    Opening::TakesOver | Opening::Resumed => {}
                }
                self.refuse_producer(id, refusal.clone());
                self.vanish_if_unused();
            }
            Effect::Created { .. } => {}
            Effect::Joined { consumer, serial, .. } => {
                self.refuse_subscriber(consumer, serial, refusal.clone());
            }
            Effect::ChannelPaused { channel: index, before, request } => {
                if let Some(channel) = self.channels.get_mut(index) {
                    channel.paused = before;
                    self.channels.touch(index);
                }
                self.answer(Some(request), Err(refusal.clone()));
            }
            Effect::TopicPaused { before, request } => {
                self.paused = before;
                self.channels.touch_all();
                self.answer(Some(request), Err(refusal.clone()));
            }
            Effect::Dropped { request, .. }
            | Effect::Altered { request, .. }
            | Effect::Done { request } => {
                self.answer(Some(request), Err(refusal.clone()));
            }
            Effect::Deleted { request } => {
                if request.is_none() {
                    self.vanish_later();
                }
                self.answer(request, Err(refusal.clone()));
            }
        }
    }

    fn opened(&mut self, id: ProducerId, entry: Entry, how: Opening, last: u64) {
        if let Some(producer) = self.producers.get_mut(entry)
            && let Some(epoch) = producer.next_epoch.take()
        {
            producer.epoch = epoch;
        }
        if how == Opening::TakesOver
            && let Some(before) = self.producers.attach(entry, id)
            && let Some(producer) = self.producers.get(entry)
            && let Some(named) = &producer.name
        {
            let refusal = fenced(&named.name, producer.epoch);
            self.refuse_producer(before, refusal);
        }
        self.tell_opened(id, entry, last);
    }

    /// Tells a producer what was stored, or had been before.
    fn confirm(&mut self, group: usize, reached: Durability) {
        let Some(group) = self.commit.groups.get(group) else { return };
        let &Group { id, entry, .. } = group;
        let mut said = Said::new(id, &mut self.out);
        for outcome in self.commit.outcomes(group) {
            let Some(producer) = self.producers.get_mut(entry) else { break };
            match outcome {
                Outcome::Stored(range) => {
                    producer.remember(*range);
                    said.confirm(*range, reached);
                }
                &Outcome::Duplicate { sequence, count, before } => {
                    // How durable each of the earlier ones is, nobody remembers.
                    let weakest = if before { producer.durability } else { reached };
                    let durability = weakest.min(reached);
                    producer.recall(sequence, count, |range| said.confirm(range, durability));
                }
                &Outcome::Gap { sequence, count, last } => {
                    said.refuse(sequence, count, &gap(last, sequence));
                }
                Outcome::Refused { sequence, count, refusal } => {
                    said.refuse(*sequence, *count, refusal);
                }
            }
        }
        said.close();
    }

    /// Tells a producer that its publishes are not stored, or that nobody knows.
    fn take_back(&mut self, group: usize, why: &Refusal) {
        let Some(group) = self.commit.groups.get(group) else { return };
        let &Group { id, entry, .. } = group;
        let reach = self.store.reach();
        let mut said = Said::new(id, &mut self.out);
        for outcome in self.commit.outcomes(group) {
            // One that was to be made by this commit is gone already.
            let producer = self.producers.get(entry);
            let committed = producer.map_or(0, |producer| producer.committed);
            match outcome {
                Outcome::Stored(range) => {
                    self.figures.refused += range.count;
                    said.refuse(range.sequence, range.count, why);
                }
                &Outcome::Duplicate { sequence, count, .. } => {
                    let stored = committed.saturating_add(1).saturating_sub(sequence);
                    let stored = stored.min(count);
                    if let Some(producer) = producer {
                        let durability = producer.durability.min(reach);
                        producer.recall(sequence, stored, |range| said.confirm(range, durability));
                    }
                    if stored < count {
                        said.refuse(sequence + stored, count - stored, why);
                    }
                }
                &Outcome::Gap { sequence, count, last } => {
                    said.refuse(sequence, count, &gap(last.min(committed), sequence));
                }
                Outcome::Refused { sequence, count, refusal } => {
                    said.refuse(*sequence, *count, refusal);
                }
            }
        }
        said.close();
    }

    /// What is said of anything that was in a commit that failed so.
    fn refusal(&self, error: &StoreError) -> Refusal {
        let code = match error {
            StoreError::Full { .. } | StoreError::Short { .. } => RefusalCode::StoreFull,
            StoreError::Failed(_) => RefusalCode::OutcomeUnknown,
            StoreError::Closed => RefusalCode::StoreFailed,
            _ => RefusalCode::Internal,
        };
        Refusal::new(code, format!("committing to topic {}: {error}", self.name))
    }
}

impl StoreWord {
    /// A commit that was asked to reach so far has reached so far.
    fn learn(&mut self, asked: Durability, reached: Durability) {
        if reached < asked {
            self.ceiling = self.ceiling.min(reached);
        }
        self.proven = self.proven.max(Some(reached));
    }

    /// How far a commit was seen to reach.
    pub(super) fn reach(&self) -> Durability {
        self.proven.unwrap_or(Durability::Memory)
    }
}

/// What one producer is told, joined as far as it can be.
struct Said<'a> {
    id: ProducerId,
    out: &'a mut VecDeque<Command>,
    ranges: Vec<SequenceRange>,
    durability: Durability,
}

impl<'a> Said<'a> {
    const fn new(id: ProducerId, out: &'a mut VecDeque<Command>) -> Self {
        Self { id, out, ranges: Vec::new(), durability: Durability::Disk }
    }

    fn confirm(&mut self, range: SequenceRange, durability: Durability) {
        if self.durability != durability {
            // A repeat of what is less durable takes nothing from what comes with it.
            self.close();
        }
        self.durability = durability;
        if let Some(last) = self.ranges.last_mut()
            && last.sequence + last.count == range.sequence
            && last.offset.map(|offset| offset.plus(last.count)) == range.offset
        {
            last.count += range.count;
        } else {
            if self.ranges.is_empty() {
                // Mostly it stays the only one.
                self.ranges.reserve_exact(1);
            }
            self.ranges.push(range);
        }
    }

    fn refuse(&mut self, sequence: u64, count: u64, refusal: &Refusal) {
        self.close();
        let (handle, refusal) = (self.id.handle, refusal.clone());
        let reply = Reply::PublishRefused { handle, sequence, count, refusal };
        self.out.push_back(Command::Reply { session: self.id.session, reply });
    }

    /// Says what was collected.
    fn close(&mut self) {
        if !self.ranges.is_empty() {
            let ranges = std::mem::take(&mut self.ranges);
            let durability = self.durability;
            let reply = Reply::Confirmed { handle: self.id.handle, ranges, durability };
            self.out.push_back(Command::Reply { session: self.id.session, reply });
        }
    }
}
