//! Who waits for which answer: each gets exactly one, and publishes in their order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    ChannelName, Durability,
    model::{ConsumerId, ProducerId, SessionId, TopicAction},
};

#[derive(Default)]
pub(super) struct Answers {
    /// Publishes by producer: the prefix of its bodies, and what is open.
    publishes: BTreeMap<ProducerId, (String, VecDeque<Range>)>,
    opens: BTreeMap<ProducerId, u32>,
    subscribes: BTreeMap<ConsumerId, u32>,
    closes: BTreeMap<ConsumerId, u32>,
    requests: BTreeMap<u32, TopicAction>,
    /// An operator was told that the topic is deleted.
    pub(super) deleted: bool,
    /// Sessions to which nothing can be told.
    gone: BTreeSet<SessionId>,
}

/// A publish, or what is left of one.
#[derive(Clone, Copy, Debug)]
struct Range {
    sequence: u64,
    count: u64,
    least: Durability,
}

impl Answers {
    pub(super) fn published(
        &mut self,
        id: ProducerId,
        prefix: &str,
        (sequence, count): (u64, u64),
        least: Durability,
    ) {
        let open = || (prefix.to_owned(), VecDeque::new());
        let (_, waiting) = self.publishes.entry(id).or_insert_with(open);
        waiting.push_back(Range { sequence, count, least });
    }

    /// An answer for a range must be for what was published first. Returns the prefix of the
    /// bodies, and the most durability that was asked for any of it.
    pub(super) fn answered(
        &mut self,
        id: ProducerId,
        sequence: u64,
        count: u64,
    ) -> (String, Durability) {
        let (prefix, waiting) = self.publishes.get_mut(&id).expect("an answer to nobody");
        let mut left = (sequence, count);
        let mut least = Durability::Memory;
        while left.1 > 0 {
            let front = waiting.front_mut().expect("promise 15: an answer to nothing");
            assert_eq!(
                front.sequence, left.0,
                "promise 15: answers come in the order of publishes"
            );
            least = least.max(front.least);
            let part = front.count.min(left.1);
            (front.sequence, front.count) = (front.sequence + part, front.count - part);
            left = (left.0 + part, left.1 - part);
            if front.count == 0 {
                waiting.pop_front();
            }
        }
        (prefix.clone(), least)
    }

    pub(super) fn opens(&mut self, id: ProducerId) {
        *self.opens.entry(id).or_default() += 1;
    }

    pub(super) fn opened(&mut self, id: ProducerId) {
        assert!(take_one(&mut self.opens, id), "promise 15: {id:?} did not ask");
    }

    /// Refused, or closed while it was open.
    pub(super) fn not_opened(&mut self, id: ProducerId) {
        take_one(&mut self.opens, id);
    }

    pub(super) fn subscribes(&mut self, id: ConsumerId) {
        *self.subscribes.entry(id).or_default() += 1;
    }

    pub(super) fn subscribed(&mut self, id: ConsumerId) {
        assert!(take_one(&mut self.subscribes, id), "promise 15: {id:?} did not ask");
    }

    /// What is asked for by one who leaves is not answered but by that it has left.
    pub(super) fn unsubscribes(&mut self, id: ConsumerId) {
        self.subscribes.remove(&id);
        *self.closes.entry(id).or_default() += 1;
    }

    pub(super) fn unsubscribed(&mut self, id: ConsumerId) {
        assert!(take_one(&mut self.closes, id), "promise 15: {id:?} did not wish to leave");
    }

    pub(super) fn requests(&mut self, request: u32, action: TopicAction) {
        assert!(self.requests.insert(request, action).is_none());
    }

    pub(super) fn request_answered(&mut self, request: u32) -> TopicAction {
        self.requests.remove(&request).expect("promise 15: an answer to no request")
    }

    /// How many wait for something that may make a channel.
    pub(super) fn making(&self) -> usize {
        let makes = |action: &&TopicAction| matches!(action, TopicAction::CreateChannel(..));
        self.requests.values().filter(makes).count() + self.subscribes.len()
    }

    /// Whether somebody wants to delete this channel.
    pub(super) fn is_being_deleted(&self, name: &ChannelName) -> bool {
        let deletes = |action: &TopicAction| *action == TopicAction::DeleteChannel(name.clone());
        self.requests.values().any(deletes)
    }

    /// Nothing can be told to this session any more.
    pub(super) fn gone(&mut self, session: SessionId) {
        self.subscribes.retain(|id, _| id.session != session);
        self.closes.retain(|id, _| id.session != session);
        self.opens.retain(|id, _| id.session != session);
        self.gone.insert(session);
    }

    /// The session is there again.
    pub(super) fn back(&mut self, session: SessionId) {
        self.gone.remove(&session);
    }

    pub(super) fn is_gone(&self, session: SessionId) -> bool {
        self.gone.contains(&session)
    }

    /// Nobody waits for anything.
    pub(super) fn check_all(&self) {
        for (id, (_, waiting)) in &self.publishes {
            let gone = self.gone.contains(&id.session);
            assert!(gone || waiting.is_empty(), "promise 15: {id:?} waits for {waiting:?}");
        }
        let Self { opens, subscribes, closes, requests, .. } = self;
        assert!(opens.is_empty(), "promise 15: {opens:?} wait to be opened");
        assert!(subscribes.is_empty(), "promise 15: {subscribes:?} wait for their channels");
        assert!(closes.is_empty(), "promise 15: {closes:?} wait to leave");
        assert!(requests.is_empty(), "promise 15: {requests:?} are not answered");
    }
}

fn take_one<K: Ord + Copy>(waiting: &mut BTreeMap<K, u32>, id: K) -> bool {
    let Some(count) = waiting.get_mut(&id) else { return false };
    *count -= 1;
    if *count == 0 {
        waiting.remove(&id);
    }
    true
}
