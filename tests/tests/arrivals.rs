//! How often an address may come, and addresses that no limit by address counts, met by a real node.
//!
//! Both sides are network namespaces, since this machine's own address is counted by no limit. Where there can be
//! none the tests say so and pass, unless the variable `REQUIRE_NAMESPACES` is set.
#![cfg(target_os = "linux")]

use std::{
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ltq_client::Client;
use ltq_core::{Address, RefusalCode};
use ltq_tests::{
    attacker::{Answered, Besieged, Greeting, Stranger, TOKEN},
    bad_network::BadNetwork,
    binary, within,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

/// A node on the far host.
struct Field {
    node: Besieged,
    _folder: tempfile::TempDir,
}

/// How a stranger fared that came again and again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fared {
    welcome: usize,
    /// Too many came from there.
    told: usize,
    closed: usize,
    denied: usize,
}

impl Field {
    async fn start(network: &BadNetwork) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let far = network.far();
        let (command, host) = (far.command(binary("ltq-node")), far.address());
        let node = Besieged::start_by(command, host, folder.path(), HONEST, &settings()).await?;
        Ok(Self { node, _folder: folder })
    }

    fn tcp(&self) -> &Address {
        &self.node.target().tcp
    }

    /// Says hello so often, one connection after the other; without a token that is right with another guess each time.
    async fn come(&self, who: Stranger, times: usize, token: Option<&str>) -> io::Result<Fared> {
        let mut fared = Fared::default();
        for number in 0..times {
            let token = token.map_or_else(|| format!("guess {number}"), str::to_owned);
            let count = match who.greet(self.tcp(), &token).await? {
                Greeting::Welcome(_) => &mut fared.welcome,
                Greeting::Goodbye(RefusalCode::LimitReached) => &mut fared.told,
                Greeting::Goodbye(RefusalCode::Unauthorized) => &mut fared.denied,
                Greeting::Goodbye(code) => panic!("{code:?}"),
                Greeting::Closed => &mut fared.closed,
            };
            *count += 1;
        }
        Ok(fared)
    }

    async fn figure(&self, name: &str) -> io::Result<usize> {
        Ok(self.node.held().await?.figure(name) as usize)
    }

    async fn end(self) -> io::Result<()> {
        let (ended, log) = self.node.stop().await?;
        assert!(ended.success(), "promise 11: a clean stop exits with 0, not {ended}");
        let told = log.lines().find(|line| line.contains("panicked") || line.contains("ERROR"));
        assert_eq!(told, None);
        Ok(())
    }
}

/// An address of the strangers'.
fn stranger(number: u8) -> Stranger {
    Stranger(Ipv4Addr::new(10, 80, 0, number))
}

/// How many an address may have begun that did so since then: beside those at once, as many each second.
fn most_since(began: Instant) -> usize {
    AT_ONCE + (began.elapsed().as_secs_f64() * PER_SECOND as f64) as usize + 1
}

#[test]
fn promise_10_an_address_that_comes_too_often_is_told_so_and_comes_in_later() {
    BadNetwork::on_near(STRANGERS, async |network| {
        let field = Field::start(&network).await?;
        let (first, times) = (stranger(1), 3 * AT_ONCE);
        let began = Instant::now();
        let fared = field.come(first, times, Some(TOKEN)).await?;
        assert!((AT_ONCE..=most_since(began)).contains(&fared.welcome), "{fared:?}");
        assert_eq!(fared.welcome + fared.told, times, "each was told why: {fared:?}");
        assert_eq!(field.figure(REFUSED).await?, fared.told);
        let by_limit = "ltq_limits_reached_total{limit=\"connections_per_second_max\"}";
        assert_eq!(field.figure(by_limit).await?, fared.told);
        // It is its own doing alone.
        let calm = field.come(stranger(2), AT_ONCE, Some(TOKEN)).await?;
        assert_eq!(calm, Fared { welcome: AT_ONCE, ..Fared::default() });
        // What was refused counts for nothing: it is let in within the second.
        within("it is let in again", async {
            while field.come(first, 1, Some(TOKEN)).await?.welcome == 0 {
                sleep(Duration::from_millis(50)).await;
            }
            io::Result::Ok(())
        })
        .await?;
        // A client does so by itself, at its first connection as well.
        let before = field.figure(REFUSED).await?;
        field.come(OWN, 2 * AT_ONCE, Some(TOKEN)).await?;
        let client = Client::builder().server(&field.tcp().to_string()).token(HONEST);
        let client = within("a client", client.connect()).await.expect("let in");
        client.close().await.expect("a clean close");
        assert!(field.figure(REFUSED).await? > before);
        field.end().await
    });
}

