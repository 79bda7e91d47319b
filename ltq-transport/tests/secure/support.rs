//! Certificates, and a few bytes through a connection.

use std::{future::poll_fn, io, io::IoSlice, sync::Arc, time::Duration};

use bytes::BytesMut;
use ltq_core::{Address, Connection, Listener, Stream, Transport, TransportError};
use ltq_transport::{ClientTrust, Pem, Quic, ServerTrust, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn certificate(&self) -> Pem {
        Pem::text(&self.certificate)
    }

    pub(crate) fn key(&self) -> Pem {
        Pem::text(&self.key)
    }
}

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut asked = CertificateParams::default();
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(asked, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> Pem {
        Pem::text(self.0.pem())
    }

    /// A list of those that are not to count any more, by their numbers.
    pub(crate) fn revokes(&self, numbers: &[u64]) -> String {
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: (*number).into(),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(2002, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// For whoever is this, with a number of its own.
    pub(crate) fn signs_numbered(&self, name: &str, number: u64) -> Pair {
        self.signs_as(name, 2090, Some(number))
    }

    /// For whoever is this.
    pub(crate) fn signs(&self, name: &str) -> Pair {
        self.signs_until(name, 2090)
    }

    /// Valid from 2000 on.
    pub(crate) fn signs_until(&self, name: &str, year: i32) -> Pair {
        self.signs_as(name, year, None)
    }

    fn signs_as(&self, name: &str, year: i32, number: Option<u64>) -> Pair {
        let mut asked = CertificateParams::new(vec![name.to_owned()]).unwrap();
        asked.distinguished_name = DistinguishedName::new();
        asked.distinguished_name.push(DnType::CommonName, name);
        asked.serial_number = number.map(Into::into);
        asked.not_before = date_time_ymd(2000, 1, 1);
        asked.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = asked.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A server at this machine.
    pub(crate) fn server(&self) -> ServerTrust {
        let pair = self.signs(HERE);
        ServerTrust::new(pair.certificate(), pair.key()).unwrap()
    }

    pub(crate) fn client(&self) -> ClientTrust {
        ClientTrust::authorities(self.pem()).unwrap()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tls,
    Quic,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Tls, Kind::Quic];

impl Kind {
    pub(crate) fn server(self, trust: ServerTrust) -> Arc<dyn Transport> {
        match self {
            Self::Tls => Arc::new(Tls::default().serving(trust)),
            Self::Quic => Arc::new(Quic::default().serving(trust)),
        }
    }

    pub(crate) fn client(self, trust: ClientTrust) -> Arc<dyn Transport> {
        match self {
            Self::Tls => Arc::new(Tls::default().trusting(trust)),
            Self::Quic => Arc::new(Quic::default().trusting(trust)),
        }
    }

    pub(crate) fn here(self) -> Address {
        self.at(0)
    }

    pub(crate) fn at(self, port: u16) -> Address {
        let scheme = if self == Self::Tls { "tls" } else { "quic" };
        Address::new(scheme, format!("{HERE}:{port}"))
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within the deadline")
}

type Connected = Result<Box<dyn Connection>, TransportError>;

/// One connection of a client that is expected to be let in.
pub(crate) async fn meet(
    client: &dyn Transport,
    listener: &mut Box<dyn Listener>,
) -> (Box<dyn Connection>, Box<dyn Connection>) {
    let address = listener.local_address();
    let (near, far) =
        within(async { tokio::join!(client.connect(&address), listener.accept()) }).await;
    (near.unwrap(), far.unwrap())
}

/// What a client comes to that must not be let in, while the listener goes on.
pub(crate) async fn refused(client: &dyn Transport, listener: &mut Box<dyn Listener>) -> String {
    let address = listener.local_address();
    let trying = async {
        let connected: Connected = client.connect(&address).await;
        let connection = match connected {
            Err(error) => return error.to_string(),
            Ok(connection) => connection,
        };
        // With TLS 1.3 a client learns of it after it has said its last word of the handshake.
        match connection.open_stream().await {
            Err(error) => error.to_string(),
            Ok(mut stream) => {
                let _any = send(&mut stream, b"hello").await;
                recv(&mut stream).await.expect_err("refused").to_string()
            }
        }
    };
    tokio::select! {
        why = within(trying) => why,
        accepted = listener.accept() => panic!("{:?} was let in", accepted.map(|far| far.peer().clone())),
    }
}

pub(crate) async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    let mut left = bytes;
    while !left.is_empty() {
        let sent = poll_fn(|cx| stream.send.poll_send(cx, &[IoSlice::new(left)])).await?;
        left = &left[sent..];
    }
    Ok(())
}

/// What comes next; nothing at the end.
pub(crate) async fn recv(stream: &mut Stream) -> io::Result<BytesMut> {
    let mut buffer = BytesMut::new();
    poll_fn(|cx| stream.recv.poll_recv(cx, &mut buffer, 1 << 20)).await?;
    Ok(buffer)
}

/// A stream, on which these bytes went there and back.
pub(crate) async fn open(
    near: &dyn Connection,
    far: &dyn Connection,
    bytes: &[u8],
) -> (Stream, Stream) {
    within(async {
        let mut near = near.open_stream().await.unwrap();
        send(&mut near, b"!").await.unwrap();
        let mut far = far.accept_stream().await.unwrap().unwrap();
        assert_eq!(&recv(&mut far).await.unwrap()[..], b"!");
        echo(&mut near, &mut far, bytes).await;
        (near, far)
    })
    .await
}

pub(crate) async fn echo(near: &mut Stream, far: &mut Stream, bytes: &[u8]) {
    within(async {
        for turn in 0..2 {
            let (from, to) =
                if turn == 0 { (&mut *near, &mut *far) } else { (&mut *far, &mut *near) };
            let receiving = async {
                let mut all = BytesMut::new();
                while all.len() < bytes.len() {
                    let more = recv(to).await.unwrap();
                    assert!(!more.is_empty(), "the end came early");
                    all.extend_from_slice(&more);
                }
                assert_eq!(all, bytes);
            };
            let (sent, ()) = tokio::join!(send(from, bytes), receiving);
            sent.unwrap();
        }
    })
    .await;
}

pub(crate) const HERE: &str = "127.0.0.1";
