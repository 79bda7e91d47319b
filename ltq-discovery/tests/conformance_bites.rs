//! The suite finds each thing that a scheme can do wrong: a board in memory is right, and with each of
//! its faults is not.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use ltq_core::{ChannelName, TopicName};
use ltq_discovery::{
    Announced, Announcement, Discovery, DiscoveryError, Interest, NodeInfo, NodeSet, NodeState,
    Watch,
    conformance::{Backend, Harness, run_all},
};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    GivesTheSameTwice,
    KeepsTheFirstSet,
    UsesUpWhatIsDropped,
    IgnoresTopics,
    IgnoresCase,
    TellsTopicsToWhoAskedForNone,
    TellsOtherTopics,
    SaysThatItTellsNone,
    TellsProgramsToEverybody,
    LeavesUnknownTopicsOut,
    LosesUpdates,
    KeepsTheFirstOfUpdates,
    KeepsTopicsThatWent,
    LeavesDrainingNodesOut,
    TakesAnotherId,
    WithdrawsNothing,
    DroppingWithdrawsNothing,
    KeepsTheEarlierOne,
    WithdrawsTheLaterOne,
    ForgetsAddresses,
    ForgetsBeyondNinety,
    LossTakesNodesAway,
    LossIsNotTold,
    LossIsToldAgain,
    MissesWhatWasOutOfSight,
    GivesUpAfterAnOutage,
}

/// Nodes by their ids, and whether anybody can see them.
#[derive(Clone, Debug, Default)]
struct State {
    nodes: BTreeMap<String, NodeInfo>,
    severed: bool,
    outages: u32,
}

#[derive(Clone)]
struct Board {
    state: Arc<watch::Sender<State>>,
    fault: Fault,
}

impl Board {
    fn new(fault: Fault) -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())), fault }
    }

    fn put(&self, mut node: NodeInfo) {
        let (fault, id) = (self.fault, node.id().to_string());
        if fault == Fault::ForgetsAddresses {
            let other = ["tcp://elsewhere:1".parse().unwrap()];
            let topics = node.topics().cloned().unwrap_or_default();
            node = NodeInfo::new(node.id().clone(), other)
                .unwrap()
                .with_epoch(node.epoch())
                .with_topics(topics);
        }
        if fault == Fault::IgnoresCase {
            let lower = |(topic, channels): (&TopicName, &BTreeSet<ChannelName>)| {
                (TopicName::new(&topic.as_str().to_lowercase()).unwrap(), channels.clone())
            };
            let topics = node.topics().map(|topics| topics.iter().map(lower).collect());
            node = node.clone().with_topics(topics.unwrap_or_default());
        }
        self.state.send_modify(|state| {
            let full = fault == Fault::ForgetsBeyondNinety && state.nodes.len() >= 90;
            let late = state.nodes.get(&id).is_some_and(|old| old.epoch() > node.epoch());
            if !full && !late {
                state.nodes.insert(id, node);
            }
        });
    }
}

#[async_trait]
impl Discovery for Board {
    async fn announce(&self, node: NodeInfo) -> Result<Announced, DiscoveryError> {
        let known = self.state.borrow().nodes.contains_key(node.id().as_str());
        if !(self.fault == Fault::KeepsTheEarlierOne && known) {
            self.put(node.clone());
        }
        let pinned = Pinned { board: self.clone(), node, updates: 0, withdraw: true };
        Ok(Announced::Known(Box::new(pinned)))
    }

    async fn watch(&self, interest: &Interest) -> Result<Box<dyn Watch>, DiscoveryError> {
        Ok(Box::new(Reading {
            board: self.clone(),
            state: self.state.subscribe(),
            interest: interest.clone(),
            given: None,
            taken: Mutex::new(None),
            outages: self.state.borrow().outages,
        }))
    }

    fn tells_topics(&self) -> bool {
        self.fault != Fault::SaysThatItTellsNone
    }
}

struct Pinned {
    board: Board,
    node: NodeInfo,
    updates: u32,
    withdraw: bool,
}