#[test]
fn promise_10_handshakes_of_an_address_that_comes_too_often_are_few() {
    BadNetwork::on_near(STRANGERS, async |network| {
        let field = Field::start(&network).await?;
        let target = field.node.target();
        let tls = target.tls.rest().parse().map_err(io::Error::other)?;
        let too_fast = "ltq_handshakes_failed_total{scheme=\"tls\",reason=\"too_fast\"}";
        let (times, began) = (2 * AT_ONCE, Instant::now());
        let mut silent: Vec<TcpStream> = Vec::new();
        for _ in 0..times {
            silent.push(stranger(3).connect(tls).await?);
        }
        let held = field
            .node
            .until("handshakes are refused", |held| {
                held.figure(too_fast) as usize + most_since(began) >= times
            })
            .await?;
        let refused = held.figure(too_fast) as usize;
        assert!(refused <= times - AT_ONCE, "{refused} of {times}");
        // Over QUIC whoever comes often has to prove first that it is there.
        let began = Instant::now();
        let answers = stranger(4).begin_handshakes(target, AT_ONCE).await?;
        let [begun, retried] = [Answered::Handshake, Answered::Retry]
            .map(|what| answers.iter().filter(|answer| **answer == what).count());
        let half = AT_ONCE / 2;
        let most = most_since(began) - half;
        assert!((half..=most).contains(&begun) && begun + retried == AT_ONCE, "{answers:?}");
        // And who has proved it, as often as this, is not answered.
        let mut met = 0;
        let began = Instant::now();
        for _ in 0..AT_ONCE + half {
            met += usize::from(stranger(5).greet_by_quic(target, TOKEN).await.is_ok());
            if began.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
        assert!((half..=most_since(began)).contains(&met), "{met} in {:?}", began.elapsed());
        drop(silent);
        field.end().await
    });
}

#[test]
fn promise_10_exempt_addresses_meet_no_limit_by_address() {
    BadNetwork::on_near(STRANGERS, async |network| {
        let field = Field::start(&network).await?;
        let target = field.node.target();
        for (who, is_exempt) in [(stranger(EXEMPT), true), (stranger(EXEMPT - 1), false)] {
            // How often it comes, and how many wrong tokens it brings.
            let before = field.figure(REFUSED).await?;
            let fared = field.come(who, 2 * AT_ONCE, None).await?;
            let refused = field.figure(REFUSED).await? - before;
            assert_eq!(fared.denied == 2 * AT_ONCE && refused == 0, is_exempt, "{fared:?}");
            let locked_out = field.figure("ltq_hellos_locked_out_total").await?;
            assert_eq!(locked_out == 0, is_exempt, "{locked_out}");
            if !is_exempt {
                continue;
            }
            // How many are there at a time.
            let mut there = Vec::new();
            for _ in 0..2 * CONNECTIONS {
                let Greeting::Welcome(peer) = who.greet(field.tcp(), TOKEN).await? else {
                    panic!("{} were let in", there.len())
                };
                there.push(peer);
            }
        }
        // Windows of QUIC.
        let mut wide = Vec::new();
        for _ in 0..4 {
            wide.push(stranger(EXEMPT).greet_by_quic(target, TOKEN).await?);
        }
        assert_eq!(field.figure("ltq_quic_windows_narrowed_total").await?, 0);
        let mut narrow = Vec::new();
        for _ in 0..4 {
            narrow.push(stranger(EXEMPT + 16).greet_by_quic(target, TOKEN).await?);
        }
        assert!(field.figure("ltq_quic_windows_narrowed_total").await? > 0);
        // Handshakes.
        let answers = stranger(EXEMPT).begin_handshakes(target, AT_ONCE).await?;
        assert!(answers.iter().all(|it| *it == Answered::Handshake), "{answers:?}");
        let tls = target.tls.rest().parse().map_err(io::Error::other)?;
        let mut silent = Vec::new();
        for _ in 0..2 * AT_ONCE {
            silent.push(stranger(EXEMPT).connect(tls).await?);
        }
        // HTTP.
        let asked = asked_at_once(stranger(EXEMPT), target.http).await?;
        assert_eq!(asked, 2 * HTTP);
        let asked = asked_at_once(stranger(EXEMPT - 1), target.http).await?;
        // Places of the first ones may be free again before the node has looked at the last ones.
        assert!(asked < 2 * HTTP, "{asked} have a place");
        let too_fast = "ltq_handshakes_failed_total{scheme=\"tls\",reason=\"too_fast\"}";
        assert_eq!(field.figure(too_fast).await?, 0);
        drop((silent, wide, narrow));
        field.end().await
    });
}

/// How many of twice as many requests as an address may have begun at a time are answered.
async fn asked_at_once(from: Stranger, to: std::net::SocketAddr) -> io::Result<usize> {
    let mut begun = Vec::new();
    for _ in 0..2 * HTTP {
        let mut stream = from.connect(to).await?;
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\n").await;
        begun.push(stream);
    }
    let mut answered = 0;
    for mut stream in begun {
        let _ = stream.write_all(b"host: x\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = within("an answer", stream.read_to_end(&mut answer)).await;
        answered += usize::from(answer.starts_with(b"HTTP/1.1 200"));
    }
    Ok(answered)
}

fn settings() -> String {
    format!(
        r#"
[quic]
connection_window = "{WINDOW}"
stream_window = "256KiB"
send_window = "{WINDOW}"
windows_bytes_per_address_max = "{}"

[limits]
connections_per_second_max = {PER_SECOND}
connections_per_address_max = {CONNECTIONS}
exempt_addresses = ["10.80.0.{EXEMPT}"]
wrong_tokens_max = 5
http_connections_max = 64
http_connections_per_address_max = {HTTP}
"#,
        4 * WINDOW
    )
}

/// What lets the near host's own address in.
const HONEST: &str = "of the honest ones";
/// The addresses of strangers, beside the near host's own.
const STRANGERS: &str = "10.80.0.0/24";
const OWN: Stranger = Stranger(Ipv4Addr::UNSPECIFIED);
const EXEMPT: u8 = 64;
const PER_SECOND: usize = 3;
const AT_ONCE: usize = 10 * PER_SECOND;
/// More than come too often at once.
const CONNECTIONS: usize = 50;
const HTTP: usize = 6;
const WINDOW: u64 = 4 << 20;
const REFUSED: &str = "ltq_connections_refused_by_rate_total";
