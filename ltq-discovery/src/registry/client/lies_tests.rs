//! Registries that are none: what they say harms nobody but themselves.

use std::time::Duration;

use ltq_core::{Address, Connection, Listener, Transport};
use ltq_transport::InProcess;
use tokio::time::timeout;

use super::*;
use crate::{
    Epoch, Interest, NodeInfo,
    registry::{
        link::Link,
        protocol::{Ask, Part, PlainNode, REGISTRY_PROTOCOL, Say, Topic},
    },
};

/// One that says whatever the test has it say.
pub(super) struct Liar {
    pub(super) network: InProcess,
    pub(super) listener: Box<dyn Listener>,
}

/// Somebody who took it for a registry.
pub(super) struct Victim {
    pub(super) link: Link,
    _connection: Box<dyn Connection>,
}

impl Liar {
    pub(super) async fn start() -> Self {
        let network = InProcess::new();
        let listener = network.listen(&Address::new("in-process", "liar")).await.unwrap();
        Self { network, listener }
    }

    pub(super) fn builder(&self) -> RegistriesBuilder {
        Registries::builder(self.network.clone()).registry("in-process://liar")
    }

    /// The next one who connects, welcomed as by this run of a registry.
    pub(super) async fn victim(&mut self, registry: u64) -> Victim {
        within(async {
            let connection = self.listener.accept().await.unwrap();
            let stream = connection.accept_stream().await.unwrap().unwrap();
            let mut victim = Victim { link: Link::new(stream), _connection: connection };
            assert!(matches!(victim.hear().await, Ask::Hello { .. }));
            let welcome =
                Say::Welcome { version: REGISTRY_PROTOCOL, registry, heartbeat_ms: 1_000 };
            victim.say(welcome).await;
            victim
        })
        .await
    }
}

impl Victim {
    pub(super) async fn say(&mut self, say: Say) {
        self.link.mouth.say(&say).unwrap();
        while self.link.mouth.unsent() > 0 {
            self.link.mouth.send_some().await.unwrap();
        }
    }

    pub(super) async fn hear(&mut self) -> Ask {
        within(self.link.ear.hear()).await.unwrap()
    }

    /// Until this is said.
    pub(super) async fn hear_until(&mut self, wanted: impl Fn(&Ask) -> bool) {
        while !wanted(&self.hear().await) {}
    }
}

pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.expect("it comes in time")
}

pub(super) fn node(id: &str) -> NodeInfo {
    let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    node.with_epoch(Epoch { started: 1, instance: 1 })
}

#[tokio::test(start_paused = true)]
async fn answers_to_nothing_end_a_connection_and_not_the_announcing() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let announcing = tokio::spawn(async move { registries.announce(node("n")).await });
    let mut victim = liar.victim(1).await;
    victim.hear_until(|ask| *ask == Ask::Announced).await;
    victim.say(Say::Taken).await;
    let _announced = within(announcing).await.unwrap().unwrap();
    victim.say(Say::Taken).await;
    let mut again = liar.victim(1).await;
    again.hear_until(|ask| *ask == Ask::Announced).await;
}

