use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::torment::field::End;

fn account(journal: &str) -> Account {
    let mut account = Account { is_bridged: true, ..Account::default() };
    // Whatever is said of was meant to be published, unless it begins with an x.
    for line in journal.lines() {
        let words: Vec<_> = line.split('\t').collect();
        if let ["C" | "U" | "F" | "G", topic, body, ..] = words[..]
            && !body.starts_with('x')
        {
            account.read("c1", &format!("P\t{topic}\t{body}\n"));
        }
    }
    account.read("c1", journal);
    account
}

/// Confirmed, taken and brought over.
fn whole(topic: &str, body: &str, node: &str, offset: u64) -> String {
    format!(
        "C\t{topic}\t{body}\t{node}\t{offset}\t3\tdisk\nG\t{topic}\t{body}\t{node}\t{offset}\ti-{body}\n\
         D\t{topic}\t{body}\t0\ts/{node}/{topic}/{offset}/7\n"
    )
}

const REPEAT: &str = "A\tplain\ta/1\tn1\t7\t1\t100\nG\tplain\ta/1\tn1\t7\ti-a/1\t2\t200\n";

#[test]
fn each_broken_promise_is_found_by_its_name() {
    let sound = format!(
        "{}{}U\tsame\ta/2\t9\tgone\nF\tplain\ta/3\t3000\tno node\nG\tordered-a\t1/2\tn1\t4\n\
         U\tordered-a\t1/2\t1\t\nP\tplain\ta/10\nM\tordered-a\t1/3\n{}C\tmemory\ta/1\tn1\t5\t1\tmemory\n",
        whole("plain", "a/1", "n1", 7),
        whole("ordered-a", "1/1", "n1", 0),
        whole("ordered-a", "1/3", "n2", 0),
    );
    account(&sound).check().unwrap();
    let mesh =
        "P\tmesh-a>b\ta/2\nP\tmesh-a>b\ta/1\nG\tmesh-a>b\ta/2\tb\t1\nG\tmesh-a>b\ta/1\tb\t1\n";
    for (line, what) in [
        ("C\tplain\ta/4\tn1\t8\t3\tdisk\n", "lost"),
        ("G\tplain\ta/3\tn1\t8\n", "nothing happened"),
        ("G\tplain\tx\tn1\t9\n", "nobody published"),
        ("G\tplain\ta/5\tn2\t7\nC\tplain\ta/5\tn1\t7\t3\tos\n", "not where"),
        ("G\tsame\ta/2\tn1\t7\nG\tsame\ta/2\tn2\t7\n", "twice"),
        ("G\tplain\ta/1\tn1\t7\tanother\n", "two ids"),
        ("F\tplain\ta/8\t3251\tno node\n", "longer than"),
        (
            "F\tplain\ta/8\t20\tfenced: a newer instance of producer p has epoch 7\n",
            "somebody else",
        ),
        ("P\tsilent-a\t1/1\nM\tsilent-a\t1/1\n", "wanted not to know"),
        ("U\tordered-a\t1/0\t1\t\nG\tordered-a\t1/0\tn1\t9\n", "out of order"),
        ("U\tordered-a\t1/4\t1\t\nG\tordered-a\t1/4\tn1\t9\n", "in silence"),
        ("G\tplain\ta/6\tn2\t8\nC\tplain\ta/6\tn2\t8\t3\tos\n", "did not come over the bridge"),
        ("D\tplain\ta/1\t1\ts/n1/plain/9/7\n", "from where they are not"),
        ("P\tplain\ta/7\nG\tplain\ta/7\tn1\t7\nD\tplain\ta/7\t1\ts/n1/plain/7/7\n", "one origin"),
        (mesh, "taken out of order"),
        (REPEAT, "after their ack"),
        ("E\tplain\ta/1\tn1\t100\t200\n", "before their delay"),
    ] {
        let error = account(&format!("{sound}{line}")).check().unwrap_err().to_string();
        assert!(error.contains(what), "{error} is not {what}");
    }
    // On two nodes is what plain producers may do, half a line is none, a new publisher knows of no node
    // before, and in memory nothing lasts.
    let more =
        format!("G\tplain\ta/1\tn2\t1\n{}C\tplain\ta/9", whole("ordered-a", "1/1000000", "n1", 9));
    account(&format!("{sound}{more}{}\nC\tplain\ta/9", worker::BROKEN)).check().unwrap();
    // A node that was started again may take its clock's word for it.
    let mut early = account(&format!("{sound}E\tplain\ta/1\tn1\t100\t200\n"));
    let end = End { at: 150, is_kill: false };
    early.ends.insert("n1".to_owned(), vec![end]);
    early.check().unwrap();
    // And one that was killed may have forgotten an ack.
    let repeated = format!("{sound}{REPEAT}");
    let end = End { at: 150, is_kill: true };
    let mut repeated = account(&repeated);
    repeated.ends.insert("n1".to_owned(), vec![end]);
    repeated.check().unwrap();
}

