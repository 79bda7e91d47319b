//! Limits by address, met by a real node: attackers at addresses of their own reach each of them, and honest clients
//! at another address lose nothing, are never refused, and come in as ever.
//!
//! Both sides are network namespaces, since this machine's own address is counted by no limit. Where there can be
//! none the tests say so and pass, unless the variable `REQUIRE_NAMESPACES` is set.
#![cfg(target_os = "linux")]

use std::{
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream};
use ltq_client::{Client, Message};
use ltq_core::{Address, RefusalCode, TopicName, protocol::Frame};
use ltq_tests::{
    attacker::{
        Answered, Besieged, Greeting, Held, Stranger, TOKEN,
        honest::{Honest, Pair},
    },
    bad_network::BadNetwork,
    binary, within,
};
use ltq_transport::ClientTrust;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

/// A node on the far host, and honest clients at work from the near host's own address. Attackers have all other
/// addresses of that host.
struct Field {
    node: Besieged,
    honest: Honest,
    begin: Instant,
    _folder: tempfile::TempDir,
}

impl Field {
    async fn start(network: &BadNetwork, settings: &str) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let far = network.far();
        let command = far.command(binary("ltq-node"));
        let node =
            Besieged::start_by(command, far.address(), folder.path(), HONEST, settings).await?;
        let target = node.target();
        let pair = |server: &Address| Pair {
            server: server.to_string(),
            topic: format!("honest.{}", server.scheme()),
            token: HONEST.to_owned(),
            fingerprint: target.certificate.fingerprint,
        };
        let pairs = [&target.tcp, &target.tls, &target.quic].map(pair).into();
        let honest = Honest::start(pairs).await;
        Ok(Self { node, honest, begin: Instant::now(), _folder: folder })
    }

    /// Somebody who comes to the node while it is under attack, from the honest address: by each transport, for a
    /// topic that is there and for a new one, and by HTTP.
    async fn newcomers(&self, during: &str) {
        let target = self.node.target();
        let trust = || ClientTrust::fingerprint(target.certificate.fingerprint).expect("trust");
        for server in [&target.tcp, &target.tls, &target.quic] {
            let began = Instant::now();
            let come = async {
                let builder = Client::builder().server(&server.to_string()).trust(trust());
                let client = builder.token(HONEST).connect().await.expect("let in");
                for topic in ["there".to_owned(), format!("new.{during}.{}", server.scheme())] {
                    let producer = client.producer(topic.as_str()).await.expect("a producer");
                    producer.send(Message::new("x")).await.expect("stored");
                }
                client.close().await.expect("a clean close");
            };
            let came = timeout(NEWCOMER, come).await;
            assert!(came.is_ok(), "{during}: over {server} {:?} were too few", began.elapsed());
        }
        let status = published_by_http(OWN, self.node.target().http, HONEST).await;
        assert_eq!(status.expect("HTTP"), 200, "{during}");
    }

    /// What the node holds and counts, asked by HTTP from the honest address.
    async fn held(&self) -> io::Result<Held> {
        self.node.held().await
    }

    /// All that was honest came through, and of the attackers nothing is left but numbers.
    async fn end(self, before: &Held) -> io::Result<()> {
        let after = self
            .node
            .until("promise 10: the node lets go of what attackers held", |held| {
                let figure = |name: &str| (held.figure(name), before.figure(name));
                let equal = ["ltq_connections", "ltq_streams", "ltq_quic_window_bytes"].map(figure);
                equal.iter().all(|(now, before)| now == before)
                    && held.sockets == before.sockets
                    && held.tasks_beside_topics() <= before.tasks_beside_topics()
            })
            .await?;
        let accounts = self.honest.end(self.begin..Instant::now()).await;
        for account in &accounts {
            println!("{}: {} messages, each once and in order", account.topic, account.messages);
        }
        for name in after.figures.keys() {
            let named = ["10.77.0.", "10.80."].iter().any(|start| name.contains(start));
            assert!(!named, "promise 9: a figure by address: {name}");
        }
        let lasted = self.begin.elapsed().as_secs();
        let (ended, log) = self.node.stop().await?;
        assert!(ended.success(), "promise 11: a clean stop exits with 0, not {ended}");
        let told = log.lines().find(|line| line.contains("panicked") || line.contains("ERROR"));
        assert_eq!(told, None);
        // One a second of each kind, of which few are those that attackers can cause here.
        let lines = log.lines().count() as u64;
        assert!(lines < 50 + 5 * lasted, "promise 9: {lines} lines in {lasted} s:\n{log}");
        Ok(())
    }
}

