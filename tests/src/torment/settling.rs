//! What is waited for when all is well again, and the account then.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    Account, LOOK_PAUSE, TormentError,
    field::Field,
    role::{Role, Roles},
    running::Running,
    worker,
};

impl Field {
    /// Lets producers come to their end, waits until consumers have what was confirmed, and reads what
    /// all of them wrote.
    pub(super) async fn settle(&mut self) -> Result<Account, TormentError> {
        self.ask_workers("quiet").await?;
        let workers = [Role::Client, Role::Program].map(|role| self.roles().hosts(role));
        let journals = workers.into_iter().flatten().map(|host| self.journal(host));
        let mut reading = Reading::of(journals);
        reading.account.losses = self.losses().to_vec();
        let consumed = timeout(SETTLE_MAX + self.lasts() / 10, async {
            loop {
                reading.go_on()?;
                // Empty nodes have nothing more that could come: neither twice nor what nobody published.
                if reading.account.missing() == 0 && self.backlog().await? == 0 {
                    return Ok::<_, TormentError>(());
                }
                sleep(LOOK_PAUSE).await;
            }
        });
        // Where it takes too long, the account says what is missing.
        consumed.await.unwrap_or(Ok(()))?;
        self.ask_workers_of(Role::Program, "rest").await?;
        let is_bridged = !self.roles().hosts(Role::Bridge).is_empty();
        if is_bridged {
            let at = self.at(self.roles().hosts(Role::Destination).start, "tcp").to_string();
            let journal = self.file("destination.journal");
            let collected = self.errand(&["collect", "--server", &at, "--journal", &journal]).await;
            collected.map_err(TormentError::io("collecting what came over the bridge"))?;
            reading.journals.push((journal.into(), 0));
        }
        reading.go_on()?;
        let mut account = reading.account;
        account.is_bridged = is_bridged;
        for host in self.roles().hosts(Role::Registry) {
            let doing = format!("reading the log of {}", self.roles().name(host));
            let log = std::fs::read_to_string(self.log(host)).map_err(TormentError::io(doing))?;
            account.forgotten += log.lines().filter(|line| line.contains("forgotten: ")).count();
        }
        for host in 0..self.roles().count() {
            let doing = format!("ending {}", self.roles().name(host));
            if matches!(self.hosts[host].running, Some(Running::Worker(_)))
                && let Some(worker) = self.hosts[host].running.take()
            {
                worker.terminate().await.map_err(TormentError::io(doing))?;
            }
        }
        Ok(account)
    }

    /// Waits until something that was published since is confirmed in every topic: whatever there was, each mode goes
    /// on by itself when all is well.
    pub(super) async fn confirms_again(&self, since: u64) -> Result<(), TormentError> {
        let clients = self.roles().hosts(Role::Client);
        let names: Vec<_> = clients.clone().map(|host| self.roles().name(host)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let wanted = worker::topics(names.iter().map(String::as_str));
        let mut reading = Reading::of(clients.map(|host| self.journal(host)));
        let goes_on = timeout(CONFIRMS_WITHIN, async {
            loop {
                reading.go_on()?;
                if reading.account.silent(&wanted, since).next().is_none() {
                    return Ok(());
                }
                sleep(LOOK_PAUSE).await;
            }
        });
        match goes_on.await {
            Ok(result) => result,
            Err(_) => Err(reading.account.silent_since(&wanted, since).into()),
        }
    }

    async fn ask_workers(&mut self, word: &str) -> Result<(), TormentError> {
        self.ask_workers_of(Role::Client, word).await?;
        self.ask_workers_of(Role::Program, word).await
    }

    async fn ask_workers_of(&mut self, role: Role, word: &str) -> Result<(), TormentError> {
        for host in self.roles().hosts(role) {
            let doing = format!("telling {} to be {word}", self.roles().name(host));
            if let Some(worker) = self.hosts[host].running.as_mut().and_then(Running::worker) {
                worker.ask(word).await.map_err(TormentError::io(doing))?;
            }
        }
        Ok(())
    }

    /// What all nodes have still to deliver, or are not acked for: to consumers and to the bridge.
    async fn backlog(&self) -> Result<u64, TormentError> {
        let mut left = 0;
        for host in self.roles().hosts(Role::Node) {
            let doing = format!("asking {} for its figures", Roles::name(self.roles(), host));
            let server = self.at(host, "tcp").to_string();
            let from = self.roles().hosts(Role::Client).start;
            let stats = self.ltq(from, &["stats", "--json", "--server", &server]).await;
            let stats = stats.and_then(|json| Ok(serde_json::from_slice::<Value>(&json)?));
            let stats = stats.map_err(TormentError::io(doing))?;
            let topics = stats["topics"].as_array().into_iter().flatten();
            for channel in topics.filter_map(|topic| topic["channels"].as_array()).flatten() {
                let states = ["waiting", "delayed", "in_flight"];
                left += states.iter().filter_map(|state| channel[state].as_u64()).sum::<u64>();
            }
        }
        Ok(left)
    }
}

/// Journals that are being written, read as far as they are.
struct Reading {
    account: Account,
    /// And how many bytes of each were read.
    journals: Vec<(PathBuf, u64)>,
}

impl Reading {
    fn of(journals: impl Iterator<Item = PathBuf>) -> Self {
        let journals = journals.map(|journal| (journal, 0)).collect();
        Self { account: Account::default(), journals }
    }

    /// Reads what came since, but for a last line that is not whole yet.
    fn go_on(&mut self) -> Result<(), TormentError> {
        for (journal, position) in &mut self.journals {
            let read = read_lines(journal, *position).map_err(TormentError::io(format!(
                "reading the journal {} from byte {position} on",
                journal.display()
            )))?;
            *position += read.len() as u64;
            let who = journal.file_stem().unwrap_or_default().to_string_lossy();
            self.account.read(&who, &read);
        }
        Ok(())
    }
}

/// Whole lines of a file from a byte on; none if there is no file.
fn read_lines(path: &PathBuf, from: u64) -> io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened?,
    };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// How long it may take until each mode goes on when all is well again. Devices that were full, and those who were locked
/// out, are tried again only after seconds.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(30);
/// How long everything may take for consumers to have it when all is well again, and a tenth of how long there was
/// trouble.
const SETTLE_MAX: Duration = Duration::from_secs(90);
