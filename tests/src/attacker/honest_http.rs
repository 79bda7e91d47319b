//! Somebody honest who publishes by HTTP.

use std::{io, net::SocketAddr, time::Duration};

use ltq_client::{Client, Consumer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{interval, timeout},
};

use super::Target;
use crate::{DEADLINE, within};

/// Publishes numbered messages, each by a connection of its own, and consumes them by the client: each comes once and
/// in order.
pub(super) struct HonestByHttp {
    over: watch::Sender<bool>,
    publishing: JoinHandle<ByHttp>,
    reader: Reader,
}

/// Where what is published so is consumed.
pub(super) struct Reader {
    consumer: Consumer,
    client: Client,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByHttp {
    /// Messages that were confirmed, and consumed once each.
    pub messages: u64,
    /// Requests that were said again, their connection having given way to others unheard.
    pub again: u64,
    /// What the slowest took, with all that it was said again.
    pub slowest: Duration,
}

impl Reader {
    pub(super) async fn start(target: &Target, token: &str) -> io::Result<Self> {
        let client = Client::builder().server(&target.tcp.to_string()).token(token);
        let client = client.connect().await.map_err(io::Error::other)?;
        let consumer = client.consumer(TOPIC, "c").await.map_err(io::Error::other)?;
        Ok(Self { consumer, client })
    }

    /// Consumes what was published, which is all that there is.
    ///
    /// # Panics
    /// When a promise was broken.
    pub(super) async fn read(self, by_http: &ByHttp) {
        let Self { mut consumer, client } = self;
        for number in 0..by_http.messages {
            let delivery = within("a message that was published by HTTP", consumer.next()).await;
            let delivery = delivery.expect("the subscription lasts").expect("a delivery");
            let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
            assert_eq!(body, number.to_string(), "promise 4: by HTTP");
            delivery.ack_confirmed().await.expect("acked");
        }
        let topic = client.admin().show_topic(TOPIC).await.expect("the topic");
        assert_eq!(topic.end.0, by_http.messages, "promise 1: by HTTP, and none besides");
        client.close().await.expect("a clean close");
    }
}

impl HonestByHttp {
    /// Lets it begin.
    pub(super) fn start(target: &Target, token: &str, reader: Reader) -> Self {
        let (over, ended) = watch::channel(false);
        let publishing = tokio::spawn(publish(target.http, token.to_owned(), ended));
        Self { over, publishing, reader }
    }

    /// Lets it publish no more.
    ///
    /// # Panics
    /// When a promise was broken.
    pub(super) async fn end(self) -> (ByHttp, Reader) {
        self.over.send_replace(true);
        (self.publishing.await.expect("an honest request is answered"), self.reader)
    }
}

async fn publish(to: SocketAddr, token: String, over: watch::Receiver<bool>) -> ByHttp {
    let mut done = ByHttp::default();
    let mut pace = interval(PACE);
    while !*over.borrow() {
        pace.tick().await;
        let began = tokio::time::Instant::now();
        let body = done.messages.to_string();
        let request = format!(
            "POST /pub?topic={TOPIC} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answered = timeout(DEADLINE, async {
            loop {
                match asked(to, &request).await {
                    // Whoever is not answered at all gave way to others, before anything was done.
                    Ok(answer) if answer.is_empty() => done.again += 1,
                    Ok(answer) => break answer,
                    Err(_) => done.again += 1,
                }
            }
        });
        let answer = answered.await.expect("promise 10: an answer by HTTP");
        assert!(answer.starts_with("HTTP/1.1 200"), "promise 1: by HTTP: {answer}");
        done.messages += 1;
        done.slowest = done.slowest.max(began.elapsed());
    }
    done
}

async fn asked(to: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

const TOPIC: &str = "honest.http";
/// Between two of them.
const PACE: Duration = Duration::from_millis(20);
