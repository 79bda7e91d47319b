use std::{sync::Arc, time::Duration};

use ltq_core::{
    Access, Address, Broker, BrokerSettings, Connection, Credit, Denied, Durability, Environment,
    Grant, Message, Permissions, Records, Settlement, TagRange, TopicName, TopicPattern,
    TopicSettings, Transport, Verdict, protocol::Frame,
};
use ltq_store::MemoryStore;
use ltq_transport::InProcess;

use crate::{
    STOP,
    peer::{Peer, bytes_of, hello, subscribe, within},
};

/// A connection of many streams on which a peer does what the bytes say: opens streams, says hello or
/// does not, sends bytes and frames, finishes, cuts, lets time pass, reads. Whatever it does, one that
/// means no harm publishes and consumes beside it, it takes nothing of what is not its own, and
/// nothing is left of it.
pub fn serve(data: &[u8]) {
    crate::run(attend(Script { rest: data }));
}

async fn attend(mut script: Script<'_>) {
    let store = MemoryStore::new(1 << 20);
    let broker = Broker::start(store, settings(), Environment::system()).await.expect("a broker");
    let transport = InProcess::multiplexed();
    let address = Address::new("in-process", "serve");
    let listener = transport.listen(&address).await.expect("a listener");
    let serving = tokio::spawn({
        let broker = broker.clone();
        async move { broker.serve(listener).await }
    });

    let mut honest = Peer::connect(&transport, &address).await;
    let topic = TopicName::new("honest").expect("a name");
    for frame in [
        Frame::Hello(hello("honest")),
        Frame::OpenProducer { handle: 1, topic, name: None, epoch: None, seat: None },
        subscribe(2, "honest", "c", CREDIT),
    ] {
        honest.say(&frame).await;
        honest.next().await.expect("an answer");
    }
    one_message(&mut honest, 1).await;

    let connection = transport.connect(&address).await.expect("a connection");
    let mut streams = Vec::new();
    for _ in 0..STEPS_MAX {
        if !step(&mut script, &*connection, &mut streams).await {
            break;
        }
    }
    one_message(&mut honest, 2).await;

    for mut stream in streams {
        let _ = stream.finish().await;
        // Everything that the broker says is made of frames.
        while stream.next().await.is_some() {}
    }
    drop(connection);
    within("nothing is left of the peer", async {
        while broker.stats().await.connections > 1 {
            // Time must pass for what goes by it.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    one_message(&mut honest, 3).await;
    let stats = broker.stats().await;
    for topic in &stats.topics {
        let honest = u64::from(topic.topic.as_str() == "honest");
        assert!(honest == 1 || topic.topic.as_str().starts_with('a'), "promise 10: {topic:?}");
        assert_eq!(topic.producers, honest, "promise 10: {topic:?}");
        for channel in &topic.channels {
            assert_eq!(channel.consumers, honest, "promise 10: {channel:?}");
            assert_eq!(channel.in_flight, 0, "promise 10: {channel:?}");
            let states = channel.waiting
                + channel.delayed
                + channel.in_flight
                + channel.acked
                + channel.damaged
                + channel.dropped;
            assert_eq!(states, topic.end.since(channel.start), "promise 13: {topic:?}");
        }
    }
    drop(honest);
    within("the broker's stop", broker.stop(STOP)).await.expect("promise 11: a clean stop");
    within("the end of serving", serving).await.expect("no panic").expect("a clean end");
}

/// Publishes, gets and acks the n-th message.
async fn one_message(honest: &mut Peer, sequence: u64) {
    let (mut confirmed, mut acked) = (false, false);
    let records = Records::encode([&Message::new("still here")]);
    honest.say(&Frame::Publish { handle: 1, sequence, durability: None, records }).await;
    while !confirmed || !acked {
        match honest.next().await {
            Some(Frame::Confirmed { .. }) => confirmed = true,
            Some(Frame::Deliver { first_tag: tag, batch, attempt, .. }) => {
                assert_eq!((tag.0, batch.first.0, attempt), (sequence, sequence - 1, 1));
                let tags = TagRange { first: tag, last: tag };
                let settlements = vec![Settlement { tags, verdict: Verdict::Ack }];
                honest.say(&Frame::Settle { handle: 2, request: 1, settlements }).await;
            }
            Some(Frame::Settled { stale, .. }) => acked = stale.is_empty(),
            other => panic!("promise 10: the honest peer got {other:?}"),
        }
    }
}

/// Does what comes next; says whether there was anything.
async fn step(
    script: &mut Script<'_>,
    connection: &dyn Connection,
    streams: &mut Vec<Peer>,
) -> bool {
    let Some(what) = script.byte() else { return false };
    if what % 8 < 2 {
        if streams.len() < STREAMS_MAX
            && let Some(mut peer) = Peer::open(connection).await
        {
            if what % 8 == 0 {
                let _ = peer.send(&bytes_of(&Frame::Hello(hello("attacker")))).await;
            }
            streams.push(peer);
        }
        return true;
    }
    if streams.is_empty() {
        return true;
    }
    let at = usize::from(script.byte().unwrap_or_default()) % streams.len();
    let stream = &mut streams[at];
    match what % 8 {
        // Streams that were ended take nothing, and say so.
        2 => {
            let length = script.byte().unwrap_or_default();
            let _ = stream.send(script.take(length.into())).await;
        }
        3 | 4 => {
            let length = script.byte().unwrap_or_default();
            let body = script.take(length.into());
            let frame = [&(body.len() as u32).to_le_bytes(), body].concat();
            let _ = stream.send(&frame).await;
        }
        5 => {
            let _ = stream.finish().await;
        }
        6 => drop(streams.swap_remove(at)),
        _ => {
            let time = Duration::from_millis(u64::from(script.byte().unwrap_or_default()) * 100);
            // Reads meanwhile, or lets the answers wait.
            if time.is_zero() {
                let _ = tokio::time::timeout(Duration::from_millis(1), stream.any()).await;
            } else {
                tokio::time::sleep(time).await;
            }
        }
    }
    true
}

struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// Each token is the name of what it permits.
struct Tokens;

impl Access for Tokens {
    fn admit(&self, _: &ltq_core::Peer, token: Option<&str>) -> Result<Grant, Denied> {
        match token {
            Some("honest") => Ok(Grant::new("honest", Permissions::all())),
            Some("attacker") => {
                let own = vec![TopicPattern::new("a*").expect("a pattern")];
                let permissions =
                    Permissions { publish: own.clone(), consume: own.clone(), administer: own };
                Ok(Grant::new("attacker", permissions))
            }
            Some(_) => Err(Denied::WrongToken),
            None => Err(Denied::NoToken),
        }
    }
}

/// So small that short scripts come to each limit.
fn settings() -> BrokerSettings {
    let defaults = BrokerSettings::default();
    BrokerSettings {
        access: Arc::new(Tokens),
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        topics_max: 4,
        streams_max: STREAMS_MAX,
        message_bytes_max: 128,
        frame_bytes_max: 8192,
        subscriptions_max: 3,
        producers_max: 3,
        futile_frames_max: 20,
        publish_bytes_max: 8192,
        publish_bytes_total_max: 16_384,
        partial_bytes_total_max: 16_384,
        // An honest peer that says nothing for a while is not to be missed.
        heartbeat: Duration::from_secs(3600),
        ..defaults
    }
}

const CREDIT: Credit = Credit { messages: 100, bytes: 1 << 20 };
const STREAMS_MAX: usize = 4;
/// Whatever there is to find takes no more.
const STEPS_MAX: usize = 200;