/// An address of the attackers'.
fn attacker(number: u32) -> Stranger {
    Stranger(Ipv4Addr::from_bits(Ipv4Addr::new(10, 80, 0, 0).to_bits() + number))
}

async fn published_by_http(
    from: Stranger,
    to: std::net::SocketAddr,
    token: &str,
) -> io::Result<u16> {
    let request = format!(
        "POST /pub?topic=attack.http HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-length: 1\r\nconnection: close\r\n\r\nx"
    );
    from.ask(to, &request).await
}

/// Waits until the other side has closed it.
async fn closed(stream: &mut TcpStream) {
    let mut bytes = [0; 1024];
    within("the end of a connection", async {
        while stream.read(&mut bytes).await.unwrap_or(0) > 0 {}
    })
    .await;
}

#[test]
fn promise_10_limits_by_address_hold_back_the_address_that_reaches_them_and_no_other() {
    BadNetwork::on_near(ATTACKERS, async |network| {
        let field = Field::start(&network, &settings(4_096)).await?;
        field.newcomers("calm").await;
        let before = field.held().await?;
        connections(&field).await?;
        wrong_tokens(&field).await?;
        tls_handshakes(&field).await?;
        quic_handshakes(&field).await?;
        quic_windows(&field).await?;
        topics(&field).await?;
        http(&field).await?;
        field.end(&before).await
    });
}

async fn connections(field: &Field) -> io::Result<()> {
    let before = field.held().await?;
    let mut held = Vec::new();
    let mut closed = 0;
    for number in 0..3 * CONNECTIONS {
        // Over all transports together.
        match number % 3 {
            0 => match attacker(1).greet_by_quic(field.node.target(), TOKEN).await {
                Ok(connection) => held.push(connection.peer),
                Err(_) => closed += 1,
            },
            _ => match attacker(1).greet(&field.node.target().tcp, TOKEN).await? {
                Greeting::Welcome(peer) => held.push(peer),
                Greeting::Goodbye(RefusalCode::LimitReached) | Greeting::Closed => closed += 1,
                Greeting::Goodbye(code) => panic!("{code:?}"),
            },
        }
    }
    assert_eq!((held.len(), closed), (CONNECTIONS, 2 * CONNECTIONS));
    field.newcomers("connections").await;
    let after = field.held().await?;
    let name = "ltq_connections_refused_by_address_total";
    assert_eq!(after.figure(name) - before.figure(name), closed as f64);
    // Another address of theirs has a share of its own, and so has the first again.
    drop(held);
    let is_in = |greeting| matches!(greeting, Greeting::Welcome(_));
    assert!(is_in(attacker(2).greet(&field.node.target().tcp, TOKEN).await?));
    within("a place again", async {
        while !is_in(attacker(1).greet(&field.node.target().tcp, TOKEN).await?) {}
        Ok(())
    })
    .await
}

async fn wrong_tokens(field: &Field) -> io::Result<()> {
    let (guesser, target) = (attacker(3), field.node.target());
    let is_denied = |greeting| matches!(greeting, Greeting::Goodbye(RefusalCode::Unauthorized));
    let names = ["ltq_hellos_denied_total", "ltq_hellos_locked_out_total"];
    let mut rounds = 0;
    loop {
        rounds += 1;
        let before = field.held().await?;
        let mut last = Instant::now();
        for guess in 0..WRONG_TOKENS {
            last = Instant::now();
            let token = format!("guess {guess} of round {rounds}");
            assert!(is_denied(guesser.greet(&target.tcp, &token).await?));
        }
        // What is right is not let in from there, by whatever door, and nobody is told why.
        let by_wire = is_denied(guesser.greet(&target.tcp, TOKEN).await?);
        let by_http = published_by_http(guesser, target.http, TOKEN).await?;
        let after = field.held().await?;
        // A machine that was busy for all of the time says nothing.
        if last.elapsed() < LOCKED {
            assert!(by_wire && by_http == 401, "{by_wire}, {by_http}");
            let counted = names.map(|name| after.figure(name) - before.figure(name));
            assert_eq!(counted, [f64::from(WRONG_TOKENS) + 2.0, 2.0]);
            break;
        }
        assert!(rounds < 10, "this machine is too busy");
        let_in_again(guesser, &target.tcp).await?;
    }
    field.newcomers("wrong-tokens").await;
    let_in_again(guesser, &target.tcp).await
}

