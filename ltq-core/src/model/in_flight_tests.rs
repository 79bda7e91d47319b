use super::*;

const TIMEOUT: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_micros(250);

fn tags(first: u64, last: u64) -> TagRange {
    TagRange { first: Tag(first), last: Tag(last) }
}

fn delivered(slot: Slot, first_tag: u64, first: u64, count: u64, at: u64) -> InFlight {
    let mut in_flight = InFlight::default();
    deliver(&mut in_flight, slot, first_tag, first, count, at);
    in_flight
}

fn deliver(to: &mut InFlight, slot: Slot, first_tag: u64, first: u64, count: u64, at: u64) {
    let run = Run::new(Offset(first), Offset(first + count));
    to.deliver(slot, Tag(first_tag), Returned { run, attempt: 1 }, Monotonic(at), TIMEOUT);
}

fn take(from: &mut InFlight, slot: Slot, range: TagRange) -> (Vec<(u64, u64)>, Vec<TagRange>) {
    let (mut taken, mut stale) = (Vec::new(), StaleTags::default());
    from.take(slot, range, &mut taken, &mut stale);
    check(from);
    (taken.iter().map(|t| (t.run.first.0, t.run.end.0)).collect(), stale.finish())
}

fn touch(on: &mut InFlight, range: TagRange, now: u64, mut visits: usize) -> Vec<TagRange> {
    let mut stale = StaleTags::default();
    on.touch(1, range, Monotonic(now), (TIMEOUT, LONGEST), &mut visits, &mut stale);
    check(on);
    stale.finish()
}

/// The two indexes and the count agree.
fn check(in_flight: &InFlight) {
    let by_run: BTreeSet<_> =
        in_flight.runs.iter().map(|(&(slot, last), held)| (held.deadline, slot, last)).collect();
    assert_eq!(by_run, in_flight.deadlines);
    assert_eq!(in_flight.iter().map(|r| r.run.len()).sum::<u64>(), in_flight.messages);
}

#[test]
fn a_range_splits_runs_where_it_must() {
    let mut in_flight = delivered(1, 1, 100, 10, 0);
    deliver(&mut in_flight, 1, 11, 200, 10, 5);
    deliver(&mut in_flight, 2, 1, 300, 10, 5);
    assert_eq!(take(&mut in_flight, 1, tags(4, 6)), (vec![(103, 106)], vec![]));
    assert_eq!(take(&mut in_flight, 1, tags(1, 1)), (vec![(100, 101)], vec![]));
    assert_eq!(
        take(&mut in_flight, 1, tags(1, 12)),
        (vec![(101, 103), (106, 110), (200, 202)], vec![tags(1, 1), tags(4, 6)])
    );
    assert_eq!((in_flight.messages(), in_flight.runs()), (18, 2));
    assert_eq!(
        take(&mut in_flight, 1, tags(0, u64::MAX)),
        (vec![(202, 210)], vec![tags(21, u64::MAX)])
    );
    assert_eq!(take(&mut in_flight, 2, tags(10, 10)), (vec![(309, 310)], vec![]));
    assert_eq!(in_flight.messages(), 9);
}

#[test]
fn promise_3_tags_that_are_not_in_flight_are_stale() {
    let mut in_flight = delivered(1, 5, 100, 3, 0);
    assert_eq!(take(&mut in_flight, 1, tags(1, 4)), (vec![], vec![tags(1, 4)]));
    assert_eq!(take(&mut in_flight, 1, tags(8, 9)), (vec![], vec![tags(8, 9)]));
    assert_eq!(take(&mut in_flight, 2, tags(5, 7)), (vec![], vec![tags(5, 7)]));
    assert_eq!(take(&mut in_flight, 1, tags(9, 2)), (vec![], vec![]));
    assert_eq!(take(&mut in_flight, 1, tags(0, 0)), (vec![], vec![]));
    assert_eq!(take(&mut in_flight, 1, tags(0, 3)), (vec![], vec![tags(3, 3)]));
    assert_eq!(take(&mut in_flight, 1, tags(0, 6)), (vec![(100, 102)], vec![]));
    let all = take(&mut in_flight, 1, tags(1, u64::MAX));
    assert_eq!(all, (vec![(102, 103)], vec![tags(1, 6), tags(8, u64::MAX)]));
}

#[test]
fn deadlines_are_exact() {
    let mut in_flight = delivered(1, 1, 0, 10, 0);
    deliver(&mut in_flight, 1, 11, 10, 10, 40);
    assert_eq!(in_flight.next_deadline(), Some(Monotonic(100)));
    take(&mut in_flight, 1, tags(1, 10));
    assert_eq!(in_flight.next_deadline(), Some(Monotonic(140)));
    assert_eq!(in_flight.pop_expired(Monotonic(139)), None);
    let expired = in_flight.pop_expired(Monotonic(140)).unwrap();
    assert_eq!(expired.run, Run::new(Offset(10), Offset(20)));
    assert_eq!((in_flight.next_deadline(), in_flight.messages()), (None, 0));
}

#[test]
fn touching_gives_more_time_up_to_a_limit() {
    let mut in_flight = delivered(1, 1, 0, 10, 0);
    assert_eq!(touch(&mut in_flight, tags(3, 12), 60, 9), vec![tags(11, 12)]);
    assert_eq!(in_flight.next_deadline(), Some(Monotonic(100)));
    assert_eq!(in_flight.pop_expired(Monotonic(100)).unwrap().run.len(), 2);
    assert_eq!(in_flight.next_deadline(), Some(Monotonic(160)));
    assert_eq!(touch(&mut in_flight, tags(0, 10), 155, 9), vec![]);
    assert_eq!(touch(&mut in_flight, tags(3, 10), 240, 9), vec![]);
    assert_eq!(in_flight.next_deadline(), Some(Monotonic(250)), "250 after delivery at most");
    assert_eq!(touch(&mut in_flight, tags(3, 10), 245, 0), vec![tags(3, 10)], "out of visits");
}

/// Promise 10: what changes nothing costs no more than what does.
#[test]
fn touching_a_part_that_has_all_the_time_there_is_visits_its_run_once() {
    let mut in_flight = delivered(1, 1, 0, 10, 0);
    touch(&mut in_flight, tags(1, 10), 60, 9);
    touch(&mut in_flight, tags(1, 10), 155, 9);
    touch(&mut in_flight, tags(1, 10), 240, 9);
    for range in [tags(1, 1), tags(4, 6), tags(10, 10), tags(1, 10)] {
        let (mut visits, mut stale) = (9, StaleTags::default());
        let times = (TIMEOUT, LONGEST);
        in_flight.touch(1, range, Monotonic(245), times, &mut visits, &mut stale);
        assert_eq!((visits, stale.finish()), (8, vec![]), "{range:?}");
        assert_eq!(in_flight.runs(), 1, "{range:?}");
    }
}

#[test]
fn a_leaving_consumer_gives_everything_back() {
    let mut in_flight = delivered(1, 1, 0, 10, 0);
    deliver(&mut in_flight, 2, 1, 10, 10, 0);
    take(&mut in_flight, 1, tags(5, 5));
    let mut back = Vec::new();
    while let Some(returned) = in_flight.pop_of(1) {
        back.push((returned.run.first.0, returned.run.end.0));
        check(&in_flight);
    }
    assert_eq!(back, [(0, 4), (5, 10)]);
    assert_eq!(in_flight.messages(), 10);
}