#[test]
fn a_call_may_be_late_by_as_long_as_its_own_program_was_kept_from_running_and_no_longer() {
    let call = "P\tplain\ta/1\t10000\nU\tplain\ta/1\t3700\tgone\n";
    let stalled = |stalls: &[(u64, u64)]| {
        stalls.iter().map(|(from, to)| format!("S\t-\t-\t{from}\t{to}\n")).collect::<String>()
    };
    for (who, stalls, is_late) in [
        ("c1", vec![], true),
        // 450 ms are enough, in one piece or in several, as far as they are within the call.
        ("c1", vec![(10_100, 10_550)], false),
        ("c1", vec![(9_000, 10_300), (13_550, 20_000)], false),
        ("c1", vec![(10_100, 10_549)], true),
        ("c1", vec![(9_000, 10_000), (13_700, 20_000)], true),
        ("c2", vec![(10_100, 10_550)], true),
    ] {
        let mut account = account(call);
        account.read(who, &stalled(&stalls));
        assert_eq!(account.check().is_err(), is_late, "{who}: {stalls:?}");
    }
}

#[test]
fn order_over_the_bridge_holds_but_for_those_who_have_an_excuse_at_that_time() {
    let [one, other] = ["plain", worker::FLEETING].map(|topic| {
        let mut lines: String = (0..4)
            .map(|n| {
                format!("P\t{topic}\ta/{n}\t{}\nG\t{topic}\ta/{n}\tn1\t{n}\n", 10_000 * (n + 1))
            })
            .collect();
        // The second of four comes last, at 40,000 or later.
        for n in [0, 2, 3, 1] {
            lines.push_str(&format!("D\t{topic}\ta/{n}\t0\ts/n1/{topic}/{n}/7\n"));
        }
        lines
    });
    let excuse =
        |node: Option<&str>, of, from, to| Excuse { node: node.map(str::to_owned), of, from, to };
    for (lines, excuses, is_sound) in [
        (&one, vec![], false),
        (&one, vec![excuse(Some("n1"), Excused::All, 30_000, 30_000)], true),
        (&one, vec![excuse(None, Excused::All, 43_000, 50_000)], true),
        (&one, vec![excuse(None, Excused::All, 1_000, 20_000)], true),
        (&one, vec![excuse(Some("n2"), Excused::All, 30_000, 30_000)], false),
        (&one, vec![excuse(None, Excused::Fleeting, 30_000, 30_000)], false),
        (&one, vec![excuse(None, Excused::All, 43_001, 50_000)], false),
        (&one, vec![excuse(None, Excused::All, 1_000, 19_999)], false),
        (&other, vec![], false),
        (&other, vec![excuse(None, Excused::Fleeting, 30_000, 30_000)], true),
    ] {
        let mut account = account(lines);
        assert_eq!(account.overtaken().len(), 1);
        account.excuses = excuses.clone();
        let checked = account.check();
        assert_eq!(checked.is_ok(), is_sound, "{excuses:?}: {checked:?}");
        let is_it = |error: &Unsound| error.to_string().contains("behind later ones");
        assert!(checked.as_ref().err().is_none_or(is_it), "{checked:?}");
    }
}