impl Pinned {
    fn take_off(&mut self) {
        self.withdraw = false;
        let (id, epoch) = (self.node.id().to_string(), self.node.epoch());
        let any = self.board.fault == Fault::WithdrawsTheLaterOne;
        self.board.state.send_modify(|state| {
            if state.nodes.get(&id).is_some_and(|node| any || node.epoch() == epoch) {
                state.nodes.remove(&id);
            }
        });
    }
}

#[async_trait]
impl Announcement for Pinned {
    async fn update(&mut self, mut node: NodeInfo) -> Result<(), DiscoveryError> {
        let fault = self.board.fault;
        if node.id() != self.node.id() && fault != Fault::TakesAnotherId {
            let (backend, why) = ("the board".to_owned(), "it is another node".to_owned());
            return Err(DiscoveryError::Refused { backend, why });
        }
        self.updates += 1;
        let first = self.updates == 1;
        match fault {
            Fault::LosesUpdates => return Ok(()),
            Fault::KeepsTheFirstOfUpdates if !first => return Ok(()),
            Fault::GivesUpAfterAnOutage if self.board.state.borrow().severed => return Ok(()),
            Fault::KeepsTopicsThatWent => {
                let mut topics = self.node.topics().cloned().unwrap_or_default();
                for (topic, channels) in node.topics().into_iter().flatten() {
                    topics.insert(topic.clone(), channels.clone());
                }
                node = node.with_topics(topics);
            }
            _ => {}
        }
        self.node = node.clone();
        self.board.put(node);
        Ok(())
    }

    async fn withdraw(mut self: Box<Self>) -> Result<(), DiscoveryError> {
        match self.board.fault {
            Fault::WithdrawsNothing => self.withdraw = false,
            _ => self.take_off(),
        }
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.withdraw && self.board.fault != Fault::DroppingWithdrawsNothing {
            self.take_off();
        }
    }
}

struct Reading {
    board: Board,
    state: watch::Receiver<State>,
    interest: Interest,
    given: Option<NodeSet>,
    taken: Mutex<Option<NodeSet>>,
    outages: u32,
}

impl Reading {
    fn seen(&self, state: &State) -> NodeSet {
        let fault = self.board.fault;
        let wanted = |node: &&NodeInfo| {
            let known = node.topics().is_some() || fault != Fault::LeavesUnknownTopicsOut;
            let ready = node.state() == NodeState::Ready || fault != Fault::LeavesDrainingNodesOut;
            known && ready
        };
        let view = |node: &NodeInfo| match (&self.interest, fault) {
            (Interest::Topic(_), Fault::IgnoresTopics)
            | (Interest::Nodes, Fault::TellsTopicsToWhoAskedForNone) => Some(node.clone()),
            (Interest::Topic(topic), Fault::TellsOtherTopics) => {
                node.may_have(topic).then(|| node.clone())
            }
            (Interest::Nodes, Fault::TellsProgramsToEverybody) => Some(node.without_topics()),
            (interest, _) => interest.view(node),
        };
        state.nodes.values().filter(wanted).filter_map(view).collect()
    }
}

#[async_trait]
impl Watch for Reading {
    async fn changed(&mut self) -> Result<NodeSet, DiscoveryError> {
        let fault = self.board.fault;
        loop {
            let state = self.state.borrow_and_update().clone();
            let lost = || DiscoveryError::Unreachable {
                backend: "the board".to_owned(),
                source: "somebody stands before it".into(),
            };
            if fault == Fault::LossTakesNodesAway && state.severed {
                self.given = Some(NodeSet::default());
                return Ok(NodeSet::default());
            }
            if self.outages < state.outages && fault != Fault::LossIsNotTold {
                if fault != Fault::LossIsToldAgain {
                    self.outages = state.outages;
                }
                return Err(lost());
            }
            if fault == Fault::MissesWhatWasOutOfSight && state.outages > 0 {
                std::future::pending::<()>().await;
            }
            let nodes = self.seen(&state);
            let same = fault == Fault::GivesTheSameTwice;
            let first = fault == Fault::KeepsTheFirstSet && self.given.is_some();
            if !state.severed && !first && (same || self.given.as_ref() != Some(&nodes)) {
                if fault == Fault::UsesUpWhatIsDropped && self.given.is_some() {
                    self.given = Some(nodes.clone());
                    *self.taken.lock().unwrap() = Some(nodes);
                    continue;
                }
                self.given = Some(nodes.clone());
                return Ok(nodes);
            }
            let _ = self.state.changed().await;
        }
    }
}

