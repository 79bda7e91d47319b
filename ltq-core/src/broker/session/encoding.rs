//! What a session has to say, as bytes.

use super::{Session, State};
use crate::{
    broker::{answers::Answer, outbox::Outgoing, replies},
    model::{Delivery, Reply},
    protocol::{FRAME_BYTES_MIN, Frame, encode},
};

impl Session {
    pub(super) fn write_out(&mut self, outgoing: Outgoing) {
        let held = outgoing.held_bytes();
        match outgoing {
            Outgoing::Delivery(handle, Delivery { first_tag, attempt, batch }) => {
                self.outgoing_bytes -= batch.records.byte_len();
                encode(&Frame::Deliver { handle, first_tag, attempt, batch }, &mut self.write);
            }
            Outgoing::Reply(reply) | Outgoing::Own(reply) => self.say(reply, held),
            Outgoing::Answer(answer) => {
                let Answer { request, result, asked } = *answer;
                self.say(Reply::Admin { request, result }, held);
                // What is encoded counts before what it was made of does no more: it may be as much.
                self.handles.unread().count();
                drop(asked);
            }
            Outgoing::Closing => {}
        }
    }

    /// Encodes what held so much until now.
    fn say(&mut self, reply: Reply, held: usize) {
        let frame_bytes_max = match self.state {
            State::Greeting => FRAME_BYTES_MIN,
            State::Open { frame_bytes_max } => frame_bytes_max,
        };
        if let Some(refusal) = replies::refusal_of(&reply) {
            self.shared.refusals.count(refusal);
        }
        let before = self.write.len();
        replies::write(reply, frame_bytes_max, &mut self.write);
        self.handles.unread().says(held, self.write.len() - before, self.write.len());
    }

    /// Encodes all answers that were heard, and no delivery.
    pub(super) fn say_answers(&mut self) {
        for outgoing in std::mem::take(&mut self.outgoing) {
            if !matches!(outgoing, Outgoing::Delivery(..)) {
                self.write_out(outgoing);
            }
        }
        for mut outgoing in std::mem::take(&mut self.heard) {
            let is_answer = match &mut outgoing {
                Outgoing::Reply(reply) => self.handles.replied(reply).is_ok(),
                Outgoing::Own(_) | Outgoing::Answer(_) => true,
                Outgoing::Delivery(..) | Outgoing::Closing => false,
            };
            if is_answer {
                self.write_out(outgoing);
            }
        }
    }
}
