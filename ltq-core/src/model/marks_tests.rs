use proptest::prelude::*;

use super::*;
use crate::{
    Message, Records,
    model::state::{decode, encode},
};

fn at(millis: u64) -> Monotonic {
    Monotonic(millis * 1_000)
}

fn now(millis: u64, wall: u64) -> Now {
    Now { monotonic: at(millis), wall: Timestamp(wall) }
}

/// One batch of messages with so many bytes each, from `first` on.
fn batch(first: u64, sizes: &[usize]) -> RecordBatch {
    let messages: Vec<_> = sizes.iter().map(|&size| Message::new(vec![b'x'; size])).collect();
    let records = Records::encode(&messages);
    RecordBatch { first: Offset(first), time: Timestamp(0), records }
}

fn limits(age_ms: Option<u64>, bytes_max: Option<u64>) -> Retention {
    let age_max = age_ms.map(Duration::from_millis);
    Retention { age_max, bytes_max, ..Retention::default() }
}

/// Each message's bytes and when it was appended.
type Naive = Vec<(u64, u64)>;

fn appended(naive: &mut Naive, marks: &mut Marks, sizes: &[usize], least: u64, millis: u64) {
    let batch = batch(naive.len() as u64, sizes);
    for index in 0..sizes.len() {
        let bytes = batch.records.slice(index..index + 1).byte_len() as u64;
        naive.push((bytes, millis));
    }
    let bytes = batch.records.byte_len() as u64;
    if marks.fills(bytes, least) {
        marks.append(&[batch], least, at(millis));
    } else {
        marks.grow(batch.end(), bytes, at(millis));
    }
}

fn check(naive: &Naive, marks: &Marks, from: u64, retention: &Retention, millis: u64) {
    assert!(marks.list.len() < MARKS_MAX, "promise 9");
    let kept = |offset: u64| naive[offset as usize..].iter().map(|(bytes, _)| bytes).sum::<u64>();
    let Some((until, limit)) = marks.beyond(retention, Offset(from), at(millis)) else { return };
    assert!(until.0 > from && until.0 <= naive.len() as u64);
    let old = |offset: u64| {
        let age = millis - naive[offset as usize].1;
        retention.age_max.is_some_and(|most| age >= most.as_millis() as u64)
    };
    match limit {
        Limit::Age => assert!((from..until.0).all(old), "too young"),
        Limit::Bytes => {
            // Without the last stretch that it removes it would not be under the limit.
            let stretch =
                marks.list.iter().rev().map(|mark| mark.place.offset).chain([Offset(from)]);
            let before = stretch.into_iter().find(|&offset| offset < until).unwrap();
            assert!(kept(before.0.max(from)) > retention.bytes_max.unwrap(), "too many");
        }
    }
}

proptest! {
    #[test]
    fn limits_remove_nothing_too_early_and_stretches_are_small(
        steps in prop::collection::vec(
            (prop::collection::vec(0usize..600, 1..12), 0u64..3_000, 0u8..30), 1..400,
        ),
        age in prop::option::of(1_000u64..100_000),
        bytes in prop::option::of(500u64..50_000),
        least in 1u64..2_000,
    ) {
        let retention = limits(age, bytes);
        let (mut naive, mut marks) = (Naive::new(), Marks::new(Offset::ZERO, at(0)));
        let (mut from, mut millis) = (0, 0);
        for (sizes, pause, what) in steps {
            appended(&mut naive, &mut marks, &sizes, least, millis);
            millis += pause;
            if marks.close_due(&retention).is_some_and(|due| due <= at(millis)) {
                marks.close();
                prop_assert_eq!(marks.close_due(&retention), None);
            }
            check(&naive, &marks, from, &retention, millis);
            if let Some((until, _)) = marks.beyond(&retention, Offset(from), at(millis)) {
                prop_assert!(
                    bytes.is_some() || marks.next_age(&retention, Offset(from)).unwrap() <= at(millis)
                );
                from = until.0;
            }
            prop_assert_eq!(marks.beyond(&retention, Offset(from), at(millis)), None);
            // Acks move the start too, to anywhere.
            if what == 0 {
                from = (from + naive.len() as u64) / 2;
            }
            marks.truncate(Offset(from));
            if what == 1 {
                let bounds = Bounds { first: Offset(from), end: Offset(naive.len() as u64) };
                let stored: MarksState = decode(b"m", &encode(&marks.state(now(millis, 9)))).unwrap();
                let (back, _) = Marks::restore(&stored, bounds, now(3, 9)).unwrap();
                prop_assert!(!back.is_open());
                prop_assert_eq!(back.end.offset, bounds.end);
                prop_assert!(back.base.offset <= bounds.first);
                check(&naive, &marks, from, &retention, millis);
            }
            let all = marks.bytes_of(Run::new(Offset(from), Offset(naive.len() as u64)));
            prop_assert!(all <= marks.end.bytes - marks.base.bytes);
        }
    }
}

