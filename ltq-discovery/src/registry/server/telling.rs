//! How a registry says what it has to say, in frames.

use crate::registry::{
    link::{LinkError, Mouth},
    protocol::{Part, Parts, PlainNode, Say},
    refused::AnnounceError,
    watchers::Told,
};

/// That a node is not taken in.
pub(super) fn not_taken(error: &AnnounceError) -> Say {
    let superseded = matches!(error, AnnounceError::Superseded { .. });
    Say::NotTaken { superseded, detail: error.to_string() }
}

/// Says one thing to a watcher, in as many frames as it takes.
pub(super) fn say_told(mouth: &mut Mouth, watch: u32, told: Told) -> Result<(), LinkError> {
    let mut say = |part: Part| mouth.say(&Say::Told { watch, part });
    match told {
        Told::Anew => say(Part::Anew)?,
        Told::Gone { id, withdrawn } => {
            let withdrawn = withdrawn.map(|epoch| (epoch.started, epoch.instance));
            say(Part::Gone { id: id.to_string(), withdrawn })?;
        }
        Told::Complete => say(Part::Complete)?,
        Told::Node(node) => {
            let (plain, is_suspected) = (PlainNode::of(&node), node.is_suspected());
            let Some(topics) = node.topics() else {
                say(Part::Node { node: plain, topics: None, is_suspected, more: false })?;
                return Ok(());
            };
            let mut parts = Parts::of(topics);
            let (first, mut more) = (parts.next_part(), !parts.is_over());
            say(Part::Node { node: plain, topics: Some(first), is_suspected, more })?;
            while more {
                let topics = parts.next_part();
                more = !parts.is_over();
                say(Part::Topics { topics, more })?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, NodeId};

    #[test]
    fn who_is_not_taken_in_knows_whether_another_run_is_there() {
        let node: NodeId = "n".parse().unwrap();
        let epoch = Epoch { started: 1, instance: 1 };
        let known = Epoch { started: 2, instance: 1 };
        let other = AnnounceError::Superseded { node: node.clone(), epoch, known };
        let full = AnnounceError::TooMany { node, what: "nodes", count: 2, max: 1 };
        for (error, is_other) in [(other, true), (full, false)] {
            let Say::NotTaken { superseded, detail } = not_taken(&error) else { panic!() };
            assert_eq!((superseded, detail), (is_other, error.to_string()));
        }
    }
}
