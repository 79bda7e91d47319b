//! What becomes of announcements.

use ltq_core::TopicName;

use super::trial::{CaseResult, Trial, ensure, fail, has, ids, told_or_later, worked};
use crate::{DiscoveryError, Interest, NodeInfo, NodeState};

pub(super) async fn an_announced_node_is_found(trial: Trial) -> CaseResult {
    let mut watch = trial.watch(&Interest::Everything).await?;
    let node = worked("describing it", Trial::node("one", &["orders"])?.with_version("9.9.9"))?;
    let _announcement = trial.announce(node.clone()).await?;
    let nodes = trial.until("it is there", &mut watch, |nodes| has(nodes, "one", |_| true)).await?;
    let Some(told) = nodes.get(node.id()) else { return fail("it is not among its set") };
    ensure(told.addresses() == node.addresses(), || format!("it is told to be {told:?}"))?;
    ensure(told.state() == NodeState::Ready, || format!("it is told to be {told:?}"))?;
    let topics = told.topics() == node.topics() || !trial.harness.tells_topics;
    ensure(topics, || format!("it is told to have {:?}", told.topics()))
}

/// Whether a node is told to have this topic.
fn with(topic: &str) -> impl Fn(&NodeInfo) -> bool + '_ {
    move |node| {
        let name = TopicName::new(topic).ok();
        name.is_some_and(|name| node.topics().is_some_and(|topics| topics.contains_key(&name)))
    }
}

pub(super) async fn who_tells_topics_says_so(trial: Trial) -> CaseResult {
    let (orders, mail) = (trial.topic("orders")?, trial.topic("mail")?);
    let _one = trial.announce(Trial::node("one", &["orders"])?).await?;
    for (topic, wanted) in [(orders, 1), (mail, 0)] {
        let mut watch = trial.watch(&Interest::Topic(topic)).await?;
        trial.until("one has the topic", &mut watch, |nodes| nodes.len() == wanted).await?;
    }
    ensure(trial.harness.discovery.tells_topics(), || "it says that it tells of none".to_owned())
}

pub(super) async fn topics_that_came_are_told(trial: Trial) -> CaseResult {
    let orders = trial.topic("orders")?;
    let mut announcement = trial.announce(Trial::node("one", &["mail"])?).await?;
    let (mut all, mut some) = (
        trial.watch(&Interest::Everything).await?,
        trial.watch(&Interest::Topic(orders.clone())).await?,
    );
    trial.until("it is there", &mut all, |nodes| has(nodes, "one", with("mail"))).await?;
    told_or_later(announcement.update(Trial::node("one", &["mail", "orders"])?).await)?;
    for watch in [&mut all, &mut some] {
        trial.until("it has the topic", watch, |nodes| has(nodes, "one", with("orders"))).await?;
    }
    Ok(())
}

pub(super) async fn topics_that_went_are_told(trial: Trial) -> CaseResult {
    let orders = trial.topic("orders")?;
    let mut announcement = trial.announce(Trial::node("one", &["mail", "orders"])?).await?;
    let (mut all, mut some) = (
        trial.watch(&Interest::Everything).await?,
        trial.watch(&Interest::Topic(orders.clone())).await?,
    );
    trial.until("it is there", &mut some, |nodes| has(nodes, "one", with("orders"))).await?;
    told_or_later(announcement.update(Trial::node("one", &["mail"])?).await)?;
    trial.until("the topic's last is gone", &mut some, |nodes| nodes.is_empty()).await?;
    let lacks = |node: &NodeInfo| !with("orders")(node) && with("mail")(node);
    trial.until("it lacks the topic", &mut all, |nodes| has(nodes, "one", lacks)).await?;
    Ok(())
}