#[async_trait]
impl Backend for Board {
    async fn sever(&self) {
        self.state.send_modify(|state| {
            state.severed = true;
            state.outages += 1;
        });
    }

    async fn restore(&self) {
        self.state.send_modify(|state| state.severed = false);
    }
}

async fn harness(fault: Fault) -> Harness {
    let board = Board::new(fault);
    let patience = std::time::Duration::from_millis(300);
    Harness::new(board.clone()).backend(board).patience(patience)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheme_that_keeps_every_promise_passes() {
    let report = run_all(|| Box::pin(harness(Fault::None))).await;
    assert!(report.is_ok() && report.skipped().next().is_none(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_by_name() {
    for (fault, case) in [
        (Fault::GivesTheSameTwice, "nothing_new_is_waited_for"),
        (Fault::KeepsTheFirstSet, "a_dropped_call_loses_no_set"),
        (Fault::UsesUpWhatIsDropped, "a_dropped_call_loses_no_set"),
        (Fault::IgnoresTopics, "a_watch_of_a_topic_leaves_others_out"),
        (Fault::IgnoresCase, "topics_that_differ_in_case_alone_are_two"),
        (Fault::TellsTopicsToWhoAskedForNone, "a_watch_of_nodes_tells_no_topics"),
        (Fault::TellsOtherTopics, "a_watch_of_a_topic_tells_no_other"),
        (Fault::SaysThatItTellsNone, "who_tells_topics_says_so"),
        (Fault::TellsProgramsToEverybody, "programs_of_a_mesh_are_told_to_their_mesh_alone"),
        (Fault::LeavesUnknownTopicsOut, "a_node_of_unknown_topics_is_in_every_watch"),
        (Fault::LosesUpdates, "topics_that_came_are_told"),
        (Fault::KeepsTheFirstOfUpdates, "the_last_of_quick_updates_counts"),
        (Fault::KeepsTopicsThatWent, "topics_that_went_are_told"),
        (Fault::LeavesDrainingNodesOut, "a_draining_node_is_told_and_marked"),
        (Fault::TakesAnotherId, "an_update_for_another_id_is_refused"),
        (Fault::WithdrawsNothing, "a_withdrawn_node_is_gone"),
        (Fault::DroppingWithdrawsNothing, "a_dropped_announcement_withdraws"),
        (Fault::KeepsTheEarlierOne, "a_later_announcement_takes_the_place"),
        (Fault::WithdrawsTheLaterOne, "the_end_of_an_earlier_announcement_harms_no_later_one"),
        (Fault::ForgetsAddresses, "an_announced_node_is_found"),
        (Fault::ForgetsBeyondNinety, "many_nodes_are_all_told_of"),
        (Fault::LossTakesNodesAway, "losing_sight_takes_no_node_away"),
        (Fault::LossIsNotTold, "losing_sight_takes_no_node_away"),
        (Fault::LossIsToldAgain, "losing_sight_takes_no_node_away"),
        (Fault::MissesWhatWasOutOfSight, "what_changed_out_of_sight_is_told_afterwards"),
        (Fault::GivesUpAfterAnOutage, "an_announcement_comes_through_an_outage"),
    ] {
        let report = run_all(|| Box::pin(harness(fault))).await;
        assert!(report.failed().any(|(failed, _)| failed == case), "{fault:?}: {report}");
    }
}
