use proptest::prelude::*;

use super::*;

fn keys() -> Keys {
    Keys::new("/ltq".to_owned())
}

fn view(interest: Interest) -> View {
    View::new(keys(), interest, Bounds { nodes_max: 3, bytes_max: 10_000 })
}

fn node(id: &str, topics: &[&str]) -> NodeInfo {
    let topics = topics.iter().map(|name| (name.parse().unwrap(), ["c".parse().unwrap()].into()));
    let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    node.with_topics(topics.collect())
}

/// All that a node writes, in the order in which it does.
fn write(view: &mut View, node: &NodeInfo, lease: i64) -> Result<(), Skipped> {
    for (part, value) in value::of_topics(node, |_| true).unwrap() {
        view.put(keys().topics(node.id(), lease, part).as_bytes(), &value, lease)?;
    }
    view.put(
        keys().node(node.id()).as_bytes(),
        &value::of_node(node, node.load()).unwrap(),
        lease,
    )?;
    view.put(keys().heard(node.id()).as_bytes(), format!("{lease:x}").as_bytes(), 1)
}

fn delete(view: &mut View, node: &NodeInfo, lease: i64) {
    view.delete(keys().node(node.id()).as_bytes());
    for part in Part::all() {
        view.delete(keys().topics(node.id(), lease, part).as_bytes());
    }
}

#[test]
fn a_node_is_there_with_its_topics_and_suspected_while_it_is_not_heard() {
    let mut view = view(Interest::Everything);
    let one = node("one", &["orders", "mail"]);
    write(&mut view, &one, 10).unwrap();
    assert_eq!(view.nodes(), [one.clone()].into_iter().collect());
    let heard = keys().heard(one.id());
    view.delete(heard.as_bytes());
    assert_eq!(view.nodes(), [one.clone().with_suspicion(true)].into_iter().collect());
    // What an earlier run says of itself is not heard of this one.
    view.put(heard.as_bytes(), b"9", 1).unwrap();
    assert!(view.nodes().iter().all(NodeInfo::is_suspected));
    view.put(heard.as_bytes(), b"a", 1).unwrap();
    assert_eq!(view.nodes(), [one.clone()].into_iter().collect());
    view.delete(heard.as_bytes());
    delete(&mut view, &one, 10);
    assert!(view.nodes().is_empty() && view.known.is_empty());
    assert_eq!(view.bytes, 0);
}

#[test]
fn a_run_that_said_that_it_is_no_more_is_none_whatever_stands_there_still() {
    let mut view = view(Interest::Nodes);
    let run = |started: u64| {
        let epoch = crate::Epoch { started, instance: 7 };
        node("one", &[]).without_topics().with_epoch(epoch)
    };
    write(&mut view, &run(5), 10).unwrap();
    let withdrawn = keys().withdrawn(run(5).id());
    view.put(withdrawn.as_bytes(), b"5-7", 1).unwrap();
    let nodes = view.nodes();
    assert!(nodes.is_empty() && !nodes.has_lost(&run(5)) && nodes.has_lost(&run(6)));
    view.put(withdrawn.as_bytes(), b"what", 1).unwrap_err();
    delete(&mut view, &run(5), 10);
    assert!(!view.nodes().has_lost(&run(5)));
    // The next run takes the word away, whatever its clock says; an hour does as well.
    write(&mut view, &run(4), 11).unwrap();
    view.delete(withdrawn.as_bytes());
    assert_eq!(view.nodes(), [run(4)].into_iter().collect());
    delete(&mut view, &run(4), 11);
    assert!(view.nodes().has_lost(&run(4)));
}

#[test]
fn topics_of_another_run_are_not_told() {
    let mut view = view(Interest::Everything);
    let (old, new) = (node("one", &["orders"]), node("one", &["mail"]));
    write(&mut view, &old, 10).unwrap();
    // The next run begins with its topics, and they are not there before it is.
    let (part, value) = value::of_topics(&new, |_| true).unwrap().pop_first().unwrap();
    view.put(keys().topics(new.id(), 11, part).as_bytes(), &value, 11).unwrap();
    assert_eq!(view.nodes(), [old.clone()].into_iter().collect());
    write(&mut view, &new, 11).unwrap();
    assert_eq!(view.nodes(), [new.clone()].into_iter().collect());
    // What goes with the old lease changes nothing of the new run.
    for part in Part::all() {
        view.delete(keys().topics(old.id(), 10, part).as_bytes());
    }
    assert_eq!(view.nodes(), [new].into_iter().collect());
}

#[test]
fn each_interest_keeps_what_it_is_told_of() {
    let (one, two) = (node("one", &["orders", "mail"]), node("two", &["mail"]));
    let (orders, mail) = ("orders".parse().unwrap(), "mail".parse().unwrap());
    for (interest, nodes) in [
        (Interest::Nodes, vec![one.without_topics(), two.without_topics()]),
        (Interest::Topic(orders), vec![node("one", &["orders"])]),
        (Interest::Topic(mail), vec![node("one", &["mail"]), node("two", &["mail"])]),
        (Interest::Everything, vec![one.clone(), two.clone()]),
    ] {
        let mut view = view(interest);
        write(&mut view, &one, 10).unwrap();
        write(&mut view, &two, 11).unwrap();
        assert_eq!(view.nodes(), nodes.into_iter().collect());
    }
}