/// Waits until the time passes, which it does by itself.
async fn let_in_again(guesser: Stranger, to: &Address) -> io::Result<()> {
    within("it is let in again", async {
        while !matches!(guesser.greet(to, TOKEN).await?, Greeting::Welcome(_)) {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    })
    .await
}

async fn tls_handshakes(field: &Field) -> io::Result<()> {
    let before = field.held().await?;
    let to = field.node.target().tls.rest().parse().map_err(io::Error::other)?;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        silent.push(attacker(4).connect(to).await?);
    }
    field.newcomers("tls-handshakes").await;
    join_all(silent.iter_mut().map(closed)).await;
    let after = field.held().await?;
    let of = |why: &str| {
        let name = format!("ltq_handshakes_failed_total{{scheme=\"tls\",reason=\"{why}\"}}");
        (after.figure(&name) - before.figure(&name)) as usize
    };
    let (crowded_out, timed_out) = (of("crowded_out"), of("timed_out"));
    // A share of them at a time; those that had their second made room for others.
    assert_eq!(crowded_out + timed_out, HANDSHAKES_MAX, "{crowded_out} and {timed_out}");
    assert!(timed_out >= HANDSHAKES && crowded_out >= HANDSHAKES, "{crowded_out}, {timed_out}");
    Ok(())
}

async fn quic_handshakes(field: &Field) -> io::Result<()> {
    let before = field.held().await?;
    let answers = attacker(5).begin_handshakes(field.node.target(), HANDSHAKES_MAX).await?;
    let count = |what| answers.iter().filter(|answer| **answer == what).count();
    let [begun, retried] = [Answered::Handshake, Answered::Retry].map(count);
    assert_eq!((begun, retried), (HANDSHAKES, HANDSHAKES_MAX - HANDSHAKES), "{answers:?}");
    field.newcomers("quic-handshakes").await;
    // By the node's time for a handshake, or by their own for silence, which is shorter here.
    let given_up = |held: &Held| {
        let names = ["timed_out", "lost"]
            .map(|why| format!("ltq_handshakes_failed_total{{scheme=\"quic\",reason=\"{why}\"}}"));
        let of = |held: &Held| names.iter().map(|name| held.figure(name)).sum::<f64>();
        (of(held) - of(&before)) as usize
    };
    field.node.until("they come to nothing", |held| given_up(held) == HANDSHAKES).await?;
    let counted = "ltq_handshakes_failed_total{scheme=\"quic\",reason=\"retried\"}";
    let counted = field.held().await?.figure(counted) - before.figure(counted);
    assert!(counted >= retried as f64, "{counted} of {retried} are counted");
    Ok(())
}

async fn quic_windows(field: &Field) -> io::Result<()> {
    let before = field.held().await?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(attacker(6).greet_by_quic(field.node.target(), TOKEN).await?);
    }
    let after = field.held().await?;
    let of = |held: &Held, name: &str| held.figure(name) - before.figure(name);
    let (used, narrowed) = ("ltq_quic_window_bytes", "ltq_quic_windows_narrowed_total");
    let taken = of(&after, used);
    assert!(taken <= WINDOWS as f64, "{taken} bytes of {WINDOWS}");
    // The first ones got all that is set up, and most of them less.
    let full = CONNECTIONS as f64 - of(&after, narrowed);
    assert!(full >= 1.0 && full < CONNECTIONS as f64 / 2.0, "{full} of {CONNECTIONS} got all");
    assert!(taken >= full * 2.0 * WINDOW as f64, "{taken} bytes for {full} and others");
    // Those are served all the same.
    for (number, connection) in connections.iter_mut().enumerate() {
        let topic = format!("attack.{}", number % 8);
        within("a producer", connection.peer.open_producer(1, &topic)).await;
    }
    field.newcomers("quic-windows").await;
    let newcomers = field.held().await?;
    assert_eq!(newcomers.figure(narrowed), after.figure(narrowed), "they got all");
    Ok(())
}

