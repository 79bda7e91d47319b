//! A history in words: who said and did what, and when.

use std::{cell::RefCell, fmt::Write as _, rc::Rc};

use crate::{
    Now, Settlement, StartAt, Verdict, WriteOp,
    model::{
        Claim, Command, ConsumerId, Event, ProducerId, TopicAction,
        testing::{START, short},
    },
};

/// Written down while a history is played, so that it is there when that ends in a panic.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(Rc<RefCell<Vec<String>>>);

impl Words {
    pub(super) fn add(&self, now: Now, who: &str, what: &str) {
        let running = now.monotonic.0 as f64 / 1_000.0;
        let wall = now.wall.0 as i64 - START.wall.0 as i64;
        self.0
            .borrow_mut()
            .push(format!("{running:>10.3} ms, wall {wall:>+7} ms  {who:<6} {what}"));
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

fn producer(id: ProducerId) -> String {
    format!("producer p{} of session {}", id.handle, id.session.0)
}

pub(super) fn consumer(id: ConsumerId) -> String {
    format!("consumer c{}", id.handle)
}

fn seat(claim: Option<&Claim>) -> String {
    claim.map_or_else(String::new, |claim| {
        let seat = claim.seat;
        format!(", seat {} in turn {}", seat.number[0], seat.turn)
    })
}

/// An event in words.
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::OpenProducer { producer: id, name, epoch, .. } => {
            let name = name.as_ref().map_or("no name", |name| name.as_str());
            format!("{} opens under {name}, epoch {epoch:?}", producer(*id))
        }
        Event::Publish { producer: id, sequence, durability, records } => {
            let (who, count) = (producer(*id), records.count());
            format!("{who} publishes {sequence}+{count}, {durability:?}")
        }
        Event::RefusePublish { producer: id, sequence, count, .. } => {
            format!("{} publishes {sequence}+{count}, and the session refuses it", producer(*id))
        }
        Event::CloseProducer { producer: id, forget } => {
            format!("{} closes{}", producer(*id), if *forget { " for good" } else { "" })
        }
        Event::Subscribe { consumer: id, channel, start, create, timeout, credit, claim } => {
            let (who, start) = (consumer(*id), start_at(*start));
            let make = if *create { "making it" } else { "if it is there" };
            let (messages, bytes) = (credit.messages, credit.bytes);
            format!(
                "{who} subscribes to {channel} from {start}, {make}, timeout {timeout:?}, \
                 {messages} messages, {bytes} bytes{}",
                seat(claim.as_ref())
            )
        }
        Event::Credit { consumer: id, total } => {
            let (messages, bytes) = (total.messages, total.bytes);
            format!("{} takes {messages} messages, {bytes} bytes in all", consumer(*id))
        }
        Event::Alone { consumer: id } => format!("{} wants to be alone", consumer(*id)),
        Event::Release { consumer: id } => {
            format!("there is room again for {}", consumer(*id))
        }
        Event::Settle { consumer: id, settlements, .. } => {
            let said: Vec<_> = settlements.iter().map(settlement).collect();
            format!("{} settles {}", consumer(*id), said.join(", "))
        }
        Event::Unsubscribe { consumer: id } => format!("{} leaves", consumer(*id)),
        Event::SessionEnded { session } => format!("session {} ends", session.0),
        Event::Admin { request, action } => {
            format!("an operator asks ({}): {}", request.request, wish(action))
        }
        Event::Committed { result: Ok(committed) } => {
            format!("the commit is done, {}", committed.durability)
        }
        Event::Committed { result: Err(error) } => format!("the commit fails: {error}"),
        Event::Loaded { ticket, result: Ok(batches) } => {
            let runs: Vec<_> = batches
                .iter()
                .map(|batch| format!("{}-{}", batch.first, batch.end().0 - 1))
                .collect();
            format!("read {} has {}", ticket.0, runs.join(" "))
        }
        Event::Loaded { ticket, result: Err(error) } => format!("read {} fails: {error}", ticket.0),
        Event::Located { ticket, result } => format!("look-up {} says {result:?}", ticket.0),
        Event::Stop => "the node stops".to_owned(),
    }
}

fn wish(action: &TopicAction) -> String {
    match action {
        TopicAction::CreateChannel(name, start) => {
            format!("make channel {name} from {}", start_at(*start))
        }
        other => format!("{other:?}"),
    }
}

fn start_at(start: StartAt) -> String {
    match start {
        StartAt::Earliest => "the first message".to_owned(),
        StartAt::Latest => "the next message".to_owned(),
        StartAt::Offset(offset) => format!("offset {offset}"),
        StartAt::Time(time) => format!("wall {:+} ms", time.0 as i64 - START.wall.0 as i64),
    }
}

fn settlement(settlement: &Settlement) -> String {
    let (first, last) = (settlement.tags.first.0, settlement.tags.last.0);
    let what = match settlement.verdict {
        Verdict::Ack => "done".to_owned(),
        Verdict::Requeue { delay_ms } => format!("back in {delay_ms} ms"),
        Verdict::Touch => "not yet".to_owned(),
    };
    format!("tags {first}-{last} {what}")
}

/// A command in words.
pub(super) fn command(command: &Command) -> String {
    match command {
        Command::Commit { batch, durability } => {
            let mut said = format!("commit, {durability}:");
            for op in batch.ops() {
                let _ = match op {
                    WriteOp::CreateLog { .. } => write!(said, " make the log;"),
                    WriteOp::DeleteLog { .. } => write!(said, " delete the log;"),
                    WriteOp::Append { at, records, .. } => {
                        write!(said, " append {at}-{};", at.0 + records.count() as u64 - 1)
                    }
                    WriteOp::Truncate { before, .. } => write!(said, " begin at {before};"),
                    WriteOp::Discard { from, until, .. } => {
                        write!(said, " discard {from}-{};", until.0 - 1)
                    }
                    WriteOp::Put { key, .. } => write!(said, " put {};", key.escape_ascii()),
                    WriteOp::Delete { key } => write!(said, " delete {};", key.escape_ascii()),
                };
            }
            said
        }
        Command::Load { ticket, from, limits } => {
            format!("read {} from {from}, {} records", ticket.0, limits.records)
        }
        Command::Locate { ticket, time } => {
            format!("look-up {}: {}", ticket.0, start_at(StartAt::Time(*time)))
        }
        Command::Removed(removed) => {
            let (first, last) = (removed.first.0, removed.until.0 - 1);
            format!("{:?} removes {first}-{last}, {:?}", removed.limit, removed.dropped)
        }
        other => short(other),
    }
}
