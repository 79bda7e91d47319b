//! A simulated connection of many streams.

use std::{io, sync::Arc};

use async_trait::async_trait;
use ltq_core::{Connection, Peer, Stream, TransportError};
use tokio::sync::{Mutex, mpsc, watch};

use super::{
    Roads,
    link::{Carried, Side},
};

/// Both ends of a new connection; each is told who the other is.
pub(super) fn ends(
    roads: &Arc<Roads>,
    carried: &Arc<Carried>,
    listener: Peer,
    client: Peer,
) -> (ManyStreams, ManyStreams) {
    let (to_far, from_near) = mpsc::unbounded_channel();
    let (to_near, from_far) = mpsc::unbounded_channel();
    let end = |side, peer, opened, accepted| ManyStreams {
        roads: Arc::clone(roads),
        carried: Arc::clone(carried),
        side,
        peer,
        opened,
        accepted: Mutex::new(accepted),
        is_cut: carried.is_cut(),
    };
    let near = end(Side::Connecting, listener, to_far, from_far);
    (near, end(Side::Accepting, client, to_near, from_near))
}

pub(super) struct ManyStreams {
    roads: Arc<Roads>,
    carried: Arc<Carried>,
    side: Side,
    peer: Peer,
    opened: mpsc::UnboundedSender<Stream>,
    /// A tokio mutex: it is held while waiting.
    accepted: Mutex<mpsc::UnboundedReceiver<Stream>>,
    is_cut: watch::Receiver<bool>,
}

impl ManyStreams {
    fn gone(&self, doing: &str) -> TransportError {
        TransportError::Io {
            doing: format!("{doing} {}", self.peer.address),
            source: io::ErrorKind::ConnectionReset.into(),
        }
    }
}

#[async_trait]
impl Connection for ManyStreams {
    fn multiplexed(&self) -> bool {
        true
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let gone = || self.gone("opening a stream to");
        let (near, far) = self.carried.stream(&self.roads, self.side).ok_or_else(gone)?;
        self.opened.send(far).map_err(|_| gone())?;
        Ok(near)
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        let mut accepted = self.accepted.lock().await;
        let mut is_cut = self.is_cut.clone();
        let stream = tokio::select! {
            biased;
            Ok(_) = is_cut.wait_for(|cut| *cut) => return Err(self.gone("accepting a stream of")),
            stream = accepted.recv() => stream,
        };
        if stream.is_none() {
            let [us, them] = self.carried.ends(self.side);
            // That the other end is gone is known where the way is there.
            self.roads.routes.open(&[[them, us]]).await;
        }
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::IoSlice};

    use bytes::BytesMut;
    use ltq_core::{Address, Stream, SystemEntropy, Transport};

    use crate::{SimulatedNetwork, Weather};

    use super::*;

    /// A network, and a connection with so many streams, each with both of its ends.
    async fn connected(
        count: usize,
    ) -> (SimulatedNetwork, [Box<dyn Connection>; 2], Vec<[Stream; 2]>) {
        let network = SimulatedNetwork::new(Arc::new(SystemEntropy));
        network.set_many_streams(1);
        let address = Address::new("sim", "b");
        let mut listener = network.host("b").listen(&address).await.unwrap();
        let near = network.host("a").connect(&address).await.unwrap();
        let far = listener.accept().await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..count {
            let opened = near.open_stream().await.unwrap();
            streams.push([opened, far.accept_stream().await.unwrap().unwrap()]);
        }
        (network, [near, far], streams)
    }

    async fn send(stream: &mut Stream) -> io::Result<usize> {
        poll_fn(|context| stream.send.poll_send(context, &[IoSlice::new(b"x")])).await
    }

    async fn receive(stream: &mut Stream) -> io::Result<usize> {
        let mut buffer = BytesMut::new();
        poll_fn(|context| stream.recv.poll_recv(context, &mut buffer, 1)).await
    }

    #[tokio::test]
    async fn a_reset_breaks_one_stream_for_both_ends_and_leaves_the_others() {
        let (network, ends, mut streams) = connected(5).await;
        network.set_weather(Weather { reset_one_in: 1, ..Weather::default() });
        send(&mut streams[0][0]).await.unwrap();
        network.set_weather(Weather::default());
        let mut broken = 0;
        for [near, far] in &mut streams {
            let is_broken = send(far).await.is_err();
            assert_eq!(send(near).await.is_err(), is_broken);
            broken += usize::from(is_broken);
        }
        assert_eq!(broken, 1);
        assert!(ends[0].open_stream().await.is_ok());
    }

    #[tokio::test]
    async fn a_half_close_ends_one_direction_of_one_stream_behind_what_is_under_way() {
        let (network, _ends, mut streams) = connected(3).await;
        network.set_weather(Weather { half_close_one_in: 1, ..Weather::default() });
        send(&mut streams[0][0]).await.unwrap();
        network.set_weather(Weather::default());
        assert_eq!(receive(&mut streams[0][1]).await.unwrap(), 1);
        let mut ended = 0;
        for ends in &mut streams {
            for _ in 0..2 {
                ends.swap(0, 1);
                let [from, to] = ends;
                match send(from).await {
                    Ok(_) => assert_eq!(receive(to).await.unwrap(), 1),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
                        assert_eq!(receive(to).await.unwrap(), 0);
                        ended += 1;
                    }
                }
            }
        }
        assert_eq!(ended, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_connects_may_never_be_answered() {
        let (network, ..) = connected(0).await;
        network.set_weather(Weather { hang_one_in: 1, ..Weather::default() });
        let (host, address) = (network.host("b"), "sim://a".parse().unwrap());
        let day = std::time::Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, host.connect(&address)).await.is_err());
    }

    #[tokio::test]
    async fn a_cut_breaks_all_streams_and_lets_none_be_opened() {
        let (network, ends, mut streams) = connected(3).await;
        network.cut("a", false);
        for stream in streams.iter_mut().flatten() {
            assert!(send(stream).await.is_err());
            assert!(receive(stream).await.is_err());
        }
        for end in &ends {
            assert!(end.open_stream().await.is_err());
            assert!(end.accept_stream().await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_silence_nothing_arrives_on_streams_old_or_new() {
        let (network, ends, mut streams) = connected(2).await;
        network.cut("a", true);
        let near = ends[0].open_stream().await.unwrap();
        let far = ends[1].accept_stream().await.unwrap().unwrap();
        streams.push([near, far]);
        for [near, far] in &mut streams {
            send(near).await.unwrap();
            let wait = std::time::Duration::from_secs(1);
            assert!(tokio::time::timeout(wait, receive(far)).await.is_err());
        }
    }
}
