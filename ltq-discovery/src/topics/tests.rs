use proptest::prelude::*;

use super::*;

type Plain = BTreeMap<TopicName, BTreeSet<ChannelName>>;

fn name(number: u32) -> TopicName {
    format!("t{number:06}").parse().unwrap()
}

fn channels(count: u8) -> BTreeSet<ChannelName> {
    (0..count).map(|channel| format!("c{channel}").parse().unwrap()).collect()
}

fn plain(topics: &Topics) -> Plain {
    topics.iter().map(|(name, channels)| (name.clone(), channels.clone())).collect()
}

fn check(topics: &Topics, expected: &Plain) {
    assert_eq!((topics.len(), topics.iter().len()), (expected.len(), expected.len()));
    assert_eq!(topics.is_empty(), expected.is_empty());
    assert!(topics.iter().eq(expected));
    assert!(topics.keys().eq(expected.keys()));
    assert!(topics.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
    let small = topics.chunks.windows(2).filter(|two| two[0].len() + two[1].len() <= CHUNK_MAX / 4);
    assert_eq!(small.count(), 0);
}

/// What is different, looked for one by one.
fn differences(before: &Plain, after: &Plain) -> Plain2 {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differ = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    differ.map(|name| (name.clone(), after.get(name).cloned())).collect()
}

type Plain2 = Vec<(TopicName, Option<BTreeSet<ChannelName>>)>;

fn since(after: &Topics, before: &Topics) -> Plain2 {
    let differences = after.since(before);
    differences.map(|(name, channels)| (name.clone(), channels.cloned())).collect()
}

/// A stretch of neighbours that come, go or change together: single ones would never fill a chunk.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        from: u32,
        count: u32,
        every: u32,
        channels: u8,
    },
    Remove {
        from: u32,
        count: u32,
        every: u32,
    },
    /// What there is now is held, and compared with what there is later.
    Hold,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stretch = || (0_u32..1_500, prop_oneof![1_u32..4, 1_u32..900], 1_u32..4);
    let step = prop_oneof![
        4 => (stretch(), 0_u8..3).prop_map(|((from, count, every), channels)| {
            Step::Insert { from, count, every, channels }
        }),
        3 => stretch().prop_map(|(from, count, every)| Step::Remove { from, count, every }),
        2 => Just(Step::Hold),
    ];
    prop::collection::vec(step, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn topics_are_a_map_and_differ_from_earlier_ones_in_what_changed(
        first in prop::collection::btree_set(0_u32..1_500, 0..600),
        steps in steps(),
    ) {
        let mut expected: Plain = first.iter().map(|at| (name(*at), channels(1))).collect();
        let mut topics: Topics = expected.clone().into();
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Insert { from, count, every, channels: of } => {
                    for at in (from..from + count).step_by(every as usize) {
                        topics.insert(name(at), channels(of));
                        expected.insert(name(at), channels(of));
                    }
                }
                Step::Remove { from, count, every } => {
                    for at in (from..from + count).step_by(every as usize) {
                        let was_there = expected.remove(&name(at)).is_some();
                        prop_assert_eq!(topics.remove(&name(at)), was_there);
                    }
                }
                Step::Hold => held.push((topics.clone(), expected.clone())),
            }
            check(&topics, &expected);
            for at in (0..2_400).step_by(7) {
                prop_assert_eq!(topics.get(&name(at)), expected.get(&name(at)));
                prop_assert_eq!(topics.contains_key(&name(at)), expected.contains_key(&name(at)));
            }
        }
        for (before, was) in &held {
            prop_assert_eq!(&plain(before), was, "what is held stays as it was");
            prop_assert_eq!(since(&topics, before), differences(was, &expected));
            prop_assert_eq!(since(before, &topics), differences(&expected, was));
            prop_assert_eq!(*before == topics, *was == expected);
        }
        let anew: Topics = expected.iter().map(|(name, of)| (name.clone(), of.clone())).collect();
        prop_assert!(anew == topics && !anew.is_shared_with(&topics));
        prop_assert!(topics.is_shared_with(&topics.clone()));
    }
}

#[test]
fn a_change_beside_somebody_who_holds_all_copies_little_of_it_and_little_is_looked_at() {
    let many: Topics = (0..100_000).map(|at| (name(at), channels(1))).collect();
    let held = many.clone();
    let mut topics = many;
    topics.insert(name(50_000), channels(2));
    topics.remove(&name(3));
    topics.insert(name(200_000), channels(0));
    let own = topics.chunks.iter().filter(|chunk| Arc::strong_count(chunk) == 1).count();
    assert!(own <= 4, "{own} of {} parts are copied", topics.chunks.len());
    let changed: Vec<_> = topics.since(&held).map(|(name, _)| name.clone()).collect();
    assert_eq!(changed, [name(3), name(50_000), name(200_000)]);
}

/// `cargo test --release -p ltq-discovery --lib what_a_change_costs -- --ignored --nocapture`
#[test]
#[ignore = "it measures"]
#[allow(clippy::print_stdout, reason = "it measures")]
fn what_a_change_costs_where_somebody_holds_what_was_before() {
    use std::time::Instant;

    const CHANGES: u32 = 200;
    for count in [1_000, 10_000, 100_000, 1_000_000] {
        let mut plain: Arc<Plain> =
            Arc::new((0..count).map(|at| (name(at), channels(1))).collect());
        let mut topics: Topics = (*plain).clone().into();
        let changes = if count > 100_000 { CHANGES / 20 } else { CHANGES };
        let began = Instant::now();
        for change in 0..changes {
            let held = Arc::clone(&plain);
            Arc::make_mut(&mut plain).insert(name(change * 7), channels(2));
            drop(held);
        }
        let map = began.elapsed() / changes;
        let began = Instant::now();
        for change in 0..CHANGES {
            let held = topics.clone();
            topics.insert(name(change * 7), channels(2));
            drop(held);
        }
        let chunks = began.elapsed() / CHANGES;
        let held = topics.clone();
        topics.insert(name(count / 2), channels(3));
        let began = Instant::now();
        assert_eq!(topics.since(&held).count(), 1);
        let compared = began.elapsed();
        println!("{count} topics: a map {map:?}, chunks {chunks:?}, compared {compared:?}");
    }
}
