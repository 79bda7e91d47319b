use super::*;
use crate::{Interest, NodeSet};

fn node(id: &str) -> NodeInfo {
    NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap()
}

fn topics(names: &[&str]) -> Topics {
    names.iter().map(|name| (name.parse().unwrap(), BTreeSet::new())).collect()
}

#[test]
fn ids_keep_their_rule() {
    assert_eq!(NodeId::new("tcp://[::1]:7440").unwrap().to_string(), "tcp://[::1]:7440");
    assert_eq!(NodeId::new(""), Err(NodeIdError::Empty));
    assert_eq!(NodeId::new(&"x".repeat(256)), Err(NodeIdError::TooLong(256)));
    for bad in ["a b", "a\n", "\u{a0}", "\u{1b}[2J", "\u{9b}2J"] {
        assert_eq!(NodeId::new(bad), Err(NodeIdError::Character(bad.to_owned())));
    }
}

#[test]
fn a_node_has_addresses_that_are_some() {
    let id: NodeId = "n".parse().unwrap();
    assert_eq!(NodeInfo::new(id.clone(), []), Err(NodeInfoError::NoAddress(id.clone())));
    for (scheme, rest) in [("", "a:1"), ("tcp", ""), ("t p", "a:1")] {
        let error = NodeInfo::new(id.clone(), [Address::new(scheme, rest)]).unwrap_err();
        assert!(matches!(error, NodeInfoError::BadAddress { .. }), "{error}");
    }
}

#[test]
fn what_a_node_says_of_itself_has_bounds() {
    let id: NodeId = "n".parse().unwrap();
    let of_bytes = |bytes: usize| Address::new("tcp", "x".repeat(bytes - "tcp://".len()));
    let with = |addresses: Vec<Address>| NodeInfo::new(id.clone(), addresses);
    assert!(with(vec![of_bytes(255); 16]).is_ok());
    let error = with(vec![of_bytes(256)]).unwrap_err();
    assert_eq!(error, NodeInfoError::LongAddress { node: id.clone(), bytes: 256 });
    let error = with(vec![of_bytes(9); 17]).unwrap_err();
    assert_eq!(error, NodeInfoError::TooManyAddresses { node: id.clone(), count: 17 });
    assert!(node("n").with_version(&"x".repeat(64)).is_ok());
    let error = node("n").with_version(&"x".repeat(65)).unwrap_err();
    assert_eq!(error, NodeInfoError::LongVersion { node: id, bytes: 65 });
}

#[test]
fn nothing_that_a_node_says_of_itself_moves_a_cursor() {
    for evil in ["\u{1b}[2J", "1.0\n", "\u{9b}2J", "\u{7f}"] {
        let error = node("n").with_version(evil).unwrap_err();
        assert!(matches!(error, NodeInfoError::BadVersion { .. }), "{error}");
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
        let error = NodeInfo::new("n".parse().unwrap(), [Address::new("tcp", evil)]).unwrap_err();
        assert!(matches!(error, NodeInfoError::BadAddress { .. }), "{error}");
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
}

#[test]
fn an_address_is_found_by_its_transport_and_the_preferred_one_first() {
    let addresses = ["quic://q:1", "tcp://a:1", "tcp://b:1"].map(|text| text.parse().unwrap());
    let node = NodeInfo::new("n".parse().unwrap(), addresses).unwrap();
    assert_eq!(node.address("tcp").unwrap().to_string(), "tcp://a:1");
    assert_eq!(node.address("in-process"), None);
}

#[test]
fn a_set_has_each_node_once_in_order() {
    let late = node("b").with_state(NodeState::Draining);
    let set: NodeSet = [node("c"), node("b"), node("a"), late.clone()].into_iter().collect();
    let ids: Vec<_> = set.iter().map(|node| node.id().as_str()).collect();
    assert_eq!((ids, set.len()), (vec!["a", "b", "c"], 3));
    assert_eq!(set.get(late.id()), Some(&late));
    assert_eq!(set.get(&"d".parse().unwrap()), None);
    assert!(NodeSet::default().is_empty());
}

#[test]
fn a_topics_nodes_are_those_that_have_it_or_may() {
    let has = node("has").with_topics(topics(&["orders", "mail"]));
    let has_not = node("has-not").with_topics(topics(&["mail"]));
    let unknown = node("unknown");
    let all: NodeSet = [has, has_not, unknown.clone()].into_iter().collect();
    let orders = all.view(&Interest::Topic("orders".parse().unwrap()));
    let has_one = node("has").with_topics(topics(&["orders"]));
    assert_eq!(orders, [has_one, unknown.clone()].into_iter().collect());
    assert_eq!(all.view(&Interest::Everything), all);
    let plain = [node("has"), node("has-not"), unknown].into_iter().collect();
    assert_eq!(all.view(&Interest::Nodes), plain);
}

#[test]
fn a_copy_shares_its_topics_and_one_that_changes_is_on_its_own() {
    let node = node("n").with_topics(topics(&["a", "b"]));
    let mut copy = node.clone().with_load(Load(7)).with_suspicion(true);
    assert!(copy.topics().unwrap().is_shared_with(node.topics().unwrap()));
    copy.remove_topic(&"a".parse().unwrap());
    copy.add_topics([("c".parse().unwrap(), BTreeSet::new())]);
    assert_eq!(node.topics(), Some(&topics(&["a", "b"])));
    assert_eq!(copy.topics(), Some(&topics(&["b", "c"])));
}