#[tokio::test(start_paused = true)]
async fn no_registry_tells_without_end() {
    let limits = ToldLimits { nodes_max: 3, topics_max: 5, channels_max: 5 };
    let topic = |name: &str, channels: usize| Topic {
        name: name.parse().unwrap(),
        channels: (0..channels).map(|n| format!("c{n}").parse().unwrap()).collect(),
        adds: false,
    };
    let told = |id: &str, topics: Vec<Topic>, more| {
        let node = PlainNode::of(&node(id));
        Part::Node { node, topics: Some(topics), is_suspected: false, more }
    };
    let topics = |count: usize| (0..count).map(|n| topic(&format!("t{n}"), 0)).collect::<Vec<_>>();
    let floods = [
        (0..4).map(|n| told(&format!("n{n}"), Vec::new(), false)).collect::<Vec<_>>(),
        vec![told("a", topics(3), false), told("b", topics(3), false)],
        vec![told("a", vec![topic("t", 3)], false), told("b", vec![topic("t", 3)], false)],
        vec![
            told("a", topics(5), true),
            Part::Topics { topics: topics(5), more: true },
            Part::Topics { topics: topics(5), more: true },
        ],
    ];
    for flood in floods {
        // As what a watch begins with, and as changes of it.
        for is_first in [true, false] {
            let mut liar = Liar::start().await;
            // It is asked again, and does not answer: what is told is why it was left.
            let builder = liar.builder().connect_timeout(Duration::from_secs(3_600));
            let registries = builder.told_limits(limits).build().unwrap();
            let watching = tokio::spawn(async move {
                let mut watch = registries.watch(&Interest::Everything).await?;
                // Until the loss of the registry is told.
                loop {
                    watch.changed().await?;
                }
                #[allow(unreachable_code, reason = "says of what type the errors are")]
                Ok::<(), DiscoveryError>(())
            });
            let mut victim = liar.victim(1).await;
            let say = |part: Part| Say::Told { watch: 0, part };
            victim.say(say(Part::Anew)).await;
            if !is_first {
                victim.say(say(Part::Complete)).await;
            }
            for part in &flood {
                victim.say(say(part.clone())).await;
            }
            let error = within(watching).await.unwrap().unwrap_err();
            let why = std::error::Error::source(&error).map(ToString::to_string);
            let why = format!("{error} {why:?}");
            assert!(why.contains("more than it may: 3 nodes"), "{why}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_waits_for_its_own_answer() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let announcing = tokio::spawn(async move { registries.announce(node("n")).await });
    let mut victim = liar.victim(1).await;
    victim.hear_until(|ask| *ask == Ask::Announced).await;
    victim.say(Say::Taken).await;
    let Announced::Known(mut announcement) = within(announcing).await.unwrap().unwrap() else {
        panic!("not taken")
    };
    // No change says this: the node is announced anew, which is not answered yet.
    announcement.update(node("n").with_version("2").unwrap()).await.unwrap();
    victim.hear_until(|ask| *ask == Ask::Announced).await;
    let withdrawing = tokio::spawn(announcement.withdraw());
    victim.hear_until(|ask| *ask == Ask::Withdraw).await;
    victim.say(Say::Taken).await;
    victim.hear_until(|ask| matches!(ask, Ask::Heartbeat { .. })).await;
    assert!(!withdrawing.is_finished(), "that was the answer to the announcement");
    victim.say(Say::Taken).await;
    within(withdrawing).await.unwrap().unwrap();
}

/// So many topics that no pipe holds what is said of them.
fn wide(topics: usize, more: &str) -> NodeInfo {
    let name = |n: usize| format!("a-topic-with-a-name-that-is-rather-long-{n}");
    let names = (0..topics).map(name).chain([more.to_owned()]);
    node("n").with_topics(names.map(|name| (name.parse().unwrap(), [].into())).collect())
}

/// The names in what is heard until a heartbeat comes that tells this load.
async fn names_until(victim: &mut Victim, load: u32) -> usize {
    let mut names = 0;
    loop {
        match victim.hear().await {
            Ask::Topics(topics) => names += topics.len(),
            Ask::Change { has, lacks, .. } => names += has.len() + lacks.len(),
            Ask::Heartbeat { load: told } if told == load => return names,
            _ => {}
        }
    }
}

/// Lets whoever can go on do so, without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_does_not_read_is_told_it_once_however_often_it_changed() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    let announcing = tokio::spawn(async move { registries.announce(wide(40_000, "x")).await });
    let mut victim = liar.victim(1).await;
    victim.hear_until(|ask| *ask == Ask::Announced).await;
    victim.say(Say::Taken).await;
    let Announced::Known(mut announcement) = within(announcing).await.unwrap().unwrap() else {
        panic!("not taken")
    };
    // From here on it reads nothing, and has whatever it can be told told to it again.
    for turn in 0..100 {
        let topics = if turn % 2 == 0 { 3_000 } else { 6_000 };
        announcement.update(wide(topics, &format!("another-{turn}"))).await.unwrap();
        victim.say(Say::NotChanged { detail: String::new() }).await;
        victim.say(Say::NotAnnounced).await;
        settle().await;
    }
    announcement.update(wide(40, "last").with_load(crate::Load(7))).await.unwrap();
    let heard = within(names_until(&mut victim, 7)).await;
    // What was on its way, what there was when that was read, and what there is in the end: each change of it
    // alone has 3,000 names.
    assert!(heard < 30_000, "{heard} names were told");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_reads_nothing_is_left_however_much_it_says() {
    let mut liar = Liar::start().await;
    let registries = liar.builder().build().unwrap();
    // More than any pipe holds: it is never all sent.
    let announcing = tokio::spawn(async move { registries.announce(wide(20_000, "x")).await });
    let mut victim = liar.victim(1).await;
    let began = tokio::time::Instant::now();
    let flood = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if victim.link.mouth.say(&Say::Beat).is_err()
                || victim.link.mouth.send_some().await.is_err()
            {
                return;
            }
        }
    };
    within(flood).await;
    // Four beats, and as long as it takes to say the next one.
    let left = began.elapsed();
    assert!((4_000..=4_100).contains(&left.as_millis()), "{left:?}");
    let mut again = liar.victim(1).await;
    again.hear_until(|ask| *ask == Ask::Announced).await;
    again.say(Say::Taken).await;
    assert!(matches!(within(announcing).await.unwrap(), Ok(Announced::Known(_))));
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_says_who_has_heard_of_it_and_who_has_not() {
    let network = InProcess::new();
    let mut liars = Vec::new();
    for name in ["a", "b", "c"] {
        let listener = network.listen(&Address::new("in-process", name)).await.unwrap();
        liars.push(Liar { network: network.clone(), listener });
    }
    let builder = Registries::builder(network.clone()).withdraw_timeout(Duration::from_secs(3));
    let names = ["a", "b", "c", "nobody"].map(|name| format!("in-process://{name}"));
    let builder = names.iter().fold(builder, RegistriesBuilder::registry);
    let registries = builder.build().unwrap();
    let announcing = tokio::spawn(async move { registries.announce(node("n")).await });
    let mut victims = Vec::new();
    for liar in &mut liars {
        let mut victim = liar.victim(1).await;
        victim.hear_until(|ask| *ask == Ask::Announced).await;
        victims.push(victim);
    }
    // The third one does not take it in: it has nothing to forget.
    let refusal = Say::NotTaken { superseded: true, detail: "another is there".to_owned() };
    for (victim, say) in victims.iter_mut().zip([Say::Taken, Say::Taken, refusal]) {
        victim.say(say).await;
    }
    let Announced::Known(announcement) = within(announcing).await.unwrap().unwrap() else {
        panic!("not taken")
    };
    settle().await;
    let withdrawing = tokio::spawn(announcement.withdraw());
    victims[0].hear_until(|ask| *ask == Ask::Withdraw).await;
    victims[0].say(Say::Taken).await;
    let error = within(withdrawing).await.unwrap().unwrap_err();
    let said = error.to_string();
    let DiscoveryError::NotWithdrawn { heard, unheard } = error else { panic!("{said}") };
    assert_eq!((heard, unheard), (vec![names[0].clone()], vec![names[1].clone()]));
    assert!(said.contains("not withdrawn from in-process://b"), "{said}");
}