async fn topics(field: &Field) -> io::Result<()> {
    let before = field.held().await?;
    let greeting = attacker(7).greet(&field.node.target().tcp, TOKEN).await?;
    let Greeting::Welcome(mut peer) = greeting else { panic!("it is let in") };
    let (mut made, mut refused) = (0, 0);
    let began = Instant::now();
    for number in 0..3 * TOPICS {
        let topic = TopicName::new(&format!("attack.made-{number}")).expect("a name");
        peer.send(Frame::OpenProducer {
            handle: number,
            topic,
            name: None,
            epoch: None,
            seat: None,
        })
        .await;
        match peer.next().await {
            Some(Frame::ProducerOpened { .. }) => made += 1,
            Some(Frame::ProducerRefused { refusal, .. }) => {
                assert_eq!(refusal.code, RefusalCode::LimitReached, "{refusal}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // As many in each further minute.
    let more = began.elapsed().as_secs_f64() * f64::from(TOPICS) / 60.0;
    assert!(f64::from(made) <= f64::from(TOPICS) + more + 1.0, "{made} made");
    assert_eq!(made + refused, 3 * TOPICS);
    field.newcomers("topics").await;
    let after = field.held().await?;
    let by_limit = "ltq_limits_reached_total{limit=\"topics_per_minute_max\"}";
    for name in [by_limit, "ltq_topics_refused_by_address_total"] {
        assert_eq!(after.figure(name) - before.figure(name), f64::from(refused), "{name}");
    }
    Ok(())
}

async fn http(field: &Field) -> io::Result<()> {
    let before = field.held().await?;
    let (to, flooder) = (field.node.target().http, attacker(8));
    // Somebody honest who keeps a connection, and has nothing to ask most of the time.
    let mut kept = OWN.connect(to).await?;
    asked_again(&mut kept).await?;
    // Such as say nothing, or half a head, take each other's places.
    let mut idle = Vec::new();
    for number in 0..HTTP_MAX {
        let mut stream = flooder.connect(to).await?;
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").await;
        }
        idle.push(stream);
    }
    join_all(idle.iter_mut().take(HTTP_MAX - HTTP).map(closed)).await;
    asked_again(&mut kept).await?;
    field.newcomers("idle-http").await;
    drop(idle);
    // Those with a request keep theirs, and whoever comes from there is turned away.
    let mut busy = Vec::new();
    while busy.len() < HTTP {
        let mut stream = flooder.connect(to).await?;
        let head = format!(
            "POST /pub?topic=attack.http HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
             expect: 100-continue\r\ncontent-length: 100\r\n\r\n"
        );
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = [0; 64];
        let read = within("an answer", stream.read(&mut answer)).await.unwrap_or(0);
        if answer[..read].starts_with(b"HTTP/1.1 100") {
            busy.push(stream);
        }
    }
    let name = "ltq_http_connections_refused_by_address_total";
    let refused = |held: &Held| (held.figure(name) - before.figure(name)) as usize;
    let so_far = refused(&field.held().await?);
    for _ in 0..HTTP {
        assert_eq!(flooder.ask(to, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await?, 0);
    }
    assert_eq!(refused(&field.held().await?), so_far + HTTP);
    assert_eq!(attacker(9).ask(to, "GET /healthz HTTP/1.0\r\n\r\n").await?, 200);
    asked_again(&mut kept).await?;
    field.newcomers("busy-http").await;
    Ok(())
}

/// Asks on a connection that is kept.
async fn asked_again(kept: &mut TcpStream) -> io::Result<()> {
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut answer = [0; 1024];
    let read = within("an answer", kept.read(&mut answer)).await?;
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    Ok(())
}

#[test]
fn promise_9_ten_thousand_addresses_cost_a_node_no_more_than_those_that_it_is_set_to_remember() {
    BadNetwork::on_near(ATTACKERS, async |network| {
        let field = Field::start(&network, &settings(KNOWN)).await?;
        field.newcomers("calm").await;
        let clean = field.held().await?;
        // What the first ones cost is what the node has once and for all.
        come_from(&field, 0..ADDRESSES / 10).await?;
        let before = field.held().await?;
        come_from(&field, ADDRESSES / 10..ADDRESSES).await?;
        field.newcomers("ten-thousand").await;
        let after = field.held().await?;
        let of = |name: &str| after.figure(name) - clean.figure(name);
        let forgotten = "ltq_addresses_forgotten_total";
        assert_eq!(of("ltq_hellos_denied_total"), f64::from(ADDRESSES));
        // Those that guessed, and the honest one, which made topics.
        assert_eq!(of(forgotten), f64::from(ADDRESSES - KNOWN));
        let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
        println!("{} KiB more for {} addresses", grown >> 10, ADDRESSES - ADDRESSES / 10);
        assert!(grown < GROWN_MAX, "promise 9: {grown} bytes for {ADDRESSES} addresses");
        field.end(&clean).await
    });
}

/// A wrong token from each address, and of one in ten a handshake and a request that come to nothing.
async fn come_from(field: &Field, numbers: std::ops::Range<u32>) -> io::Result<()> {
    let target = field.node.target();
    let tls = target.tls.rest().parse().map_err(io::Error::other)?;
    let one = async |number: u32| {
        // Not the network's own address.
        let stranger = attacker(number + 1);
        let greeting = stranger.greet(&target.tcp, "a guess").await?;
        assert!(matches!(greeting, Greeting::Goodbye(RefusalCode::Unauthorized)), "{number}");
        if number.is_multiple_of(10) {
            drop(stranger.connect(tls).await?);
            stranger.ask(target.http, "GET /nothing HTTP/1.0\r\n\r\n").await?;
        }
        io::Result::Ok(())
    };
    stream::iter(numbers).map(one).buffer_unordered(AT_ONCE).try_collect().await
}

fn settings(addresses_known_max: u32) -> String {
    let seconds = HANDSHAKE.as_secs();
    format!(
        r#"
[tls]
handshakes_max = {HANDSHAKES_MAX}
handshakes_per_address_max = {HANDSHAKES}
handshake_timeout = "{seconds}s"

[quic]
connection_window = "{WINDOW}"
send_window = "{WINDOW}"
windows_bytes_per_address_max = "{WINDOWS}"

[limits]
connections_per_address_max = {CONNECTIONS}
wrong_tokens_max = {WRONG_TOKENS}
lockout_max = "1s"
addresses_known_max = {addresses_known_max}
topics_per_minute_max = {TOPICS}
http_connections_max = {HTTP_MAX}
http_connections_per_address_max = {HTTP}
"#
    )
}

/// What lets the honest ones in.
const HONEST: &str = "of the honest ones";
/// The addresses of the attackers.
const ATTACKERS: &str = "10.80.0.0/18";
/// The honest ones' own, which they have by not asking for another one.
const OWN: Stranger = Stranger(Ipv4Addr::UNSPECIFIED);
/// What each address has at most. The honest one has six connections, and one for a newcomer.
const CONNECTIONS: usize = 20;
const WRONG_TOKENS: u32 = 5;
/// For how long an address is locked out at first.
const LOCKED: Duration = Duration::from_secs(1);
const HANDSHAKES: usize = 8;
const HANDSHAKES_MAX: usize = 32;
/// Longer than the second after which one gives way to others of its address.
const HANDSHAKE: Duration = Duration::from_secs(3);
const WINDOW: u64 = 4 << 20;
const WINDOWS: u64 = 96 << 20;
const TOPICS: u32 = 40;
const HTTP: usize = 6;
const HTTP_MAX: usize = 24;
/// Of the addresses that come, so many are remembered.
const KNOWN: u32 = 1_000;
const ADDRESSES: u32 = 10_000;
/// What a node may have grown by for nine tenths of them: a KiB for each, which is less than any task or buffer that
/// would be left of it.
const GROWN_MAX: u64 = 9 << 20;
const AT_ONCE: usize = 50;
/// What a newcomer has to come in and publish to two topics, on a machine that is busy.
const NEWCOMER: Duration = Duration::from_secs(15);
