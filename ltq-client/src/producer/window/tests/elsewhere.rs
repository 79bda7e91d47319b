//! What goes to another producer, and what does not.

use super::*;

impl Harness {
    /// One whose failed messages may go to another producer.
    fn lent(elsewhere: Elsewhere) -> Self {
        let mut harness = Self::new();
        harness.window = Window::new(elsewhere);
        harness.window.handle_opened(false, 0).unwrap();
        harness
    }

    /// What of the failed calls may go elsewhere: call, bodies, messages that have room.
    fn returned(&mut self) -> Vec<(u32, Vec<String>, usize)> {
        let (answers, freed) = self.window.take_answers();
        self.freed.messages += freed.messages;
        answers
            .into_iter()
            .filter_map(|answer| {
                let rest = answer.rest?;
                let records = rest.records.iter().flat_map(|records| records.messages());
                let bodies = records.map(|m| String::from_utf8(m.unwrap().body.to_vec()).unwrap());
                Some((answer.reply, bodies.collect(), rest.room.messages))
            })
            .collect()
    }
}

fn back(call: u32, bodies: &[&str]) -> (u32, Vec<String>, usize) {
    (call, bodies.iter().map(|b| (*b).to_owned()).collect(), bodies.len())
}

#[test]
fn what_is_withdrawn_is_what_is_not_on_its_way_and_it_is_never_sent() {
    let mut harness = Harness::lent(Elsewhere::NotStored);
    harness.push(0, "sent");
    assert_eq!(harness.send(), [sent(1, &["sent"])]);
    harness.push(1, "a");
    harness.push_all(2, &["b", "c"]);
    harness.push(3, "open");
    harness.window.withdraw();
    assert_eq!(harness.returned(), [back(1, &["a"]), back(2, &["b", "c"]), back(3, &["open"])]);
    assert_eq!(harness.send(), [], "it belongs to another now");
    harness.push(4, "later");
    assert_eq!(harness.send(), [sent(2, &["later"])]);
    harness.confirm(1, 2, 0);
    assert_eq!(harness.answers(), [(0, 1, None), (4, 1, None)]);
    assert_eq!(harness.freed.messages, 2, "what went elsewhere has its room still");
    assert_eq!(harness.window.pending(), 0);
}

#[test]
fn what_came_back_from_a_broker_that_stops_is_withdrawn_as_a_whole_and_in_order() {
    let mut harness = Harness::lent(Elsewhere::NotStored);
    for (call, body) in (0..).zip(["a", "b", "c"]) {
        harness.push(call, body);
        harness.send();
    }
    harness.confirm(1, 1, 0);
    harness.refuse(2, 1, RefusalCode::Stopping);
    harness.window.withdraw();
    assert_eq!(harness.returned(), [back(1, &["b"])], "the last one is on its way still");
    harness.refuse(3, 1, RefusalCode::SequenceGap);
    harness.window.withdraw();
    assert_eq!(harness.returned(), [back(2, &["c"])]);
    assert_eq!(harness.send(), []);
    harness.window.handle_cut();
    harness.window.handle_opened(true, 1).unwrap();
    harness.push(3, "d");
    assert_eq!(harness.send(), [sent(2, &["d"])], "nothing of it is sent again");
}

#[test]
fn of_a_batch_the_part_behind_what_is_stored_goes_elsewhere() {
    let mut harness = Harness::lent(Elsewhere::NotStored);
    harness.push_all(0, &["a", "b", "c", "d"]);
    assert_eq!(harness.send().len(), 1);
    harness.confirm(1, 2, 0);
    harness.refuse(3, 2, RefusalCode::StoreFull);
    let (answers, _) = harness.window.take_answers();
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(answer.stored.first.unwrap().count, 2);
    let rest = answer.rest.as_ref().unwrap();
    let bodies: Vec<_> =
        rest.records.iter().flat_map(Records::messages).map(|m| m.unwrap().body).collect();
    assert_eq!(bodies, ["c", "d"]);
    assert_eq!(rest.deadline, harness.start + harness.timeout);
}

#[test]
fn a_window_that_is_given_up_sends_nothing_again_and_tells_what_was_sent() {
    for (elsewhere, goes) in [(Elsewhere::All, true), (Elsewhere::NotStored, false)] {
        let mut harness = Harness::lent(elsewhere);
        harness.push(0, "sent");
        harness.send();
        harness.window.handle_cut();
        harness.push(1, "never sent");
        harness.window.abandon(&UnknownCause::ConnectionLost);
        let (answers, _) = harness.window.take_answers();
        let told: Vec<_> = answers
            .iter()
            .map(|answer| (answer.reply, answer.failure.clone(), answer.rest.is_some()))
            .collect();
        let lost = Some(Failure::Unknown(UnknownCause::ConnectionLost));
        assert_eq!(told, [(0, lost, goes), (1, Some(Failure::Closed), true)]);
        // It takes nothing, whatever becomes of its connection.
        assert_eq!(harness.window.ended(), Some(&Failure::Closed));
        harness.window.handle_opened(true, 0).unwrap();
        assert_eq!(harness.send(), []);
        assert_eq!(harness.window.pending(), 0);
    }
}

#[test]
fn what_is_out_of_time_goes_nowhere() {
    let mut harness = Harness::lent(Elsewhere::All);
    harness.push(0, "sent");
    harness.send();
    harness.push(1, "unsent");
    harness.after(Duration::from_secs(10));
    assert_eq!(harness.returned(), []);
    harness.window.abandon(&UnknownCause::ConnectionLost);
    assert_eq!(harness.returned(), [], "they are answered");
}