#[test]
fn however_long_a_log_grows_its_marks_are_few_and_even() {
    let mut marks = Marks::new(Offset::ZERO, at(0));
    let one = batch(0, &[100_000]);
    let bytes = one.records.byte_len() as u64;
    for offset in 0..200_000u64 {
        if marks.fills(bytes, 1 << 20) {
            let batch = RecordBatch { first: Offset(offset), ..one.clone() };
            marks.append(&[batch], 1 << 20, at(offset));
        } else {
            marks.grow(Offset(offset + 1), bytes, at(offset));
        }
    }
    assert!((60..MARKS_MAX).contains(&marks.list.len()), "{}", marks.list.len());
    let mut before = marks.base;
    for mark in &marks.list {
        let stretch = mark.place.bytes - before.bytes;
        assert!(stretch <= 200_000 * bytes / 60, "a stretch of {stretch}");
        before = mark.place;
    }
    assert!(encode(&marks.state(now(1, 1))).len() < 5_000);
}

#[test]
fn ages_come_back_with_the_time_that_the_node_was_down() {
    let retention = limits(Some(10_000), None);
    let (mut naive, mut marks) = (Naive::new(), Marks::new(Offset::ZERO, at(0)));
    appended(&mut naive, &mut marks, &[5, 5], 1, 1_000);
    marks.close();
    let stored = marks.state(now(5_000, 1_000_000));
    let bounds = Bounds { first: Offset(0), end: Offset(2) };
    for (down, left) in [(0, 6_000), (3_000, 3_000), (90_000, 0)] {
        let start = now(7, 1_000_000 + down);
        let (back, closed) = Marks::restore(&stored, bounds, start).unwrap();
        assert!(!closed);
        assert_eq!(back.next_age(&retention, Offset(0)), Some(at(7 + left)));
        assert_eq!(back.beyond(&retention, Offset(0), at(7 + left)).unwrap().0, Offset(2));
    }
    let (stepped_back, _) = Marks::restore(&stored, bounds, now(7, 5)).unwrap();
    assert_eq!(
        stepped_back.next_age(&retention, Offset(0)),
        Some(at(10_007)),
        "later, not earlier"
    );
}

#[test]
fn marks_of_another_log_are_not_believed() {
    let (mut naive, mut marks) = (Naive::new(), Marks::new(Offset::ZERO, at(0)));
    for _ in 0..20 {
        appended(&mut naive, &mut marks, &[50; 5], 100, 0);
    }
    let stored = marks.state(now(0, 0));
    for (first, end) in [(0, 0), (0, 30), (40, 50), (100, 100), (200, 300)] {
        let bounds = Bounds { first: Offset(first), end: Offset(end) };
        let (back, _) = Marks::restore(&stored, bounds, now(0, 0)).unwrap();
        assert!(back.base.offset <= bounds.first && back.end.offset == bounds.end);
        assert!(back.list.iter().all(|mark| mark.place.offset <= bounds.end), "{bounds:?}");
        assert!(back.list.windows(2).all(|two| two[0].place.offset < two[1].place.offset));
    }
    for bad in [(0, 1, 1), (u64::MAX, 1, 1), (1, u64::MAX, 1)] {
        let marks = vec![(1, 1, 1), bad];
        let state = MarksState { offset: Offset(1), time: Timestamp(0), marks };
        let bounds = Bounds { first: Offset(0), end: Offset(u64::MAX) };
        assert!(Marks::restore(&state, bounds, now(0, 0)).is_err());
    }
}
