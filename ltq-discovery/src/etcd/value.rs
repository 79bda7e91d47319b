//! How a node is written down: JSON, for people who look into etcd with its own tools.
//!
//! ```text
//! {"format":1,"node":"n1","started":1763870000000,"instance":"7f","addresses":["tcp://10.0.0.1:7440"],
//!  "state":"ready","load":0,"program":"0.1.0","topics":true}
//! ```
//!
//! `topics` says whether it is known which it has. They stand in parts of their own, each a map of names of
//! topics to their channels: `{"orders":["billing","mail"]}`. What a reader does not know it leaves aside,
//! and a node of a later format as a whole.

use std::collections::{BTreeMap, BTreeSet};

use ltq_core::{ChannelName, TopicName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::keys::Part;
use crate::{ADDRESSES_MAX, Epoch, Load, NodeId, NodeInfo, NodeInfoError, NodeState};

/// The longest description of a node without its topics, in bytes.
pub(super) const NODE_BYTES_MAX: usize = 64 << 10;
/// The longest part of a node's topics, in bytes: etcd takes in 1.5 MiB with one request.
pub(super) const PART_BYTES_MAX: usize = 1 << 20;

/// Why a value is no node, or a node no value.
#[derive(Debug, Error)]
pub(super) enum ValueError {
    #[error("it has {bytes} bytes; the limit is {max}")]
    TooLong { bytes: usize, max: usize },
    #[error("it has {0} addresses; the limit is {ADDRESSES_MAX}")]
    Addresses(usize),
    #[error("it is of format {0}; {FORMAT} is known")]
    Format(u32),
    #[error("it names node {0}, and its key another one")]
    Another(String),
    #[error("{0:?} is no address")]
    Address(String),
    #[error("its instance is {0:?}, and no number")]
    Instance(String),
    #[error(transparent)]
    Node(#[from] NodeInfoError),
    #[error("it is not as nodes are written: {0}")]
    Json(#[from] serde_json::Error),
}

/// The topics of a part, with their channels.
pub(super) type Topics = BTreeMap<TopicName, BTreeSet<ChannelName>>;

#[derive(Serialize, Deserialize)]
struct Plain {
    format: u32,
    node: String,
    started: u64,
    /// In hexadecimal digits: not all that reads JSON has numbers of 64 bits.
    instance: String,
    addresses: Vec<String>,
    state: State,
    load: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    topics: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ready,
    Draining,
}

/// The node without its topics, and with this load.
pub(super) fn of_node(node: &NodeInfo, load: Load) -> Result<Vec<u8>, ValueError> {
    let Epoch { started, instance } = node.epoch();
    let value = serde_json::to_vec(&Plain {
        format: FORMAT,
        node: node.id().to_string(),
        started,
        instance: format!("{instance:x}"),
        addresses: node.addresses().iter().map(ToString::to_string).collect(),
        state: match node.state() {
            NodeState::Ready => State::Ready,
            NodeState::Draining => State::Draining,
        },
        load: load.0,
        program: node.version().map(str::to_owned),
        topics: node.topics().is_some(),
    })?;
    checked(&value, NODE_BYTES_MAX)?;
    Ok(value)
}

/// The node that a value describes, and that has no topics, or none that are known.
pub(super) fn node(id: &NodeId, value: &[u8]) -> Result<NodeInfo, ValueError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    checked(value, NODE_BYTES_MAX)?;
    let Format { format } = serde_json::from_slice(value)?;
    if format != FORMAT {
        return Err(ValueError::Format(format));
    }
    let plain: Plain = serde_json::from_slice(value)?;
    if plain.node != id.as_str() {
        return Err(ValueError::Another(plain.node));
    }
    if plain.addresses.len() > ADDRESSES_MAX {
        return Err(ValueError::Addresses(plain.addresses.len()));
    }
    let addresses = plain.addresses.into_iter();
    let addresses = addresses.map(|text| text.parse().map_err(|_| ValueError::Address(text)));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let instance = u64::from_str_radix(&plain.instance, 16);
    let instance = instance.map_err(|_| ValueError::Instance(plain.instance))?;
    let state = match plain.state {
        State::Ready => NodeState::Ready,
        State::Draining => NodeState::Draining,
    };
    let mut node = NodeInfo::new(id.clone(), addresses)?
        .with_epoch(Epoch { started: plain.started, instance })
        .with_load(Load(plain.load))
        .with_state(state);
    if let Some(program) = plain.program {
        node = node.with_version(&program)?;
    }
    Ok(if plain.topics { node.with_topics(crate::Topics::new()) } else { node })
}

/// The parts of a node's topics that are wanted, as values; those that are empty are not among them.
pub(super) fn of_topics(
    node: &NodeInfo,
    wanted: impl Fn(Part) -> bool,
) -> Result<BTreeMap<Part, Vec<u8>>, ValueError> {
    let mut parts: BTreeMap<Part, BTreeMap<&TopicName, &BTreeSet<ChannelName>>> = BTreeMap::new();
    for (topic, channels) in node.topics().into_iter().flatten() {
        let part = Part::of(topic);
        if wanted(part) {
            parts.entry(part).or_default().insert(topic, channels);
        }
    }
    let values = parts.into_iter().map(|(part, topics)| Ok((part, serde_json::to_vec(&topics)?)));
    values.collect()
}

/// The topics that a part's value names.
pub(super) fn topics(value: &[u8]) -> Result<Topics, ValueError> {
    checked(value, PART_BYTES_MAX)?;
    Ok(serde_json::from_slice(value)?)
}

/// Which run of a node it was, in digits of which those behind the dash are hexadecimal.
pub(super) fn epoch(value: &[u8]) -> Option<Epoch> {
    let (started, instance) = std::str::from_utf8(value).ok()?.split_once('-')?;
    let instance = u64::from_str_radix(instance, 16).ok()?;
    Some(Epoch { started: started.parse().ok()?, instance })
}

/// That each part of the node's topics is short enough.
pub(super) fn check_topics(node: &NodeInfo) -> Result<(), ValueError> {
    let mut bytes: BTreeMap<Part, usize> = BTreeMap::new();
    for (topic, channels) in node.topics().into_iter().flatten() {
        // Names need no escapes: each is as long as it is, with two quotes and what follows it.
        let of = channels.iter().map(|channel| channel.as_str().len() + 3).sum::<usize>();
        *bytes.entry(Part::of(topic)).or_insert(1) += topic.as_str().len() + 6 + of;
    }
    match bytes.into_values().max() {
        Some(bytes) if bytes > PART_BYTES_MAX => {
            Err(ValueError::TooLong { bytes, max: PART_BYTES_MAX })
        }
        _ => Ok(()),
    }
}

const fn checked(value: &[u8], max: usize) -> Result<(), ValueError> {
    if value.len() > max {
        return Err(ValueError::TooLong { bytes: value.len(), max });
    }
    Ok(())
}

const FORMAT: u32 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> NodeInfo {
        let addresses = ["tcp://a:1", "quic://[::1]:2"].map(|text| text.parse().unwrap());
        let node = NodeInfo::new("n/1".parse().unwrap(), addresses).unwrap();
        let epoch = Epoch { started: 7, instance: u64::MAX };
        node.with_epoch(epoch).with_load(Load(9)).with_version("0.1.0").unwrap()
    }

    fn topics_of(count: usize, channels: usize) -> Topics {
        let channels: BTreeSet<_> =
            (0..channels).map(|n| format!("c{n}").parse().unwrap()).collect();
        (0..count).map(|n| (format!("topic-{n}").parse().unwrap(), channels.clone())).collect()
    }

    #[test]
    fn a_node_is_read_as_it_was_written() {
        let draining = example().with_state(NodeState::Draining).with_topics(crate::Topics::new());
        for written in [example(), draining] {
            let value = of_node(&written, Load(9)).unwrap();
            assert_eq!(node(written.id(), &value).unwrap(), written);
        }
        assert_eq!(
            String::from_utf8(of_node(&example(), Load(9)).unwrap()).unwrap(),
            "{\"format\":1,\"node\":\"n/1\",\"started\":7,\"instance\":\"ffffffffffffffff\",\
             \"addresses\":[\"tcp://a:1\",\"quic://[::1]:2\"],\"state\":\"ready\",\"load\":9,\
             \"program\":\"0.1.0\",\"topics\":false}"
        );
    }

    #[test]
    fn an_epoch_is_read_as_it_was_written() {
        let written = Epoch { started: u64::MAX, instance: u64::MAX - 1 };
        assert_eq!(epoch(written.to_string().as_bytes()), Some(written));
        for bad in ["", "7", "-", "7-", "-7", "7-g", "7-7-7", "\u{b2}-7"] {
            assert_eq!(epoch(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn topics_are_in_parts_and_all_of_them() {
        let written = example().with_topics(topics_of(500, 3).into());
        let parts = of_topics(&written, |_| true).unwrap();
        assert_eq!(parts.len(), Part::all().count());
        let mut read = Topics::new();
        for (part, value) in &parts {
            let of_part = topics(value).unwrap();
            assert!(of_part.keys().all(|topic| Part::of(topic) == *part));
            read.extend(of_part);
        }
        assert_eq!(Some(&crate::Topics::from(read)), written.topics());
        let one = *parts.keys().next().unwrap();
        assert_eq!(of_topics(&written, |part| part == one).unwrap().len(), 1);
        assert!(of_topics(&example(), |_| true).unwrap().is_empty());
    }

    #[test]
    fn what_is_too_long_is_known_before_it_is_written() {
        for channels in [60_000, 110_000, 130_000, 400_000] {
            let node = example().with_topics(topics_of(1, channels).into());
            let parts = of_topics(&node, |_| true).unwrap();
            let is_short = parts.values().all(|value| value.len() <= PART_BYTES_MAX);
            assert_eq!(check_topics(&node).is_ok(), is_short, "{channels}");
            assert_eq!(parts.values().all(|value| topics(value).is_ok()), is_short);
        }
        let good = String::from_utf8(of_node(&example(), Load(9)).unwrap()).unwrap();
        let many = good.replace("[\"tcp://a:1\",", &format!("[{}", "\"tcp://a:1\",".repeat(16)));
        let error = node(example().id(), many.as_bytes());
        assert!(matches!(error, Err(ValueError::Addresses(17))), "{error:?}");
    }

    #[test]
    fn what_is_no_node_is_refused_with_its_reason() {
        let good = String::from_utf8(of_node(&example(), Load(9)).unwrap()).unwrap();
        let id: NodeId = "n/1".parse().unwrap();
        for (from, to, why) in [
            ("\"format\":1", "\"format\":2", "of format 2"),
            ("\"n/1\"", "\"n/2\"", "names node n/2"),
            ("tcp://a:1", "://", "is no address"),
            ("\"ready\"", "\"well\"", "not as nodes are written"),
            ("\"load\":9", "\"load\":-9", "not as nodes are written"),
            ("ffffffffffffffff", "xyz", "no number"),
            ("[\"tcp://a:1\",\"quic://[::1]:2\"]", "[]", "has no address"),
            ("0.1.0", &"0".repeat(65), "version of 65 bytes"),
            ("0.1.0", &"0".repeat(NODE_BYTES_MAX), "the limit is 65536"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            let error = node(&id, bad.as_bytes()).expect_err(why).to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
        let later = good.replace("{", "{\"what\":[\"is\"],");
        assert_eq!(node(&id, later.as_bytes()).unwrap(), example());
        for bad in ["", "[]", "{\"a b\":[]}", "{\"orders\":7}", "{\"orders\":[\"a b\"]}"] {
            topics(bad.as_bytes()).expect_err(bad);
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "\\PC{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for value in [value.as_bytes(), &bytes] {
                let _ = node(&"n".parse().unwrap(), value);
                let _ = topics(value);
                let _ = epoch(value);
            }
        }
    }
}
