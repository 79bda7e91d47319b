//! Making a connection and getting the broker's welcome.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use ltq_core::{
    Address, Stream, Transport,
    protocol::{
        Decoder, FRAME_BYTES_MIN, Features, Frame, Hello, PROTOCOL_MAJOR, PROTOCOL_MINOR, Welcome,
        WriteQueue, encode,
    },
};
use tokio::time::timeout;

use super::{hub::Config, lane::First, link::Welcomed};
use crate::ConnectError;

/// Connects to one server, within this time.
pub(super) async fn dial(
    config: &Config,
    address: Address,
    after: Duration,
) -> Result<Welcomed, ConnectError> {
    match timeout(after, connect(config, address.clone())).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut { address, after }),
    }
}

async fn connect(config: &Config, address: Address) -> Result<Welcomed, ConnectError> {
    let failed =
        |source| ConnectError::Transport { address: address.clone(), source: Arc::new(source) };
    let connection = config.transports.connect(&address).await.map_err(failed)?;
    let mut stream = connection.open_stream().await.map_err(failed)?;
    let lost = |error: io::Error| ConnectError::Lost {
        address: address.clone(),
        cause: error.to_string(),
    };
    let mut output = WriteQueue::new();
    encode(&hello(config), &mut output);
    poll_fn(|context| output.poll_flush(context, &mut *stream.send)).await.map_err(lost)?;
    let decoder = Decoder::new(config.frame_bytes_max);
    let mut input = BytesMut::new();
    let welcome = receive_welcome(&mut stream, decoder, &mut input, &address).await?;
    let Stream { send, recv } = stream;
    let first = First { send, recv, input, decoder };
    Ok(Welcomed { connection, first, address, welcome })
}

/// What each stream begins with.
pub(super) fn hello(config: &Config) -> Frame {
    Frame::Hello(Hello {
        major: PROTOCOL_MAJOR,
        minor: PROTOCOL_MINOR,
        features: Features::default(),
        client: config.name.clone(),
        token: config.token.lock().clone(),
        frame_bytes_max: config.frame_bytes_max,
        heartbeat_ms: u32::try_from(config.heartbeat.as_millis()).unwrap_or(u32::MAX),
    })
}

async fn receive_welcome(
    stream: &mut Stream,
    decoder: Decoder,
    input: &mut BytesMut,
    address: &Address,
) -> Result<Welcome, ConnectError> {
    let protocol = |what: String| ConnectError::Protocol { address: address.clone(), what };
    loop {
        match decoder.decode(input).map_err(|error| protocol(error.to_string()))? {
            Some(Frame::Welcome(welcome)) => {
                return check(&welcome).map_or(Ok(welcome), |what| Err(protocol(what)));
            }
            Some(Frame::Goodbye { refusal }) => {
                return Err(ConnectError::Refused { address: address.clone(), refusal });
            }
            Some(_) => return Err(protocol("its first frame is no welcome".to_owned())),
            None => {}
        }
        let received = poll_fn(|context| stream.recv.poll_recv(context, input, HELLO_READ_BYTES))
            .await
            .map_err(|error| ConnectError::Lost {
                address: address.clone(),
                cause: error.to_string(),
            })?;
        if received == 0 {
            return Err(ConnectError::Lost {
                address: address.clone(),
                cause: "the broker closed it before its welcome".to_owned(),
            });
        }
    }
}

/// What is wrong with a welcome.
pub(super) fn check(welcome: &Welcome) -> Option<String> {
    let (major, frame_bytes) = (welcome.major, welcome.limits.frame_bytes_max);
    if major != PROTOCOL_MAJOR {
        return Some(format!("it speaks version {major}, and this client {PROTOCOL_MAJOR}"));
    }
    (frame_bytes < FRAME_BYTES_MIN)
        .then(|| format!("it takes frames of {frame_bytes} bytes; {FRAME_BYTES_MIN} is the least"))
}

/// A welcome is small; what comes behind it is read by the lane.
const HELLO_READ_BYTES: usize = 4096;
