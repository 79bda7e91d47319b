use super::*;

fn arrivals(bodies: &[&'static str]) -> Arrivals<()> {
    let mut arrivals = Arrivals::new(Grant { messages: 4, bytes: 8 });
    for (number, text) in (1..).zip(bodies) {
        arrivals.arrive(number, Bytes::from_static(text.as_bytes()), ()).expect("room");
    }
    arrivals
}

#[test]
fn what_comes_behind_a_message_that_is_not_stored_waits_until_that_is_heard() {
    let mut arrivals = arrivals(&["a", "b", "c", "d"]);
    arrivals.accept();
    assert_eq!(arrivals.reject(), Some(2));
    arrivals.accept();
    assert_eq!(arrivals.to_judge(), Some((4, Bytes::from("d"))), "judging goes on");
    arrivals.accept();
    assert_eq!(arrivals.to_store(100), ["a"]);
    assert_eq!(arrivals.stored(1), Some(1));
    assert!(arrivals.to_store(100).is_empty());
    assert_eq!(arrivals.heard(3), Err(Misbehaviour::Heard(3)));
    assert_eq!(arrivals.heard(2), Ok(()));
    assert_eq!(arrivals.to_store(100), ["c", "d"]);
    assert_eq!(arrivals.to_store(1), ["c"], "one at least");
    assert_eq!(arrivals.refused(1), [3]);
    assert!(arrivals.to_store(100).is_empty());
    assert_eq!(arrivals.heard(3), Ok(()));
    assert_eq!(arrivals.to_store(100), ["d"]);
    assert_eq!(arrivals.stored(1), Some(4));
    assert_eq!((arrivals.bytes, arrivals.queue.len(), arrivals.accepted), (0, 0, 0));
}

#[test]
fn a_peer_that_counts_wrongly_or_sends_more_than_it_may_is_found_out() {
    let mut full = arrivals(&["a", "b", "c", "d"]);
    assert_eq!(full.arrive(5, Bytes::new(), ()), Err(Misbehaviour::Messages(4)));
    let mut heavy = arrivals(&["aaaa", "bbbb"]);
    assert_eq!(heavy.arrive(3, Bytes::from("c"), ()), Err(Misbehaviour::Bytes(8)));
    assert_eq!(heavy.arrive(3, Bytes::new(), ()), Ok(()));
    for number in [0, 3, 5, u64::MAX] {
        assert_eq!(
            heavy.arrive(number, Bytes::new(), ()),
            Err(Misbehaviour::Number { number, expected: 4 })
        );
    }
}

#[test]
fn a_peer_that_never_hears_of_refusals_may_send_no_more_than_its_grant() {
    let mut arrivals = arrivals(&["a", "b"]);
    assert_eq!((arrivals.reject(), arrivals.reject()), (Some(1), Some(2)));
    assert_eq!(arrivals.turn_away(3, 1), Ok(()));
    assert_eq!(arrivals.arrive(4, Bytes::new(), ()), Ok(()));
    assert_eq!(arrivals.reject(), Some(4));
    assert_eq!(arrivals.arrive(5, Bytes::new(), ()), Err(Misbehaviour::Messages(4)));
    assert_eq!(arrivals.turn_away(5, 0), Err(Misbehaviour::Messages(4)));
    assert_eq!(arrivals.unheard.len(), 4, "as many as it may have on their way");
    assert_eq!((arrivals.first_unheard(), arrivals.heard(1)), (Some(1), Ok(())));
    assert_eq!(arrivals.arrive(5, Bytes::new(), ()), Ok(()), "what is heard makes room");
}

#[test]
fn what_comes_behind_a_message_that_was_turned_away_waits_and_what_came_before_does_not() {
    let mut arrivals = arrivals(&["a"]);
    assert_eq!(arrivals.turn_away(2, 1), Ok(()));
    assert_eq!(arrivals.turn_away(2, 1), Err(Misbehaviour::Number { number: 2, expected: 3 }));
    assert_eq!(arrivals.turn_away(3, 8), Err(Misbehaviour::Bytes(8)));
    assert_eq!(arrivals.arrive(3, Bytes::from("c"), ()), Ok(()));
    arrivals.accept();
    arrivals.accept();
    assert_eq!(arrivals.to_store(100), ["a"]);
    assert_eq!(arrivals.stored(1), Some(1));
    assert!(arrivals.to_store(100).is_empty());
    assert_eq!(arrivals.heard(2), Ok(()));
    assert_eq!(arrivals.to_store(100), ["c"]);
}
