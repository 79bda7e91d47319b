//! A program of a mesh: it sends to all others, and reads its inbox. What it writes down is as a
//! [worker](super::worker) does; the place of a message is the time at which it came into its inbox.

use std::{path::PathBuf, pin::Pin, sync::Arc, task::Poll, time::Duration};

use clap::Args;
use futures::{StreamExt as _, stream::FuturesUnordered};
use ltq_core::Effect;
use ltq_mesh::{Inbox, Mesh, MeshSettings};
use ltq_store::{FileStore, FileStoreOptions};
use ltq_transport::{ClientTrust, Fingerprint, Pem, Quic, ServerTrust, Tcp, Tls, Transports};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::worker::{Failed, Journal, LIFE, MESH, TIMEOUT, say, say_time, uptime_ms};

/// Its flags.
#[derive(Clone, Debug, Args)]
pub struct ProgramArgs {
    /// What it is called.
    #[arg(long)]
    name: String,
    /// How often there was one of this name before.
    #[arg(long, default_value_t = 0)]
    life: u64,
    /// Where it listens, over TCP, TLS and QUIC.
    #[arg(long)]
    listen: Vec<String>,
    /// The file of the certificate of all of them, as PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// That of its key.
    #[arg(long)]
    key: PathBuf,
    /// The certificate's fingerprint.
    #[arg(long)]
    fingerprint: Fingerprint,
    /// The others: `NAME=ADDRESS`.
    #[arg(long, value_parser = peer)]
    peer: Vec<(String, String)>,
    /// Messages a second to each of them.
    #[arg(long)]
    rate: u32,
    /// Where its inbox is.
    #[arg(long)]
    data: PathBuf,
    /// Where it writes down what became of messages.
    #[arg(long)]
    journal: PathBuf,
}

fn peer(text: &str) -> Result<(String, String), String> {
    let (name, address) = text.split_once('=').ok_or("it is no NAME=ADDRESS")?;
    Ok((name.to_owned(), address.to_owned()))
}

/// It serves by the certificate that all have, and trusts it.
fn transports(args: &ProgramArgs) -> Result<Transports, Failed> {
    let serving = ServerTrust::new(Pem::file(&args.certificate), Pem::file(&args.key))?;
    let trusting = ClientTrust::fingerprint(args.fingerprint)?;
    let tls = Tls::default().serving(serving.clone()).trusting(trusting.clone());
    let quic = Quic::default().serving(serving).trusting(trusting);
    Ok(Transports::new().with(Tcp::default()).with(tls).with(quic))
}

/// Works until it reads `end`. At `quiet` it sends no more, and at `rest` it waits until nothing has come for a
/// while.
///
/// # Errors
/// Whatever keeps it from its work.
pub async fn run(args: ProgramArgs) -> Result<(), Failed> {
    let journal = Arc::new(Journal::open(&args.journal)?);
    let _stalls = journal.watch_stalls();
    let settings = MeshSettings {
        reconnect_interval: Duration::from_millis(200),
        read_timeout: Duration::from_millis(1_500),
        write_timeout: Duration::from_millis(1_500),
        hello_timeout: Duration::from_secs(2),
        acknowledgement_timeout: TIMEOUT,
        ..MeshSettings::default()
    };
    let mut builder = Mesh::builder(&args.name).transports(transports(&args)?).settings(settings);
    for address in &args.listen {
        builder = builder.listen(address);
    }
    for (name, address) in &args.peer {
        builder = builder.peer(name, [address]);
    }
    let mesh = builder.start(FileStore::open(FileStoreOptions::new(&args.data)).await?).await?;
    let (quiet, told) = watch::channel(false);
    let (taken, mut last) = watch::channel(Instant::now());
    let mut senders = JoinSet::new();
    for (to, _) in &args.peer {
        let sender = Sender {
            mesh: mesh.clone(),
            topic: format!("{MESH}{}>{to}", args.name),
            to: to.clone(),
            journal: journal.clone(),
        };
        senders.spawn(sender.run(args.clone(), told.clone()));
    }
    let mut reader = tokio::spawn(read(mesh.inbox().await?, args.name, journal, taken));
    say("ready")?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            ended = &mut reader => return ended?,
        };
        match line.as_deref() {
            Some("time") => say_time()?,
            Some("quiet") => {
                quiet.send_replace(true);
                while let Some(ended) = senders.join_next().await {
                    ended??;
                }
                say("quiet")?;
            }
            Some("rest") => {
                loop {
                    let until = *last.borrow_and_update() + REST;
                    if Instant::now() >= until {
                        break;
                    }
                    sleep_until(until).await;
                }
                say("rest")?;
            }
            Some("end") | None => break,
            Some(_) => {}
        }
    }
    reader.abort();
    mesh.close().await?;
    Ok(())
}

