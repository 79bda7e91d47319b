//! What watches give, and when.

use super::trial::{CaseResult, Trial, ensure, has, ids, poll_once, told_or_later};
use crate::{Interest, NodeInfo};

pub(super) async fn the_first_set_is_given_at_once(trial: Trial) -> CaseResult {
    let mut watch = trial.watch(&Interest::Everything).await?;
    let nodes = trial.first(&mut watch).await?;
    // And it is the same for whoever comes later, as nothing happens.
    let mut again = trial.watch(&Interest::Everything).await?;
    let same = trial.first(&mut again).await?;
    ensure(nodes == same, || format!("first {nodes:?}, then {same:?}"))
}

pub(super) async fn nothing_new_is_waited_for(trial: Trial) -> CaseResult {
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.first(&mut watch).await?;
    for _ in 0..100 {
        let polled = poll_once(watch.changed()).await;
        ensure(polled.is_pending(), || format!("nothing changed, and it gave {polled:?}"))?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

pub(super) async fn a_dropped_call_loses_no_set(trial: Trial) -> CaseResult {
    let mut watch = trial.watch(&Interest::Everything).await?;
    // Given up before it could give anything, or after; what it gave is used up then.
    let given = poll_once(watch.changed()).await;
    if given.is_pending() {
        trial.first(&mut watch).await?;
    }
    let node = Trial::node("one", &[])?;
    let polled = poll_once(watch.changed()).await;
    ensure(polled.is_pending(), || format!("nothing changed, and it gave {polled:?}"))?;
    let _announcement = trial.announce(node).await?;
    trial.until("it was announced", &mut watch, |nodes| has(nodes, "one", |_| true)).await?;
    Ok(())
}

pub(super) async fn a_watch_of_a_topic_leaves_others_out(trial: Trial) -> CaseResult {
    let (orders, mail) = (trial.topic("orders")?, trial.topic("mail")?);
    let _one = trial.announce(Trial::node("one", &["orders"])?).await?;
    let _two = trial.announce(Trial::node("two", &["mail"])?).await?;
    let _both = trial.announce(Trial::node("both", &["mail", "orders"])?).await?;
    for (topic, wanted) in [(&orders, ["both", "one"]), (&mail, ["both", "two"])] {
        let mut watch = trial.watch(&Interest::Topic(topic.clone())).await?;
        trial.until("two have the topic", &mut watch, |nodes| ids(nodes) == wanted).await?;
    }
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.until("there are three", &mut watch, |nodes| nodes.len() == 3).await?;
    Ok(())
}

pub(super) async fn topics_that_differ_in_case_alone_are_two(trial: Trial) -> CaseResult {
    let (lower, upper) = (trial.topic("orders")?, trial.topic("Orders")?);
    let _one = trial.announce(Trial::node("one", &["orders"])?).await?;
    let _two = trial.announce(Trial::node("two", &["Orders"])?).await?;
    let _both = trial.announce(Trial::node("both", &["Orders", "orders"])?).await?;
    for (topic, wanted) in [(&lower, ["both", "one"]), (&upper, ["both", "two"])] {
        let mut watch = trial.watch(&Interest::Topic(topic.clone())).await?;
        let what = format!("two have {topic}");
        trial.until(&what, &mut watch, |nodes| ids(nodes) == wanted).await?;
    }
    let mut watch = trial.watch(&Interest::Everything).await?;
    let has_two = |node: &NodeInfo| node.topics().is_some_and(|topics| topics.len() == 2);
    trial.until("one has two topics", &mut watch, |nodes| has(nodes, "both", has_two)).await?;
    Ok(())
}

pub(super) async fn a_watch_of_nodes_tells_no_topics(trial: Trial) -> CaseResult {
    trial.topic("orders")?;
    let mut one = trial.announce(Trial::node("one", &["orders"])?).await?;
    let mut watch = trial.watch(&Interest::Nodes).await?;
    let plain = |node: &NodeInfo| node.topics().is_none();
    trial.until("it is there, plain", &mut watch, |nodes| has(nodes, "one", plain)).await?;
    told_or_later(one.update(Trial::node("one", &["orders", "mail"])?).await)?;
    // The next that is told is what came after the topic.
    let _two = trial.announce(Trial::node("two", &["mail"])?).await?;
    let nodes = trial.first(&mut watch).await?;
    ensure(nodes.len() == 2 && nodes.iter().all(plain), || format!("it was told {nodes:?}"))
}

pub(super) async fn a_watch_of_a_topic_tells_no_other(trial: Trial) -> CaseResult {
    let orders = trial.topic("orders")?;
    let _one = trial.announce(Trial::node("one", &["mail", "orders"])?).await?;
    let mut watch = trial.watch(&Interest::Topic(orders)).await?;
    let alone = |node: &NodeInfo| node.topics().is_some_and(|topics| topics.len() == 1);
    trial.until("it is there with it alone", &mut watch, |nodes| has(nodes, "one", alone)).await?;
    Ok(())
}

pub(super) async fn a_node_of_unknown_topics_is_in_every_watch(trial: Trial) -> CaseResult {
    let orders = trial.topic("orders")?;
    let _bare = trial.announce(Trial::bare_node(1, "bare")?).await?;
    for interest in [Interest::Topic(orders), Interest::Nodes, Interest::Everything] {
        let mut watch = trial.watch(&interest).await?;
        trial.until("it is there", &mut watch, |nodes| ids(nodes) == ["bare"]).await?;
    }
    Ok(())
}

pub(super) async fn programs_of_a_mesh_are_told_to_their_mesh_alone(trial: Trial) -> CaseResult {
    let orders = trial.topic("orders")?;
    let _broker = trial.announce(Trial::bare_node(1, "one")?).await?;
    let _east = trial.announce(Trial::program("east", "one")?).await?;
    let _west = trial.announce(Trial::program("west", "one")?).await?;
    let mesh = |name: &str| Interest::Mesh(name.to_owned());
    let wanted: [(_, &[&str]); 5] = [
        (Interest::Nodes, &["one"]),
        (Interest::Topic(orders), &["one"]),
        (mesh("east"), &["mesh:east/one"]),
        (mesh("none"), &[]),
        (Interest::Everything, &["mesh:east/one", "mesh:west/one", "one"]),
    ];
    let mut watches = Vec::new();
    for (interest, wanted) in &wanted {
        let mut watch = trial.watch(interest).await?;
        let what = format!("{interest} are {wanted:?}");
        trial.until(&what, &mut watch, |nodes| ids(nodes) == *wanted).await?;
        watches.push(watch);
    }
    // News are told as what there was is.
    let _two = trial.announce(Trial::program("east", "two")?).await?;
    let _last = trial.announce(Trial::bare_node(1, "two")?).await?;
    let after: [&[&str]; 3] =
        [&["one", "two"], &["one", "two"], &["mesh:east/one", "mesh:east/two"]];
    for (watch, wanted) in watches.iter_mut().zip(after) {
        trial.until("the news", watch, |nodes| ids(nodes) == wanted).await?;
    }
    Ok(())
}

pub(super) async fn all_watches_hear_the_same(trial: Trial) -> CaseResult {
    let mut watches = Vec::new();
    for _ in 0..20 {
        let mut watch = trial.watch(&Interest::Everything).await?;
        trial.first(&mut watch).await?;
        watches.push(watch);
    }
    let announcement = trial.announce(Trial::node("one", &[])?).await?;
    for watch in &mut watches {
        trial.until("it was announced", watch, |nodes| has(nodes, "one", |_| true)).await?;
    }
    drop(watches.split_off(10));
    drop(announcement);
    for watch in &mut watches {
        trial.until("it is gone", watch, |nodes| !has(nodes, "one", |_| true)).await?;
    }
    Ok(())
}
