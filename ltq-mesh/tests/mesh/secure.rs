//! Whole meshes over TLS and QUIC, through a line that is cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use ltq_core::{Effect, Entropy as _};
use ltq_mesh::{DownCause, Mesh, MeshSettings, MeshStates, PeerState, SendError};
use ltq_transport::{
    ClientTrust, Pem, Quic, SelfSigned, ServerTrust, Tls, Transports, self_signed,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::broadcast,
};

use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tls,
    Quic,
}

impl Kind {
    /// One that serves by this certificate, and trusts that one.
    fn transports(self, own: &SelfSigned, other: &SelfSigned) -> Transports {
        let serving = ServerTrust::new(Pem::text(&own.certificate), Pem::text(&own.key)).unwrap();
        let trusting = ClientTrust::fingerprint(other.fingerprint).unwrap();
        match self {
            Self::Tls => Transports::new().with(Tls::default().serving(serving).trusting(trusting)),
            Self::Quic => {
                Transports::new().with(Quic::default().serving(serving).trusting(trusting))
            }
        }
    }

    fn at(self, place: &str) -> String {
        format!("{}://{place}", if self == Self::Tls { "tls" } else { "quic" })
    }
}

/// Passes everything on to a place, until it is cut.
struct Line {
    at: SocketAddr,
    cut: Cut,
}

enum Cut {
    /// Ends all connections.
    Tcp(broadcast::Sender<()>),
    /// Loses all that is said for a while.
    Udp(Arc<AtomicBool>),
}

impl Line {
    async fn to(kind: Kind, place: SocketAddr) -> Self {
        match kind {
            Kind::Tls => Self::tcp(place).await,
            Kind::Quic => Self::udp(place).await,
        }
    }

    async fn tcp(place: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, (cut, _)) = (listener.local_addr().unwrap(), broadcast::channel(1));
        let cutting = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cutting.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(place).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { at, cut: Cut::Tcp(cut) }
    }

    async fn udp(place: SocketAddr) -> Self {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (at, is_down) = (near.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let down = is_down.clone();
        tokio::spawn(async move {
            let mut ways: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
            let mut packet = vec![0; 65_536];
            loop {
                let Ok((bytes, from)) = near.recv_from(&mut packet).await else { continue };
                let far = match ways.get(&from) {
                    Some(far) => far.clone(),
                    None => {
                        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                        far.connect(place).await.unwrap();
                        ways.insert(from, far.clone());
                        tokio::spawn(back(far.clone(), near.clone(), from, down.clone()));
                        far
                    }
                };
                if !down.load(Ordering::Relaxed) {
                    let _lost = far.send(&packet[..bytes]).await;
                }
            }
        });
        Self { at, cut: Cut::Udp(is_down) }
    }

    /// Cuts what there is, if anything, and says how often.
    async fn cut(&self) -> u32 {
        match &self.cut {
            Cut::Tcp(cut) => u32::from(cut.send(()).is_ok()),
            Cut::Udp(is_down) => {
                is_down.store(true, Ordering::Relaxed);
                tokio::time::sleep(millis(700)).await;
                is_down.store(false, Ordering::Relaxed);
                1
            }
        }
    }
}

async fn back(far: Arc<UdpSocket>, near: Arc<UdpSocket>, to: SocketAddr, down: Arc<AtomicBool>) {
    let mut packet = vec![0; 65_536];
    loop {
        let Ok(bytes) = far.recv(&mut packet).await else { continue };
        if !down.load(Ordering::Relaxed) {
            let _lost = near.send_to(&packet[..bytes], to).await;
        }
    }
}

/// What became of messages that are numbers.
#[derive(Default)]
struct Sent {
    sure: BTreeSet<u64>,
    unsure: BTreeSet<u64>,
    never: BTreeSet<u64>,
}

/// Sends twenty at a time until it is told that it is enough, and one at last that is there for sure.
async fn send_many(mesh: &Mesh, to: &str, is_enough: &AtomicBool) -> (Sent, u64) {
    let (mut sent, mut next) = (Sent::default(), 0);
    while !is_enough.load(Ordering::Relaxed) || sent.sure.len() < 100 {
        within("they connect", mesh.connected(to)).await.unwrap();
        let sending = join_all(
            (next..next + 20)
                .map(async |number| (number, mesh.send(to, format!("{number}")).await)),
        );
        for (number, outcome) in within("all have ended", sending).await {
            match outcome {
                Ok(()) => sent.sure.insert(number),
                Err(error) if error.effect() == Effect::Unknown => sent.unsure.insert(number),
                Err(_) => sent.never.insert(number),
            };
        }
        next += 20;
    }
    let last = async {
        while mesh.send(to, format!("{next}")).await.is_err() {
            within("they connect", mesh.connected(to)).await.unwrap();
        }
    };
    within("the last is sent", last).await;
    (sent, next)
}

