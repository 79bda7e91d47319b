//! What happens while the backend cannot be reached.

use std::task::Poll;

use super::trial::{CaseResult, Trial, ensure, fail, has, ids, poll_once};
use crate::Interest;

pub(super) async fn losing_sight_takes_no_node_away(trial: Trial) -> CaseResult {
    let backend = trial.backend()?;
    let _announcement = trial.announce(Trial::node("one", &[])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.until("it is there", &mut watch, |nodes| ids(nodes) == ["one"]).await?;
    backend.sever().await;
    match trial.within("learning of the loss", watch.changed()).await? {
        Err(_) => {}
        Ok(nodes) => return fail(format!("the loss of sight was not told: {nodes:?}")),
    }
    // Once; nothing else is told by who knows nothing.
    match poll_once(watch.changed()).await {
        Poll::Pending => {}
        Poll::Ready(told) => return fail(format!("after the loss of sight it gave {told:?}")),
    }
    backend.restore().await;
    // Whatever it says now, it comes to the one that is there.
    let _two = trial.announce(Trial::node("two", &[])?).await?;
    let both = |nodes: &crate::NodeSet| ids(nodes) == ["one", "two"];
    trial.until("both are there", &mut watch, both).await?;
    Ok(())
}

pub(super) async fn what_changed_out_of_sight_is_told_afterwards(trial: Trial) -> CaseResult {
    let backend = trial.backend()?;
    let one = trial.announce(Trial::node("one", &[])?).await?;
    let _two = trial.announce(Trial::node("two", &[])?).await?;
    let mut watch = trial.watch(&Interest::Everything).await?;
    trial.until("both are there", &mut watch, |nodes| ids(nodes) == ["one", "two"]).await?;
    backend.sever().await;
    drop(one);
    backend.restore().await;
    let gone = |nodes: &crate::NodeSet| ids(nodes) == ["two"];
    trial.until("one is gone", &mut watch, gone).await?;
    Ok(())
}

pub(super) async fn an_announcement_comes_through_an_outage(trial: Trial) -> CaseResult {
    let backend = trial.backend()?;
    let mut announcement = trial.announce(Trial::node("one", &[])?).await?;
    backend.sever().await;
    let drains = Trial::node("one", &[])?.with_state(crate::NodeState::Draining);
    // It may be told later.
    let told = trial.within("an update in vain", announcement.update(drains)).await?;
    let refused = matches!(told, Err(crate::DiscoveryError::Refused { .. }));
    ensure(!refused, || format!("an update that was not told anybody gave {told:?}"))?;
    backend.restore().await;
    let mut watch = trial.watch(&Interest::Everything).await?;
    let drains = |node: &crate::NodeInfo| node.state() == crate::NodeState::Draining;
    trial.until("it drains", &mut watch, |nodes| has(nodes, "one", drains)).await?;
    Ok(())
}
