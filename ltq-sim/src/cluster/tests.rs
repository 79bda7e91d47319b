//! Mistakes that are made to see that the check that is there for them finds them, within few seeds.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use ltq_core::{Committed, Durability, Store as _, StoreError, StoreLayer, WriteBatch};
use ltq_store::FileStore;

use super::{
    ClusterSimulation,
    plan::Plan,
    simulation::Mistake,
    topics::{self, Mode},
};
use crate::{
    seeds::Plays as _,
    stores::{FileStores, Place, Stores},
    violation::{Rule, Violation},
};

/// The first of the seeds that breaks this, and whatever else it breaks.
fn found<S: Stores>(simulation: &ClusterSimulation<S>, wanted: Rule) -> (u64, BTreeSet<Rule>) {
    for seed in 1..SEEDS_MAX {
        let broken = simulation.play(seed).broken;
        if broken.iter().any(|violation| violation.rule == wanted) {
            return (seed, broken.into_iter().map(|violation| violation.rule).collect());
        }
    }
    panic!("nothing breaks {wanted} in {SEEDS_MAX} seeds");
}

#[test]
fn who_never_hears_that_a_node_is_gone_is_found() {
    let simulation = ClusterSimulation::new().with_mistake(Mistake::MissesRemovals);
    let (seed, _) = found(&simulation, Rule::Sight);
    assert!(ClusterSimulation::new().play(seed).broken.is_empty(), "seed {seed} without it");
}

#[test]
fn a_producer_that_resends_elsewhere_is_found() {
    let simulation = ClusterSimulation::new().with_mistake(Mistake::ResendsElsewhere);
    let (seed, _) = found(&simulation, Rule::StoredOnce);
    assert!(ClusterSimulation::new().play(seed).broken.is_empty(), "seed {seed} without it");
}

#[test]
fn who_alone_breaks_a_promise_is_all_that_is_left_of_a_play_and_told() {
    let simulation = ClusterSimulation::new().with_mistake(Mistake::PublishesTwice);
    // It breaks nothing but in a mode that stores once, and needs nobody for that.
    let is_it = |seed: &u64| {
        let plan = Plan::new(*seed, &BTreeSet::new());
        let first = plan.producers.first();
        let is_strict = first.is_some_and(|(_, topic)| topics::mode(*topic) == Mode::Strict);
        is_strict && plan.producers.len() > 1 && !plan.troubles.is_empty()
    };
    let seed = (1..).find(is_it).expect("one of all seeds");
    let failure = simulation.play_all(seed..seed + 1).expect_err("it is broken");
    assert_eq!(failure.parts, ["p0".to_owned()].into(), "of seed {seed}");
    let others = simulation.parts(seed).into_iter().filter(|name| name != "p0");
    assert_eq!(failure.left_out, others.collect(), "of seed {seed}");
    let is_once = |violation: &Violation| violation.rule == Rule::StoredOnce;
    assert!(failure.least.broken.iter().any(is_once), "{:?}", failure.least.broken);
    assert!(failure.differs.is_none());
    let told = failure.to_string();
    assert!(told.contains(&format!("LTQ_SIM_SEEDS={seed}..{}", seed + 1)), "{told}");
    assert!(told.contains("stored once: "), "{told}");
    assert!(told.contains("who takes part: p0\n"), "{told}");
}

#[test]
fn a_producer_whose_order_moves_silently_is_found() {
    let simulation = ClusterSimulation::new().with_mistake(Mistake::MovesSilently);
    found(&simulation, Rule::Promises(&[5]));
}

/// Files that are made as durable as it likes, and said to be as durable as was asked.
struct Forgetful(FileStore);

#[async_trait]
impl StoreLayer for Forgetful {
    type Inner = FileStore;

    fn inner(&self) -> &FileStore {
        &self.0
    }

    async fn commit(
        &self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Result<Committed, StoreError> {
        self.0.commit(batch, durability.min(Durability::Os)).await?;
        Ok(Committed { durability })
    }
}

struct ForgetfulStores;

#[async_trait]
impl Stores for ForgetfulStores {
    type Store = Forgetful;

    async fn open(&self, place: Place) -> Result<Forgetful, StoreError> {
        FileStores::default().open(place).await.map(Forgetful)
    }
}

#[test]
fn a_node_that_forgets_what_it_confirmed_is_found() {
    let simulation = ClusterSimulation::with_stores(ForgetfulStores);
    found(&simulation, Rule::Promises(&[1, 2]));
}

#[test]
fn a_plan_has_everybody_in_it_by_names_that_can_be_left_out() {
    let simulation = Arc::new(ClusterSimulation::new());
    let mut kinds = BTreeSet::new();
    for seed in 1..30 {
        let parts = simulation.parts(seed);
        kinds.extend(parts.iter().filter_map(|name| name.chars().next()));
        let names = simulation.names(seed);
        assert_eq!(names.len(), parts.len(), "each name once");
    }
    assert_eq!(kinds, ['a', 'c', 'p', 'w', 'x'].into());
}

/// In so few seeds each mistake is found.
const SEEDS_MAX: u64 = 40;