/// That an inbox has all that is sure, nothing that never was, in order and once.
async fn check(mesh: &Mesh, sent: &Sent, last: u64) {
    let (mut inbox, mut received) = (mesh.inbox().await.unwrap(), Vec::new());
    while received.last() != Some(&last) {
        received.push(next(&mut inbox).await.1.parse::<u64>().unwrap());
    }
    assert!(received.is_sorted_by(|a, b| a < b), "in order and once: {received:?}");
    received.pop();
    let received: BTreeSet<_> = received.into_iter().collect();
    assert!(sent.sure.is_subset(&received), "{:?}", sent.sure.difference(&received));
    assert!(sent.never.is_disjoint(&received));
    let told: BTreeSet<_> = sent.sure.union(&sent.unsure).copied().collect();
    assert!(received.is_subset(&told), "{:?}", received.difference(&told));
}

/// Two that are connected over a line, the second by the call of the first.
async fn over_a_line(kind: Kind, read_timeout: Duration) -> (Mesh, Mesh, Line) {
    let settings = MeshSettings { read_timeout, hello_timeout: millis(2_000), ..quick() };
    let [one, two] = [(); 2].map(|()| self_signed(&["127.0.0.1"]).unwrap());
    let part = |name: &str, own, other| {
        Mesh::builder(name)
            .transports(kind.transports(own, other))
            .token("secret")
            .settings(settings.clone())
    };
    let far = part("two", &two, &one).listen(kind.at("127.0.0.1:0")).start(store()).await.unwrap();
    let listens = |states: &MeshStates| states.local_addresses().next().is_some();
    within("it listens", far.watch().until(listens)).await.unwrap();
    let place = far.local_addresses()[0].rest().parse().unwrap();
    let line = Line::to(kind, place).await;
    let near = part("one", &one, &two).peer("two", [kind.at(&line.at.to_string())]);
    let near = near.start(store()).await.unwrap();
    both(&near, &far).await;
    (near, far, line)
}

async fn goes_on_over_cuts(kind: Kind, cuts_min: u32) {
    let (one, two, line) = over_a_line(kind, millis(400)).await;
    let is_enough = AtomicBool::new(false);
    let cutting = async {
        let (mut cuts, chance) = (0, Counting(AtomicU64::new(5)));
        while cuts < cuts_min {
            tokio::time::sleep(millis(50 + chance.next() % 200)).await;
            cuts += line.cut().await;
            // Not while there is nothing to be cut.
            within("they connect", one.connected("two")).await.unwrap();
        }
        is_enough.store(true, Ordering::Relaxed);
    };
    let there = send_many(&one, "two", &is_enough);
    let back = send_many(&two, "one", &is_enough);
    let (there, back, ()) = tokio::join!(there, back, cutting);
    check(&two, &there.0, there.1).await;
    check(&one, &back.0, back.1).await;
    one.close().await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_6_over_tls_messages_are_stored_once_and_in_order_though_connections_are_cut() {
    goes_on_over_cuts(Kind::Tls, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_6_over_quic_messages_are_stored_once_and_in_order_though_the_line_is_dead_at_times()
 {
    goes_on_over_cuts(Kind::Quic, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_go_both_ways_over_tls_and_quic() {
    for kind in [Kind::Tls, Kind::Quic] {
        let (one, two, _line) = over_a_line(kind, millis(10_000)).await;
        let body: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        for (from, to) in [(&one, &two), (&two, &one)] {
            let sends = (0..6).map(|_| from.send(to.name().as_str(), body.clone()));
            let sent = within("they are sent", join_all(sends)).await;
            assert!(sent.iter().all(Result::is_ok), "{kind:?}: {sent:?}");
            let mut inbox = to.inbox().await.unwrap();
            for _ in 0..6 {
                let message = within("it is there", inbox.next()).await.unwrap().unwrap();
                assert!(message.body() == &body);
                message.ack().unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_certificate_is_not_taken_for_who_is_meant_and_who_has_no_token_is_not_let_in()
 {
    for kind in [Kind::Tls, Kind::Quic] {
        let [own, other] = [(); 2].map(|()| self_signed(&["127.0.0.1"]).unwrap());
        let two = Mesh::builder("two")
            .transports(kind.transports(&own, &own))
            .listen(kind.at("127.0.0.1:0"))
            .token("secret")
            .settings(quick())
            .start(store())
            .await
            .unwrap();
        let listens = |states: &MeshStates| states.local_addresses().next().is_some();
        within("it listens", two.watch().until(listens)).await.unwrap();
        let at = two.local_addresses()[0].to_string();
        let part = |trusted, token: &str| {
            Mesh::builder("one")
                .transports(kind.transports(&other, trusted))
                .peer("two", [at.clone()])
                .token(token)
                .settings(quick())
                .start(store())
        };
        let wary = part(&other, "secret").await.unwrap();
        let refused = |states: &MeshStates| match states.peer("two") {
            Some(PeerState::Disconnected { cause: DownCause::Unreachable(why), .. }) => {
                why.contains("fingerprint") || why.contains("certificate")
            }
            _ => false,
        };
        within("it is refused", wary.watch().until(refused)).await.unwrap();
        wary.close().await.unwrap();
        let guessing = part(&own, "guess").await.unwrap();
        let refused = |states: &MeshStates| {
            matches!(
                states.peer("two"),
                Some(PeerState::Disconnected { cause: DownCause::Unauthenticated, .. })
            )
        };
        within("it is refused", guessing.watch().until(refused)).await.unwrap();
        let error = guessing.send("two", "x").await.unwrap_err();
        assert_eq!(error, SendError::Unauthenticated { peer: two.name().clone() });
    }
}
