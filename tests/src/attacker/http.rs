//! What is said by HTTP, or begun and not said.

use std::{fmt::Write as _, time::Duration};

use rand::RngExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{Assault, FRAME_BYTES_MAX, Failed, MEETING, MESSAGE_BYTES_MAX, TOKEN, words};

/// Statuses that a node has a reason to answer with, whatever it is asked.
const ANSWERS: [u16; 17] =
    [100, 200, 400, 401, 403, 404, 405, 408, 409, 413, 414, 417, 429, 431, 503, 504, 507];

impl Assault<'_> {
    /// A request that is cut anywhere.
    pub(super) async fn half_request(&mut self) -> Result<(), Failed> {
        let request = self.publish(&[b'x'; 200]);
        let cut = self.chance.random_range(0..request.len());
        let mut said = self.dial().await?;
        said.say(&request[..cut]).await;
        match self.chance.random_range(0..4) {
            0 => said.hear_the_end(is_any).await.map(drop),
            1 => {
                said.finish().await;
                said.hear_the_end(is_any).await.map(drop)
            }
            2 => {
                sleep(self.a_while()).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A head or a body that comes byte by byte, and never whole.
    pub(super) async fn slow_request(&mut self) -> Result<(), Failed> {
        let request = match self.chance.random() {
            true => self.publish(&[b'x'; 1_000]),
            false => b"GET /metrics HTTP/1.1\r\nhost: x\r\nx-y: z\r\n\r\n".to_vec(),
        };
        let slowly = self.chance.random_range(8..40).min(request.len());
        let (fast, slow) = request.split_at(request.len() - slowly);
        let mut said = self.dial().await?;
        said.say(fast).await;
        for byte in &slow[..slow.len() - 1] {
            if !said.say(&[*byte]).await {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        said.hear_the_end(|status| status != 200).await.map(drop)
    }

    /// A head that is longer than one may be, by its path, a header or many of them.
    pub(super) async fn long_head(&mut self) -> Result<(), Failed> {
        let long = "a".repeat(self.chance.random_range(60_000..200_000));
        let mut head = match self.chance.random_range(0..3) {
            0 => format!("GET /{long} HTTP/1.1\r\nhost: x\r\n"),
            1 => format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {long}\r\n"),
            _ => {
                let mut head = "GET /healthz HTTP/1.1\r\nhost: x\r\n".to_owned();
                for number in 0..self.chance.random_range(90..5_000) {
                    let _ = write!(head, "x-{number}: y\r\n");
                }
                head
            }
        };
        head.push_str("connection: close\r\n\r\n");
        let mut said = self.dial().await?;
        said.say(head.as_bytes()).await;
        said.hear_the_end(is_any).await.map(drop)
    }

    /// Bytes by chance, and other protocols.
    pub(super) async fn garbage(&mut self) -> Result<(), Failed> {
        let bytes = match self.chance.random_range(0..5) {
            0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
            // The head of a TLS record with a hello.
            1 => vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            2 => words::conversation(&mut self.chance),
            3 => {
                let mut request = self.publish(b"x");
                words::mutate(&mut self.chance, &mut request);
                request
            }
            _ => words::noise(&mut self.chance, 20_000),
        };
        let mut said = self.dial().await?;
        said.say(&bytes).await;
        said.finish().await;
        said.hear_the_end(is_any).await.map(drop)
    }

    /// Many requests in one piece; and who asks may not read what is answered.
    pub(super) async fn pipelined(&mut self) -> Result<(), Failed> {
        let count = self.chance.random_range(20..400);
        let mut all = Vec::new();
        for _ in 0..count {
            let one = match self.chance.random_range(0..4) {
                0 => b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
                1 => b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
                2 => b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
                _ => self.publish(b"x"),
            };
            all.extend(one);
        }
        let mut said = self.dial().await?;
        if self.chance.random_bool(0.3) {
            // As long as the node puts up with it.
            said.say(&all).await;
            sleep(self.a_while()).await;
            return Ok(());
        }
        all.extend(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let Said { stream, .. } = &mut said;
        let (mut reader, mut writer) = stream.split();
        let mut heard = Vec::new();
        let both = async { tokio::join!(writer.write_all(&all), reader.read_to_end(&mut heard)) };
        if timeout(PATIENCE, both).await.is_err() {
            return Err(Failed::Fault("pipelined requests were not answered".to_owned()));
        }
        let answers = answers(&heard, is_any)?;
        // A connection may be given up for others between two of them, or end with a fault.
        if answers.len() > count + 1 {
            return Err(Failed::Fault(format!("{} answers to {count}", answers.len())));
        }
        Ok(())
    }

    /// A body that is longer than one may be, or whose length is said in ways that cannot be.
    pub(super) async fn odd_body(&mut self) -> Result<(), Failed> {
        let path = if self.chance.random() { "/pub" } else { "/mpub" };
        let head = |lengths: &str| {
            format!(
                "POST {path}?topic=attack.http HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 authorization: Bearer {TOKEN}\r\n{lengths}\r\n\r\n"
            )
            .into_bytes()
        };
        let chunked = "transfer-encoding: chunked";
        let too_long = FRAME_BYTES_MAX as usize + 1 + self.chance.random_range(0..100_000);
        let mut bytes;
        let kind = self.chance.random_range(0..9);
        match kind {
            0 => bytes = head(&format!("content-length: {too_long}")),
            1 => bytes = head(&format!("content-length: {}", u64::MAX)),
            2 => {
                // More than may be, of which no chunk says so.
                bytes = head(chunked);
                let chunk = [&b"1000\r\n"[..], &[b'x'; 0x1000], b"\r\n"].concat();
                for _ in 0..too_long / 0x1000 + 1 {
                    bytes.extend_from_slice(&chunk);
                }
            }
            3 => bytes = [&head(chunked)[..], b"ffffffffffffffff\r\nx"].concat(),
            4 => bytes = [&head(chunked)[..], b"-1\r\nx\r\n0\r\n\r\n"].concat(),
            5 => bytes = head("content-length: -1"),
            6 => bytes = head("content-length: 1\r\ncontent-length: 2"),
            7 => {
                let long = "e".repeat(self.chance.random_range(1_000..100_000));
                bytes = [&head(chunked)[..], format!("1;{long}\r\nx\r\n").as_bytes()].concat();
            }
            _ => {
                // One message that is too long in a body that is not; or, of many, one that says so of itself.
                let binary = (u32::MAX - 1).to_le_bytes();
                let one = vec![b'x'; MESSAGE_BYTES_MAX as usize + 1];
                let body = if path == "/pub" { &one[..] } else { &binary };
                let binary = if path == "/pub" { "" } else { "&binary=true" };
                bytes = format!(
                    "POST {path}?topic=attack.http{binary} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                     authorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                )
                .into_bytes();
                bytes.extend_from_slice(body);
            }
        }
        let mut said = self.dial().await?;
        said.say(&bytes).await;
        said.finish().await;
        said.hear_the_end(|status| status != 200).await.map(drop)
    }

    /// No token, or a wrong one, by whatever header.
    pub(super) async fn denied_request(&mut self) -> Result<(), Failed> {
        // White space at a header's end is none of it.
        let token = words::wrong_token(&mut self.chance).filter(|token| token.trim_end() != TOKEN);
        let header = match (self.chance.random_range(0..5), token) {
            (_, None) => String::new(),
            (0, _) => format!("authorization: Basic {TOKEN}\r\n"),
            (1, _) => format!("authorization: Bearer {TOKEN}{}\r\n", "x".repeat(30_000)),
            (2, Some(token)) => {
                format!("authorization: Bearer {token}\r\nauthorization: Bearer {token}\r\n")
            }
            (_, Some(token)) => format!("authorization: Bearer {token}\r\n"),
        };
        let request = format!(
            "POST /pub?topic=attack.http HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\
             content-length: 1\r\n\r\nx"
        );
        let mut said = self.dial().await?;
        said.say(request.as_bytes()).await;
        said.hear_the_end(|status| matches!(status, 400 | 401 | 408 | 431)).await.map(drop)
    }

    /// Paths, queries and methods that there are not, or that are written oddly.
    pub(super) async fn odd_path(&mut self) -> Result<(), Failed> {
        let path = match self.chance.random_range(0..14) {
            0 => "/pub?topic=%00".to_owned(),
            1 => "/pub?topic=%ff%fe".to_owned(),
            2 => "/pub?topic=a%2f..%2fb".to_owned(),
            3 => "/pub?topic=".to_owned(),
            4 => "/pub?topic=x&topic=y".to_owned(),
            5 => "/pub?topic=%zz".to_owned(),
            6 => format!("/pub?topic={}", "%41".repeat(1_000)),
            7 => "/../../etc/passwd".to_owned(),
            8 => "//pub?topic=x".to_owned(),
            9 => "http://elsewhere/pub?topic=\u{e9}".to_owned(),
            10 => "*".to_owned(),
            11 => "/pub?topic=honest.tcp".to_owned(),
            12 => format!("/pub?topic=attack.a&durability={}", self.chance.random::<u32>()),
            _ => format!("/{}", "%2e%2e/".repeat(self.chance.random_range(1..500))),
        };
        let methods = ["POST", "PUT", "CONNECT", "OPTIONS", "TRACE", "DELETE", "x", "POST"];
        let method = methods[self.chance.random_range(0..methods.len())];
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
             connection: close\r\ncontent-length: 1\r\n\r\nx"
        );
        let mut said = self.dial().await?;
        said.say(request.as_bytes()).await;
        said.finish().await;
        said.hear_the_end(|status| status != 200).await.map(drop)
    }

    /// More connections than there may be, of which some have a request under way.
    pub(super) async fn many_connections(&mut self) -> Result<(), Failed> {
        let mut held = Vec::new();
        for number in 0..self.chance.random_range(20..60) {
            let mut said = self.dial().await?;
            match number % 5 {
                0 => drop(said.say(&self.publish(&[b'x'; 100])[..150]).await),
                1 => drop(said.say(b"GET /metrics HTTP/1.1\r\nhost:").await),
                2 => drop(said.say(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await),
                _ => {}
            }
            held.push(said);
        }
        sleep(self.a_while()).await;
        Ok(())
    }

    /// Gone in the middle of a body, or while it is answered, by a reset.
    pub(super) async fn reset_request(&mut self) -> Result<(), Failed> {
        let request = match self.chance.random() {
            true => self.publish(&vec![b'x'; 100_000]),
            false => b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20),
        };
        let mut said = self.dial().await?;
        let cut = self.chance.random_range(100..=request.len());
        said.say(&request[..cut]).await;
        sleep(self.a_moment()).await;
        // Bytes that nobody has read make a close a reset; so does this.
        let _ = said.stream.set_zero_linger();
        Ok(())
    }

    /// A request that publishes, as anybody may who has the token.
    fn publish(&mut self, body: &[u8]) -> Vec<u8> {
        let mut request = format!(
            "POST /pub?topic=attack.http HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        );
        let _ = match self.chance.random() {
            true => write!(request, "content-length: {}\r\n\r\n", body.len()),
            false => write!(request, "transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()),
        };
        let is_chunked = request.contains("chunked");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        if is_chunked {
            bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        bytes
    }

    async fn dial(&self) -> Result<Said, Failed> {
        let met = timeout(MEETING, TcpStream::connect(self.attacker.target.http)).await;
        let stream = met.map_err(|_| Failed::Unmet)?.map_err(|_| Failed::Unmet)?;
        Ok(Said { stream })
    }
}

/// A connection on which nobody behaves.
struct Said {
    stream: TcpStream,
}

impl Said {
    /// Whether the node took it.
    async fn say(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(SAYING, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads to the end, which must come; each answer has to be one that is allowed.
    async fn hear_the_end(&mut self, is_allowed: fn(u16) -> bool) -> Result<Vec<u16>, Failed> {
        let mut heard = Vec::new();
        let (began, stream) = (Instant::now(), &mut self.stream);
        // What came before a reset was heard.
        if timeout(PATIENCE, stream.read_to_end(&mut heard)).await.is_err() {
            let what = format!("a connection was open after {:?}", began.elapsed());
            return Err(Failed::Fault(what));
        }
        answers(&heard, is_allowed)
    }
}

fn is_any(_: u16) -> bool {
    true
}

/// The statuses of what was heard, which is to be answers and nothing else; the last one may be cut.
fn answers(mut heard: &[u8], is_allowed: fn(u16) -> bool) -> Result<Vec<u16>, Failed> {
    let mut statuses = Vec::new();
    while !heard.is_empty() {
        let fault = |what: &str| {
            let shown = String::from_utf8_lossy(&heard[..heard.len().min(100)]).into_owned();
            Failed::Fault(format!("{what}: {shown:?}"))
        };
        let Some(end) = heard.windows(4).position(|it| it == b"\r\n\r\n") else { break };
        let head = std::str::from_utf8(&heard[..end]).map_err(|_| fault("a head of no words"))?;
        let mut words = head.split(' ');
        if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) {
            return Err(fault("no answer"));
        }
        let status: Option<u16> = words.next().and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| fault("an answer without a status"))?;
        if !ANSWERS.contains(&status) || !is_allowed(status) {
            return Err(fault("not to be answered so"));
        }
        statuses.push(status);
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_it = name.eq_ignore_ascii_case("content-length");
            is_it.then(|| value.trim().parse::<usize>().ok())?
        });
        let length = length.unwrap_or(0);
        heard = heard.get(end + 4 + length..).unwrap_or_default();
    }
    Ok(statuses)
}

/// For bytes that the node has every reason to take, or to end the connection.
const SAYING: Duration = Duration::from_secs(10);
/// For what a node does at a deadline of two seconds, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_what_is_none() {
        let heard = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\nHTTP/1.1 4";
        assert!(matches!(answers(heard, is_any), Ok(it) if it == [100, 200]));
        let is_fault =
            |heard: &[u8]| matches!(answers(heard, |it| it != 200), Err(Failed::Fault(_)));
        assert!(is_fault(b"HTTP/1.1 200 OK\r\n\r\n") && is_fault(b"HTTP/1.1 500 x\r\n\r\n"));
        assert!(is_fault(b"hello\r\n\r\n") && is_fault(b"HTTP/1.1 x\r\n\r\n"));
        assert!(!is_fault(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 90\r\n\r\ncut"));
    }
}
