//! Peers from other addresses than those of this machine, which limits by address count.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ltq_core::{
    Address, RefusalCode,
    protocol::{Frame, Hello},
};
use ltq_transport::from_async_io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use super::{IDLE, MEETING, Target, datagrams::first_words, socket_address, streams::Endpoint};
use crate::{RawPeer, bytes_of, within};

/// Somebody at an address, to which whatever it does is counted. It has to be one of the host that this runs on.
#[derive(Clone, Copy, Debug)]
pub struct Stranger(pub Ipv4Addr);

/// What came of a hello.
pub enum Greeting {
    /// It was let in.
    Welcome(RawPeer),
    /// It was told why not.
    Goodbye(RefusalCode),
    /// The connection was closed without a word.
    Closed,
}

/// What came of a QUIC client's first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A handshake began.
    Handshake,
    /// It is to prove first that it is where it says, and costs the node nothing until then.
    Retry,
    /// Nothing came.
    Nothing,
}

/// A connection over QUIC that was let in, for as long as this is there.
pub struct OverQuic {
    /// The stream on which it said hello.
    pub peer: RawPeer,
    _connection: quinn::Connection,
    _endpoint: Endpoint,
}

impl Stranger {
    /// Connects by TCP, and says nothing.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // Else a port would belong to one connection, whatever address that has.
        socket.set_reuseaddr(true)?;
        socket.bind((self.0, 0).into())?;
        timeout(MEETING, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Connects by TCP and says hello with this token.
    ///
    /// # Errors
    /// The operating system's, while connecting.
    pub async fn greet(self, to: &Address, token: &str) -> io::Result<Greeting> {
        let (reader, writer) = self.connect(socket_address(to)).await?.into_split();
        Ok(greeted(RawPeer::over(from_async_io(reader, writer)), token).await)
    }

    /// Connects by QUIC and says hello with this token.
    ///
    /// # Errors
    /// It comes to no connection, or is not let in.
    pub async fn greet_by_quic(self, target: &Target, token: &str) -> io::Result<OverQuic> {
        let endpoint = Endpoint::new(&target.certificate.certificate, self.0, STAYING)?;
        let connecting = endpoint.begin(socket_address(&target.quic))?;
        let connection = timeout(MEETING, connecting).await??;
        let (send, recv) = connection.open_bi().await?;
        match greeted(RawPeer::over(from_async_io(recv, send)), token).await {
            Greeting::Welcome(peer) => {
                Ok(OverQuic { peer, _connection: connection, _endpoint: endpoint })
            }
            _ => Err(io::Error::other("it was not let in")),
        }
    }

    /// Says the first words of a handshake over QUIC, as so many clients, and nothing more. Returns what each was
    /// answered first.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn begin_handshakes(
        self,
        target: &Target,
        count: usize,
    ) -> io::Result<Vec<Answered>> {
        let endpoint = Endpoint::new(&target.certificate.certificate, Ipv4Addr::LOCALHOST, IDLE)?;
        let to = socket_address(&target.quic);
        let mut clients = Vec::new();
        for _ in 0..count {
            let words = first_words(&endpoint).await?;
            let socket = UdpSocket::bind((self.0, 0)).await?;
            socket.connect(to).await?;
            socket.send(&words).await?;
            clients.push(socket);
        }
        let mut answers = Vec::new();
        for client in clients {
            let mut bytes = [0; 2048];
            let answered = timeout(ANSWER, client.recv(&mut bytes)).await;
            answers.push(match answered {
                // The kind of a packet with a long header: RFC 9000, 17.2.
                Ok(Ok(_)) if bytes[0] & 0xf0 == 0xf0 => Answered::Retry,
                Ok(Ok(_)) => Answered::Handshake,
                _ => Answered::Nothing,
            });
        }
        Ok(answers)
    }

    /// What is answered by HTTP: the status, 0 where there is none.
    ///
    /// # Errors
    /// The operating system's, while connecting.
    pub async fn ask(self, to: SocketAddr, request: &str) -> io::Result<u16> {
        let mut stream = self.connect(to).await?;
        // The node may have closed it already.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = within("an answer by HTTP", stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        Ok(answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default())
    }
}

async fn greeted(mut peer: RawPeer, token: &str) -> Greeting {
    let hello = Hello { token: Some(token.to_owned()), ..RawPeer::hello() };
    // One that is closed already takes nothing; what was said before still comes.
    let _ = peer.send_bytes(&bytes_of(&Frame::Hello(hello))).await;
    match peer.next().await {
        Some(Frame::Welcome(_)) => Greeting::Welcome(peer),
        Some(Frame::Goodbye { refusal }) => Greeting::Goodbye(refusal.code),
        _ => Greeting::Closed,
    }
}

/// For an answer that comes at once or not at all.
const ANSWER: Duration = Duration::from_millis(500);
/// Who is in stays for as long as the node lets it.
const STAYING: Duration = Duration::from_secs(60);