#[test]
fn topics_whose_names_differ_in_case_alone_are_two() {
    let (one, two) = (node("one", &["Orders", "orders"]), node("two", &["orders"]));
    for (name, nodes) in [
        ("Orders", vec![node("one", &["Orders"])]),
        ("orders", vec![node("one", &["orders"]), two.clone()]),
        ("ORDERS", Vec::new()),
    ] {
        let mut view = view(Interest::Topic(name.parse().unwrap()));
        write(&mut view, &one, 10).unwrap();
        write(&mut view, &two, 11).unwrap();
        assert_eq!(view.nodes(), nodes.into_iter().collect(), "{name}");
    }
}

#[test]
fn what_is_no_node_is_left_aside_and_harms_no_other() {
    let mut view = view(Interest::Everything);
    let one = node("one", &["orders"]);
    write(&mut view, &one, 10).unwrap();
    let lease = 10;
    let topics = keys().topics(one.id(), 10, Part::of(&"mail".parse().unwrap()));
    for (key, value) in [
        ("/ltq/what", &b"{}"[..]),
        ("/ltq/nodes/one", b"garbage"),
        ("/ltq/nodes/two", b"{}"),
        ("/ltq/nodes/one/heard", b"garbage"),
        (&topics, b"{\"orders\":[]}"),
        (&topics, b"garbage"),
    ] {
        view.put(key.as_bytes(), value, lease).expect_err(key);
    }
    assert_eq!(view.nodes(), [one].into_iter().collect());
}

#[test]
fn nodes_and_bytes_are_bounded_and_what_is_gone_makes_room() {
    let mut view = view(Interest::Everything);
    let nodes = ["one", "two", "three", "four"].map(|id| node(id, &["orders"]));
    for node in &nodes[..3] {
        write(&mut view, node, 10).unwrap();
    }
    assert!(matches!(write(&mut view, &nodes[3], 10), Err(Skipped::Nodes(3))));
    view.delete(keys().heard(nodes[0].id()).as_bytes());
    delete(&mut view, &nodes[0], 10);
    write(&mut view, &nodes[3], 10).unwrap();
    assert_eq!(view.nodes().len(), 3);
    let before = view.bytes;
    for _ in 0..100 {
        write(&mut view, &nodes[3], 10).unwrap();
    }
    assert_eq!(view.bytes, before);
    let names: Vec<_> = (0..1_000).map(|n| format!("topic-{n}")).collect();
    let big = node("two", &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(matches!(write(&mut view, &big, 10), Err(Skipped::Bytes(10_000))));
    assert!(view.bytes <= 10_000);
}

#[test]
fn a_change_of_one_node_touches_no_topics_of_another() {
    let mut view = view(Interest::Everything);
    let (one, two) = (node("one", &["orders", "mail"]), node("two", &["mail"]));
    write(&mut view, &one, 10).unwrap();
    write(&mut view, &two, 11).unwrap();
    let before = view.nodes();
    // Its load, that it is not heard, and its topics.
    view.put(keys().node(two.id()).as_bytes(), &value::of_node(&two, crate::Load(9)).unwrap(), 11)
        .unwrap();
    view.delete(keys().heard(two.id()).as_bytes());
    let part = Part::of(&"mail".parse().unwrap());
    view.delete(keys().topics(two.id(), 11, part).as_bytes());
    let after = view.nodes();
    let shared =
        |nodes: &NodeSet, id: &NodeInfo| nodes.get(id.id()).unwrap().topics().unwrap().clone();
    assert!(shared(&before, &one).is_shared_with(&shared(&after, &one)));
    assert!(shared(&after, &two).is_empty() && after.get(two.id()).unwrap().is_suspected());
    // And nothing is made anew where nothing changed.
    let again = view.nodes();
    assert!(shared(&after, &two).is_shared_with(&shared(&again, &two)));
}

proptest! {
    #[test]
    fn whatever_comes_and_goes_its_bytes_are_counted(
        steps in proptest::collection::vec((0..4_usize, 0..3_i64, 0..3_usize, any::<bool>()), 0..60),
    ) {
        let mut view = view(Interest::Everything);
        for (id, lease, topics, is_delete) in steps {
            let node = node(["a", "b", "c", "d"][id], &["x", "y", "z"][..topics]);
            match is_delete {
                true => delete(&mut view, &node, lease),
                false => drop(write(&mut view, &node, lease)),
            }
            let kept = view.known.values().map(|known| {
                let topics = known.topics.values().map(|kept| kept.bytes).sum::<usize>();
                topics + known.node.as_ref().map_or(0, |kept| kept.bytes)
            });
            prop_assert_eq!(view.bytes, kept.sum::<usize>());
            prop_assert!(view.known.len() <= 3 && view.bytes <= 10_000);
        }
    }
}
