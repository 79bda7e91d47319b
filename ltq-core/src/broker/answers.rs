//! Operators' requests of a session, and their answers on the way to it.

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    admin,
    budget::Turn,
    holds::Hold,
    outbox::{Outbox, Outgoing},
    places::Kind,
    replies,
    shared::Shared,
    surveys::{Asking, Survey},
    together::Together,
};
use crate::{AdminRequest, AdminResponse, Refusal};

/// A request that is under way: its place among those of its connection, and what its answer holds. Both are
/// given back when it is dropped, which is when the answer is encoded.
#[derive(Debug)]
pub(super) struct Asked {
    together: Arc<Together>,
    bytes: usize,
}

/// The answer to a request, as it waits to be encoded.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) request: u32,
    pub(super) result: Result<AdminResponse, Refusal>,
    pub(super) asked: Asked,
}

impl Asked {
    /// One more of a connection.
    ///
    /// # Errors
    /// A refusal that names the limit that leaves no room for it.
    pub(super) fn on(together: &Arc<Together>) -> Result<Self, Refusal> {
        together.open.take(Kind::Request)?;
        Ok(Self { together: together.clone(), bytes: 0 })
    }

    /// Its answer is there, and holds so much.
    fn holds(&mut self, bytes: usize) {
        self.together.says(bytes);
        self.bytes += bytes;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.together.said(mem::take(&mut self.bytes));
        self.together.open.give_back(Kind::Request, 1);
    }
}

/// Does what is asked and answers it to `outbox`, of what there is only what `sight` leaves of it.
pub(super) async fn answer(
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    mut asked: Asked,
    asking: Asking,
    (request, action): (u32, AdminRequest),
    sight: impl FnOnce(AdminResponse) -> AdminResponse + Send,
) {
    let turn = turn(&shared, &asked.together, asking, &action).await;
    let result = admin::perform(&shared, action).await.map(sight);
    // Before the next one begins, who is to see it.
    asked.holds(replies::answer_bytes(&result));
    drop(turn);
    outbox.push(Outgoing::Answer(Box::new(Answer { request, result, asked })));
    outbox.wake();
}

/// The turn that a request needs whose answer is as long as there are topics or channels. It comes when the
/// connection, the address and the node have room for answers, as nobody knows how long this one will be.
async fn turn(
    shared: &Shared,
    together: &Arc<Together>,
    asking: Asking,
    action: &AdminRequest,
) -> Option<Survey> {
    let surveys = shared.surveys_for(action)?;
    let mut place = Place::new(together.clone());
    loop {
        let mut hold = None;
        poll_fn(|context| {
            let nothing = together.answers.used() == 0;
            let room = place.poll_room(nothing, context);
            if let Err(limit) = room
                && hold.replace(limit) != Some(limit)
            {
                shared.holds.count(limit);
            }
            room.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let turn = surveys.turn(asking).await;
        if has_room(together) {
            return Some(turn);
        }
    }
}

/// Whether there is room for answers now.
fn has_room(together: &Together) -> bool {
    let nothing = together.answers.used() == 0;
    let address = together.address.as_ref().map(|address| &address.answers);
    [Some(&together.answers), address, Some(&*together.answers_of_node)]
        .into_iter()
        .flatten()
        .all(|budget| if nothing { !budget.is_crowded() } else { !budget.is_full() })
}

/// A task's places before the limits of answers.
#[derive(Debug)]
pub(super) struct Place {
    together: Arc<Together>,
    of_connection: Turn,
    of_address: Turn,
    of_node: Turn,
}

impl Place {
    pub(super) fn new(together: Arc<Together>) -> Self {
        let [of_connection, of_address, of_node] = [(); 3].map(|()| Turn::default());
        Self { together, of_connection, of_address, of_node }
    }

    /// Whether enough was read for more to be asked: by the streams of the connection, of the address and of
    /// the node. If not, this task is woken when it was. Who has `nothing` to read goes on up to twice as much, so
    /// that others that read nothing do not stop it at once.
    pub(super) fn poll_room(&mut self, nothing: bool, context: &Context<'_>) -> Result<(), Hold> {
        let Together { answers, address, answers_of_node, .. } = &*self.together;
        if answers.poll_room(nothing, &mut self.of_connection, context).is_pending() {
            return Err(Hold::AnswerBytesPerConnection);
        }
        if let Some(address) = address
            && address.answers.poll_room(nothing, &mut self.of_address, context).is_pending()
        {
            return Err(Hold::AnswerBytesPerAddress);
        }
        match answers_of_node.poll_room(nothing, &mut self.of_node, context).is_pending() {
            true => Err(Hold::AnswerBytesTotal),
            false => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.together.answers.leave(&mut self.of_connection);
        if let Some(address) = &self.together.address {
            address.answers.leave(&mut self.of_address);
        }
        self.together.answers_of_node.leave(&mut self.of_node);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;
    use crate::broker::testing::{self, far};

    #[tokio::test]
    async fn promise_9_whose_turn_comes_when_there_is_no_room_any_more_lets_others_go_first() {
        let (shared, _gate) = testing::shared(true);
        let (mine, other) = (shared.together(far(1)), shared.together(far(2)));
        let lists = shared.surveys_for(&AdminRequest::ListTopics).unwrap();
        let held = lists.turn(Asking::PROGRAM).await;
        let ask = |together| turn(&shared, together, Asking::PROGRAM, &AdminRequest::ListTopics);
        let mut waiting = pin!(ask(&mine));
        assert!(waiting.as_mut().now_or_never().is_none(), "another has the only turn");
        let too_much = shared.settings.answer_bytes_per_connection() + 1;
        mine.says(too_much);
        drop(held);
        assert!(waiting.as_mut().now_or_never().is_none(), "there is no room");
        assert!(ask(&other).now_or_never().flatten().is_some(), "nobody waits for it");
        mine.said(too_much);
        assert!(waiting.as_mut().now_or_never().flatten().is_some());
    }
}