struct Sender {
    mesh: Mesh,
    topic: String,
    to: String,
    journal: Arc<Journal>,
}

impl Sender {
    /// Several on their way at a time, at a fixed rate, in the order of their numbers.
    async fn run(self, args: ProgramArgs, quiet: watch::Receiver<bool>) -> Result<(), Failed> {
        let mut under_way = FuturesUnordered::new();
        let mut ticks = interval(Duration::from_secs(1) / args.rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in args.life * LIFE.. {
            loop {
                tokio::select! {
                    _ = ticks.tick(), if under_way.len() < UNDER_WAY_MAX => break,
                    Some(sent) = under_way.next() => sent?,
                }
            }
            if *quiet.borrow() {
                break;
            }
            let mut sending: Pin<Box<_>> = Box::pin(self.send(number));
            // Messages are in the order in which these are first polled.
            match futures::poll!(&mut sending) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => under_way.push(sending),
            }
        }
        while let Some(sent) = under_way.next().await {
            sent?;
        }
        Ok(())
    }

    async fn send(&self, number: u64) -> Result<(), Failed> {
        let (topic, body) = (&self.topic, format!("{}/{number}", self.mesh.name()));
        self.journal.write(&format!("P\t{topic}\t{body}\t{}", uptime_ms()?))?;
        let began = Instant::now();
        let sent = self.mesh.send(&self.to, body.clone()).await;
        let took = began.elapsed().as_millis();
        match sent {
            Ok(()) => self.journal.write(&format!("C\t{topic}\t{body}\t-\t-\t{took}\tlasts"))?,
            Err(error) => {
                let kind = if error.effect() == Effect::Nothing { 'F' } else { 'U' };
                self.journal.write(&format!("{kind}\t{topic}\t{body}\t{took}\t{error}"))?;
            }
        }
        Ok(())
    }
}

/// Takes what comes, for ever.
async fn read(
    mut inbox: Inbox,
    name: String,
    journal: Arc<Journal>,
    taken: watch::Sender<Instant>,
) -> Result<(), Failed> {
    let mut held = Vec::new();
    for count in 1_u64.. {
        let next = loop {
            match timeout(QUIET, inbox.next()).await {
                Ok(next) => break next,
                // What is held is answered in the end. Dropping it would give it back.
                Err(_) => {
                    for message in held.drain(..) {
                        ltq_mesh::InboxMessage::ack(message)?;
                    }
                }
            }
        };
        let message = next.ok_or("the inbox is over")??;
        let (from, time) = (message.from(), message.time().0);
        let body = String::from_utf8_lossy(message.body());
        journal.write(&format!("G\t{MESH}{from}>{name}\t{body}\t{name}\t{time}"))?;
        taken.send_replace(Instant::now());
        match count % 50 {
            0 => message.requeue(Duration::from_millis(100))?,
            1..=5 => held.push(message),
            _ => message.ack()?,
        }
        if held.len() > 20 {
            for message in held.drain(..) {
                message.ack()?;
            }
        }
    }
    Ok(())
}

/// Messages to one program that are not answered.
const UNDER_WAY_MAX: usize = 32;
/// After what time without a message those that are held are answered.
const QUIET: Duration = Duration::from_millis(500);
/// And after what time nothing more is to come.
const REST: Duration = Duration::from_secs(2);
