//! Under which keys nodes stand.
//!
//! | key | what it holds | goes with |
//! |---|---|---|
//! | `PREFIX/nodes/ID` | the node without its topics | the lease of the node |
//! | `PREFIX/nodes/ID/heard` | the number of the node's lease, in hexadecimal digits | a lease that is shorter |
//! | `PREFIX/nodes/ID/withdrawn` | the epoch of the run that was withdrawn, if none came since | a lease of an hour |
//! | `PREFIX/topics/PP/ID/LEASE` | those of its topics that belong to part `PP` | the lease of the node |
//!
//! In `ID`, whatever is not a letter, a digit or one of `.`, `-`, `_`, `:` and `~` is written as `%` and two
//! hexadecimal digits. `LEASE` is the number of the node's lease, so that topics are known to be those of this
//! run: nobody is told of them before the node stands there with the same lease. To which of 64 parts a topic
//! belongs says the hash of its name (FNV-1a of 32 bits, modulo 64), two hexadecimal digits.

use std::fmt::Write as _;

use ltq_core::TopicName;

use crate::NodeId;

/// A part of a node's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Part(u8);

impl Part {
    /// Where a topic belongs.
    pub(super) fn of(topic: &TopicName) -> Self {
        let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let hash = topic.as_str().bytes().fold(0x811c_9dc5, step);
        Self((hash % u32::from(PARTS)) as u8)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..PARTS).map(Self)
    }
}

/// What stands under a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Node(NodeId),
    Heard(NodeId),
    Withdrawn(NodeId),
    Topics { node: NodeId, lease: i64, part: Part },
}

/// The keys below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub(super) fn node(&self, id: &NodeId) -> String {
        format!("{}/nodes/{}", self.prefix, escaped(id))
    }

    pub(super) fn heard(&self, id: &NodeId) -> String {
        format!("{}/nodes/{}/heard", self.prefix, escaped(id))
    }

    pub(super) fn withdrawn(&self, id: &NodeId) -> String {
        format!("{}/nodes/{}/withdrawn", self.prefix, escaped(id))
    }

    pub(super) fn topics(&self, id: &NodeId, lease: i64, Part(part): Part) -> String {
        format!("{}/topics/{part:02x}/{}/{lease:x}", self.prefix, escaped(id))
    }

    /// What all keys of all nodes begin with.
    pub(super) fn all(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// What the keys of nodes begin with.
    pub(super) fn nodes(&self) -> String {
        format!("{}/nodes/", self.prefix)
    }

    /// What the keys of topics begin with, or of those of one part.
    pub(super) fn all_topics(&self, part: Option<Part>) -> String {
        match part {
            None => format!("{}/topics/", self.prefix),
            Some(Part(part)) => format!("{}/topics/{part:02x}/", self.prefix),
        }
    }

    /// What stands under a key, if it is one of ours.
    pub(super) fn place(&self, key: &[u8]) -> Option<Place> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix(&self.prefix)?;
        let mut words = rest.strip_prefix('/')?.split('/');
        let place = match (words.next()?, words.next()?, words.next(), words.next()) {
            ("nodes", id, None, None) => Place::Node(unescaped(id)?),
            ("nodes", id, Some("heard"), None) => Place::Heard(unescaped(id)?),
            ("nodes", id, Some("withdrawn"), None) => Place::Withdrawn(unescaped(id)?),
            ("topics", part, Some(id), Some(lease)) => {
                let part = Part::all().find(|Part(it)| format!("{it:02x}") == part)?;
                Place::Topics { node: unescaped(id)?, lease: number(lease)?, part }
            }
            _ => return None,
        };
        words.next().is_none().then_some(place)
    }
}

/// The end of a range of keys that begin with this.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // All keys.
    vec![0]
}

/// A lease's number as it stands in keys and values.
pub(super) fn number(text: &str) -> Option<i64> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    i64::from_str_radix(text, 16).ok().filter(|_| is_plain)
}

fn escaped(id: &NodeId) -> String {
    let mut key = String::with_capacity(id.as_str().len());
    for byte in id.as_str().bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'~' => {
                key.push(char::from(byte));
            }
            // Writing to a text does not fail.
            _ => drop(write!(key, "%{byte:02X}")),
        }
    }
    key
}

/// The id that is written so; each has one way to be written.
fn unescaped(key: &str) -> Option<NodeId> {
    let mut id = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            id.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        id.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    let id = NodeId::new(std::str::from_utf8(&id).ok()?).ok()?;
    (escaped(&id) == key).then_some(id)
}

const PARTS: u8 = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> Keys {
        Keys::new("/ltq".to_owned())
    }

    #[test]
    fn keys_are_as_they_are_written_down() {
        let (keys, id) = (keys(), "tcp://a:1/%".parse().unwrap());
        let orders = Part::of(&"orders".parse().unwrap());
        assert_eq!(keys.node(&id), "/ltq/nodes/tcp:%2F%2Fa:1%2F%25");
        assert_eq!(keys.heard(&"n1".parse().unwrap()), "/ltq/nodes/n1/heard");
        assert_eq!(keys.topics(&"n1".parse().unwrap(), 255, orders), "/ltq/topics/2c/n1/ff");
    }

    #[test]
    fn what_is_no_key_of_ours_is_none() {
        for key in [
            "",
            "/ltq",
            "/ltq/",
            "/ltqs/nodes/a",
            "/ltq/nodes",
            "/ltq/nodes/",
            "/ltq/nodes/a/b",
            "/ltq/nodes/a/heard/b",
            "/ltq/nodes/a/withdrawn/b",
            "/ltq/nodes/a b",
            "/ltq/nodes/%2f",
            "/ltq/nodes/%",
            "/ltq/nodes/%6",
            "/ltq/nodes/%61",
            "/ltq/topics/1f/a",
            "/ltq/topics/40/a/1",
            "/ltq/topics/1F/a/1",
            "/ltq/topics/1f/a/-1",
            "/ltq/topics/1f/a/+1",
            "/ltq/topics/1f/a/",
            "/ltq/topics/1f/a/1/",
            "/ltq/topics/1f/a/ffffffffffffffff",
            "/ltq/other/a",
        ] {
            assert_eq!(keys().place(key.as_bytes()), None, "{key}");
        }
        assert_eq!(keys().place(b"/ltq/nodes/\xff"), None);
    }

    #[test]
    fn ranges_end_behind_all_that_begins_so() {
        assert_eq!(end_of("a/"), b"a0");
        assert_eq!(end_of(""), [0]);
    }

    proptest! {
        #[test]
        fn keys_are_read_as_they_were_written(id in "[^\\s\\p{Cc}]{1,60}", lease in 1..i64::MAX, topic in "[a-z.]{1,20}") {
            let (keys, node) = (keys(), id.parse::<NodeId>().unwrap());
            let part = Part::of(&topic.parse().unwrap());
            for (key, place) in [
                (keys.node(&node), Place::Node(node.clone())),
                (keys.heard(&node), Place::Heard(node.clone())),
                (keys.withdrawn(&node), Place::Withdrawn(node.clone())),
                (keys.topics(&node, lease, part), Place::Topics { node: node.clone(), lease, part }),
            ] {
                prop_assert!(key.starts_with(&keys.all()));
                prop_assert_eq!(keys.place(key.as_bytes()), Some(place));
            }
        }

        #[test]
        fn no_key_panics(key in proptest::collection::vec(any::<u8>(), 0..80), rest in "\\PC{0,40}") {
            keys().place(&key);
            keys().place(format!("/ltq/{rest}").as_bytes());
            keys().place(format!("/ltq/topics/{rest}").as_bytes());
        }
    }
}