#[test]
fn places_of_what_a_device_lost_are_those_of_later_messages_and_come_later() {
    let topic = "robin";
    assert!(worker::is_unsynced(topic));
    let mut lines = String::new();
    // The one behind was published first, was lost, and had gone over the bridge by then.
    for (n, offset, published) in [(0, 2, 10_000), (1, 1, 40_000)] {
        lines.push_str(&format!("P\t{topic}\ta/{n}\t{published}\n"));
        lines.push_str(&format!("G\t{topic}\ta/{n}\tn1\t{offset}\n"));
        lines.push_str(&format!("D\t{topic}\ta/{n}\t0\ts/n1/{topic}/{offset}/7\n"));
    }
    let excuse = |of, from, to| Excuse { node: Some("n1".to_owned()), of, from, to };
    for (excuse, is_sound) in [
        (excuse(Excused::Unsynced, 20_000, 30_000), true),
        (excuse(Excused::All, 20_000, 30_000), false),
        (excuse(Excused::Unsynced, 5_000, 9_999), false),
        (excuse(Excused::Unsynced, 43_001, 50_000), false),
    ] {
        let mut account = account(&lines);
        assert_eq!(account.overtaken().len(), 1);
        account.excuses = vec![excuse.clone()];
        let checked = account.check();
        assert_eq!(checked.is_ok(), is_sound, "{excuse:?}: {checked:?}");
    }
}

#[test]
fn a_device_may_lose_what_was_not_to_be_on_it_shortly_before_it_took_nothing_and_nothing_else() {
    let lost =
        |topic: &str| format!("P\t{topic}\ta/1\t10000\nC\t{topic}\ta/1\tn1\t7\t100\tlasts\n");
    let loss = |node: &str, from, to| Loss { node: node.to_owned(), from, to };
    for (topic, losses, is_sound) in [
        ("robin", vec![], false),
        ("robin", vec![loss("n1", 12_100, 15_000)], true),
        ("robin", vec![loss("n1", 12_101, 15_000)], false),
        ("robin", vec![loss("n1", 9_000, 10_000)], true),
        ("robin", vec![loss("n1", 9_000, 9_999)], false),
        ("robin", vec![loss("n2", 10_000, 15_000)], false),
        ("keyless-c1", vec![loss("n1", 10_000, 15_000)], true),
        ("plain", vec![loss("n1", 10_000, 15_000)], false),
        ("ordered-c1", vec![loss("n1", 10_000, 15_000)], false),
    ] {
        let mut account = account(&lost(topic));
        account.losses = losses;
        assert_eq!(account.missing() == 0, is_sound, "{topic}: {:?}", account.losses);
        let checked = account.check().map_err(|error| error.to_string());
        assert_eq!(checked.is_ok(), is_sound, "{topic}, {:?}: {checked:?}", account.losses);
        assert!(checked.err().is_none_or(|error| error.contains("lost")));
    }
}

/// What may be wrong with one message among many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Lost,
    LostOnTheWay,
    Denied,
    Twice,
    OutOfOrder,
    Overtaken,
    Elsewhere,
    AckForgotten,
    Late,
}

const WRONGS: [(Wrong, &str); 9] = [
    (Wrong::Lost, "were confirmed and lost"),
    (Wrong::LostOnTheWay, "did not come over the bridge"),
    (Wrong::Denied, "told that nothing happened"),
    (Wrong::Twice, "stored twice"),
    (Wrong::OutOfOrder, "out of order"),
    (Wrong::Overtaken, "behind later ones"),
    (Wrong::Elsewhere, "not where their receipt says"),
    (Wrong::AckForgotten, "after their ack"),
    (Wrong::Late, "longer than they may"),
];