pub(super) async fn a_draining_node_is_told_and_marked(trial: Trial) -> CaseResult {
    let mut announcement = trial.announce(Trial::node("one", &[])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    let is = |state| move |node: &NodeInfo| node.state() == state;
    trial.until("it is there", &mut watch, |nodes| has(nodes, "one", is(NodeState::Ready))).await?;
    let drains = Trial::node("one", &[])?.with_state(NodeState::Draining);
    told_or_later(announcement.update(drains).await)?;
    let drains = is(NodeState::Draining);
    trial.until("it drains", &mut watch, |nodes| has(nodes, "one", drains)).await?;
    Ok(())
}

pub(super) async fn the_last_of_quick_updates_counts(trial: Trial) -> CaseResult {
    trial.topic("last")?;
    let mut announcement = trial.announce(Trial::node("one", &[])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    for n in 0..50 {
        told_or_later(announcement.update(Trial::node("one", &[&format!("t{n}")])?).await)?;
    }
    told_or_later(announcement.update(Trial::node("one", &["last"])?).await)?;
    let only = |node: &NodeInfo| {
        with("last")(node) && node.topics().is_some_and(|topics| topics.len() == 1)
    };
    trial.until("the last is so", &mut watch, |nodes| has(nodes, "one", only)).await?;
    Ok(())
}

pub(super) async fn an_update_for_another_id_is_refused(trial: Trial) -> CaseResult {
    let mut announcement = trial.announce(Trial::node("one", &[])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.until("it is there", &mut watch, |nodes| ids(nodes) == ["one"]).await?;
    let update = announcement.update(Trial::node("two", &[])?);
    match trial.within("the update", update).await? {
        Err(DiscoveryError::Refused { .. }) => {}
        other => return fail(format!("an update for another id gave {other:?}")),
    }
    // It goes on as the one that it was.
    let _three = trial.announce(Trial::node("three", &[])?).await?;
    trial.until("nothing else came", &mut watch, |nodes| ids(nodes) == ["one", "three"]).await?;
    Ok(())
}

pub(super) async fn a_withdrawn_node_is_gone(trial: Trial) -> CaseResult {
    let announcement = trial.announce(Trial::node("one", &[])?).await?;
    let _other = trial.announce(Trial::node("two", &[])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.until("both are there", &mut watch, |nodes| ids(nodes) == ["one", "two"]).await?;
    worked("withdrawing", trial.within("withdraw", announcement.withdraw()).await?)?;
    trial.until("one is gone", &mut watch, |nodes| ids(nodes) == ["two"]).await?;
    let mut again = trial.watch(&Interest::Everything).await?;
    let nodes = trial.first(&mut again).await?;
    ensure(ids(&nodes) == ["two"], || format!("a new watch gives {nodes:?}"))
}

pub(super) async fn a_dropped_announcement_withdraws(trial: Trial) -> CaseResult {
    let announcement = trial.announce(Trial::node("one", &[])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.until("it is there", &mut watch, |nodes| ids(nodes) == ["one"]).await?;
    drop(announcement);
    trial.until("it is gone", &mut watch, |nodes| nodes.is_empty()).await?;
    Ok(())
}

pub(super) async fn a_later_announcement_takes_the_place(trial: Trial) -> CaseResult {
    let _earlier = trial.announce(Trial::run_of_node(1, "one", &["old"])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.until("it is there", &mut watch, |nodes| ids(nodes) == ["one"]).await?;
    let later = Trial::run_of_node(2, "one", &["new"])?;
    let _later = trial.announce(later.clone()).await?;
    let is = |node: &NodeInfo| node.epoch() == later.epoch();
    trial.until("the later one is there", &mut watch, |nodes| has(nodes, "one", is)).await?;
    Ok(())
}

pub(super) async fn the_end_of_an_earlier_announcement_harms_no_later_one(
    trial: Trial,
) -> CaseResult {
    let earlier = trial.announce(Trial::run_of_node(1, "one", &[])?).await?;
    let later = Trial::run_of_node(2, "one", &[])?;
    let _later = trial.announce(later.clone()).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    let is = |node: &NodeInfo| node.epoch() == later.epoch();
    trial.until("the later one is there", &mut watch, |nodes| has(nodes, "one", is)).await?;
    drop(earlier);
    // Whatever the end of the earlier one does, it has done when this is told.
    let _two = trial.announce(Trial::node("two", &[])?).await?;
    let both = trial.until("there is another", &mut watch, |nodes| has(nodes, "two", |_| true));
    let both = both.await?;
    ensure(has(&both, "one", is), || format!("the later one is gone: {both:?}"))
}

pub(super) async fn many_nodes_are_all_told_of(trial: Trial) -> CaseResult {
    let mut watch = trial.watch(&Interest::Everything).await?;
    let mut announced = Vec::new();
    for n in 0..100 {
        announced.push(trial.announce(Trial::node(&format!("n{n:03}"), &["t"])?).await?);
    }
    trial.until("all are there", &mut watch, |nodes| nodes.len() == 100).await?;
    let rest = announced.split_off(50);
    drop(announced);
    let nodes = trial.until("half are gone", &mut watch, |nodes| nodes.len() == 50).await?;
    drop(rest);
    ensure(ids(&nodes).first() == Some(&"n050"), || format!("these are left: {nodes:?}"))
}
