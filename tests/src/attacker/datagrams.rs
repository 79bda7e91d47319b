//! What comes to QUIC's port and belongs to no connection, or belongs to one no more.

use std::{io, net::SocketAddr, time::Duration};

use ltq_core::protocol::Frame;
use rand::{Rng, RngExt};
use tokio::{
    net::UdpSocket,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Assault, Failed, MEETING, socket_address, streams::Endpoint, words};
use crate::bytes_of;

/// The datagram with which a QUIC client begins.
pub(super) async fn first_words(client: &Endpoint) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(ANY).await?;
    let _connecting = client.begin(socket.local_addr()?)?;
    let mut bytes = vec![0; 2048];
    let (length, _) = timeout(MEETING, socket.recv_from(&mut bytes)).await??;
    bytes.truncate(length);
    Ok(bytes)
}

impl Assault<'_> {
    pub(super) async fn datagrams(&mut self) -> Result<(), Failed> {
        let socket = self.socket().await?;
        for _ in 0..self.chance.random_range(1..50) {
            let mut bytes = words::noise(&mut self.chance, 1500);
            if self.chance.random() {
                // A long header, of a version that is spoken, or of one that is not.
                let version = if self.chance.random() { 1 } else { self.chance.random::<u32>() };
                let head = [&[0xc3][..], &version.to_be_bytes(), &[8]].concat();
                bytes.splice(..0, head);
            } else {
                // A short one, for a connection that is not there.
                bytes[0] = 0x40 | (bytes[0] & 0x3f);
            }
            let _ = socket.send(&bytes).await;
        }
        Ok(())
    }

    pub(super) async fn handshakes(&mut self) -> Result<(), Failed> {
        for _ in 0..self.chance.random_range(1..20) {
            let mut bytes = self.attacker.initial.clone();
            match self.chance.random_range(0..4) {
                // As it was said by somebody else.
                0 => {}
                // Another connection's name: what is encrypted does not go with it.
                1 => self.chance.fill_bytes(&mut bytes[6..14]),
                2 => words::mutate(&mut self.chance, &mut bytes),
                _ => bytes.truncate(self.chance.random_range(1..bytes.len())),
            }
            // Each from another port, so that each is a client of its own.
            let socket = self.socket().await?;
            let _ = socket.send(&bytes).await;
        }
        Ok(())
    }

    pub(super) async fn abandoned(&mut self) -> Result<(), Failed> {
        let node = socket_address(&self.attacker.target.quic);
        let relay = Relay::start(node).await.map_err(|_| Failed::Unmet)?;
        let connection = self.attacker.quic.connect(relay.address).await?;
        let mut streams = Vec::new();
        for _ in 0..self.chance.random_range(1..6) {
            let opened = timeout(MEETING, connection.open_bi()).await;
            let Ok(Ok((mut send, recv))) = opened else { break };
            let mut bytes = bytes_of(&Frame::Hello(words::hello()));
            bytes.extend(bytes_of(&words::subscribe(&mut self.chance, 1)));
            let _ = timeout(MEETING, send.write_all(&bytes)).await;
            streams.push((send, recv));
        }
        sleep(self.a_moment()).await;
        // What the connection's end says goes nowhere.
        drop(relay);
        Ok(())
    }

    async fn socket(&self) -> Result<UdpSocket, Failed> {
        let socket = UdpSocket::bind(ANY).await.map_err(|_| Failed::Unmet)?;
        let node = socket_address(&self.attacker.target.quic);
        socket.connect(node).await.map_err(|_| Failed::Unmet)?;
        Ok(socket)
    }
}

/// Carries a client's datagrams to the node and back, until it is dropped: then both are alone.
struct Relay {
    address: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

impl Relay {
    async fn start(node: SocketAddr) -> io::Result<Self> {
        let near = UdpSocket::bind(ANY).await?;
        let far = UdpSocket::bind(ANY).await?;
        far.connect(node).await?;
        let address = near.local_addr()?;
        let task = tokio::spawn(async move {
            let (mut there, mut back) = ([0; 2048], [0; 2048]);
            let mut client = None;
            loop {
                tokio::select! {
                    got = near.recv_from(&mut there) => {
                        let (length, from) = got?;
                        client = Some(from);
                        let _ = far.send(&there[..length]).await;
                    }
                    got = far.recv(&mut back) => {
                        // An error is the node's port being closed for a while.
                        let Ok(length) = got else {
                            sleep(Duration::from_millis(1)).await;
                            continue;
                        };
                        if let Some(client) = client {
                            let _ = near.send_to(&back[..length], client).await;
                        }
                    }
                }
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