/// The journal of some hundred messages of which nothing is wrong but that, with one of them drawn by chance.
fn drawn(chance: &mut SmallRng, wrong: Option<Wrong>) -> String {
    const COUNT: u64 = 300;
    let (mut journal, mut ends) = (String::new(), BTreeMap::<_, u64>::new());
    let mut arrivals = Vec::new();
    // One that has others before and behind it.
    let bad = chance.random_range(COUNT / 3..COUNT / 2);
    for number in 0..COUNT {
        let topic = match wrong {
            // Where that is what is wrong: others may be so.
            Some(Wrong::Twice) if number == bad => "same",
            Some(Wrong::OutOfOrder) if number == bad => "ordered-c1",
            _ => ["plain", "same", "ordered-c1", "silent-c1"][chance.random_range(0..4)],
        };
        let key = chance.random_range(0..2_u32);
        let is_ordered = worker::is_ordered(topic);
        let who = if is_ordered { key.to_string() } else { "c1".to_owned() };
        let node = if is_ordered { key } else { chance.random_range(0..3) };
        let end = ends.entry((topic, node)).or_default();
        let offset = *end;
        *end += 1;
        let is_bad = |is: Wrong| number == bad && wrong == Some(is);
        // What is stored here was published before all others.
        let number = if is_bad(Wrong::OutOfOrder) { 0 } else { number + 1 };
        let (body, at) = (format!("{who}/{number}"), 1_000 * number);
        let word = if is_bad(Wrong::Denied) { "F" } else { "C" };
        let took = if is_bad(Wrong::Late) { 3_300 } else { 20 };
        let said = offset + if is_bad(Wrong::Elsewhere) { COUNT } else { 0 };
        journal += &format!("P\t{topic}\t{body}\t{at}\n");
        journal += &match word {
            "C" => format!("C\t{topic}\t{body}\tn{node}\t{said}\t{took}\tlasts\tsend\n"),
            _ => format!("F\t{topic}\t{body}\t{took}\tno\n"),
        };
        if !is_bad(Wrong::Lost) {
            journal +=
                &format!("G\t{topic}\t{body}\tn{node}\t{offset}\ti{number}\t1\t{at}\tnext\n");
        }
        if is_bad(Wrong::Twice) {
            // At the same offset: only by its node it is another copy.
            journal += &format!("G\t{topic}\t{body}\tn9\t{offset}\ti{number}\t1\t{at}\tnext\n");
        }
        if is_bad(Wrong::AckForgotten) {
            journal += &format!("A\t{topic}\t{body}\tn{node}\t{offset}\t1\t{at}\n");
            journal +=
                &format!("G\t{topic}\t{body}\tn{node}\t{offset}\ti{number}\t2\t{at}\tnext\n");
        }
        let line = format!("D\t{topic}\t{body}\t0\ts/n{node}/{topic}/{offset}/7\n");
        match (is_bad(Wrong::LostOnTheWay), is_bad(Wrong::Overtaken)) {
            (true, _) => {}
            // Behind everything.
            (_, true) => arrivals.push((u64::MAX, line)),
            _ => arrivals.push((arrivals.len() as u64, line)),
        }
    }
    arrivals.sort();
    journal.extend(arrivals.into_iter().map(|(_, line)| line));
    journal
}

#[test]
fn one_wrong_message_among_hundreds_is_found_wherever_it_is() {
    let judge = |journal: &str| {
        let mut account = Account { is_bridged: true, ..Account::default() };
        account.read("c1", journal);
        account.check()
    };
    for seed in 0..20 {
        let mut chance = SmallRng::seed_from_u64(seed);
        judge(&drawn(&mut chance, None)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for (wrong, what) in WRONGS {
            let journal = drawn(&mut SmallRng::seed_from_u64(seed), Some(wrong));
            let found = judge(&journal).expect_err("it is found").to_string();
            assert!(
                found.starts_with("1 messages") && found.contains(what),
                "seed {seed}, {wrong:?}: {found}"
            );
        }
    }
}
