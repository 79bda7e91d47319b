use std::{
    collections::BTreeSet,
    env, fmt, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Arms, Tally,
    elsewhere::attack,
    honest::{Account, Honest, Pair},
    honest_http::{ByHttp, HonestByHttp, Reader},
    node::{Besieged, USER_CONNECTIONS_MAX, growth_max},
};

/// A node under attack.
#[derive(Clone, Debug)]
pub struct Siege {
    /// By which door attackers come.
    pub arms: Arms,
    /// How many attacks.
    pub attacks: u64,
    /// How many of them at a time.
    pub at_once: usize,
    /// How many begin in a second; as many as can be where it is `None`, which leaves honest clients what
    /// the attackers leave of the machine that all of them share.
    pub per_second: Option<u32>,
    /// What they follow from.
    pub seed: u64,
    /// For how long honest clients are alone with the node before, to compare with.
    pub calm: Duration,
    /// What honest clients are to be spared, where attackers are held back; where they are not it is
    /// [`Bound::NoSecondAtBest`].
    pub bound: Bound,
}

/// How much worse the p99 of honest clients may be than when it is calm, on a machine that they share with the node and
/// with the attackers.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// All in all at most twice, or 3 ms: for a machine that does nothing else, which whoever measures
    /// has seen to.
    Twice,
    /// In the best [`ROUND`](super::honest::ROUND) at most ten times, and in the one in the middle at most thirty times.
    /// Nobody's machine is quiet all the time, and one pause of it is the p99 of its round, and of all of them; but
    /// a node that lets attackers hold honest clients up does so in each round, or in every other one, and by far
    /// more: by a second of a handshake or two of a stall.
    TenTimesAtBest,
    /// In the best round at most a second, and in the one in the middle three, where there are whole rounds: attackers
    /// that nobody holds back have as much of the machine as the node and its honest clients, and what these wait
    /// for is the machine. A node that lets attackers hold them up besides lets them wait for a handshake's second or a
    /// stall's two in each round.
    NoSecondAtBest,
}

/// What a siege came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it followed from.
    pub seed: u64,
    /// What honest clients were to be spared.
    pub bound: Bound,
    /// What became of the attacks.
    pub tally: Tally,
    /// How long they took.
    pub took: Duration,
    /// What honest clients went through.
    pub honest: Vec<Account>,
    /// What one of them did by HTTP.
    pub by_http: ByHttp,
    /// Connections that were refused, their address or user having as many as it may.
    pub refused_by_address: u64,
    /// The node's memory in bytes: before, at most, after, and the bound of what it may be.
    pub memory: [u64; 4],
    /// What of it is messages that the store keeps, in bytes, after.
    pub kept: u64,
    /// What of it stands in huge pages, in bytes, after, where the system tells.
    pub huge: Option<u64>,
    /// Its open files, before and after; connections are counted by the wait for their end.
    pub files: [usize; 2],
    /// Its topics, each of which may have a file or two open.
    pub topics: u64,
    /// Its threads, before and after.
    pub threads: [u64; 2],
    /// What it logged of panics, and of what somebody would have to see to.
    pub told: Vec<String>,
    /// Connections that it took in, from first to last.
    pub connections: u64,
    /// Its processor time over the siege, in seconds.
    pub processor_seconds: f64,
}

/// A number that the environment asks for by this variable.
///
/// # Panics
/// It is none.
#[must_use]
pub fn asked_for(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

impl Siege {
    /// Attacks a node in a folder of its own, with each kind of attack at least once, and checks what came of it.
    ///
    /// # Panics
    /// When a promise is broken, naming it.
    pub async fn hold(&self) -> Report {
        let folder = tempfile::tempdir().expect("a folder");
        let report = self.run(folder.path()).await.expect("a node to attack");
        println!("{report}");
        report.check();
        let carried_out: BTreeSet<_> = report.tally.by_kind.keys().copied().collect();
        let all = self.arms.kinds().iter().map(|(kind, _)| *kind).collect();
        assert_eq!(carried_out, all, "each kind has its turn");
        assert!(report.tally.unmet < self.attacks / 10, "the attackers met the node");
        report
    }

    /// Starts a node in this folder and attacks it.
    ///
    /// # Errors
    /// The node does not start, or cannot be looked at.
    ///
    /// # Panics
    /// When a promise is broken, naming it.
    pub async fn run(&self, folder: &Path) -> io::Result<Report> {
        let token = "of the honest";
        let node = Besieged::start(folder, token).await?;
        let target = node.target();
        let pair = |scheme: &str, server: String| Pair {
            server,
            topic: format!("honest.{scheme}"),
            token: token.to_owned(),
            fingerprint: target.certificate.fingerprint,
        };
        let mut pairs =
            vec![pair("tcp", target.tcp.to_string()), pair("quic", target.quic.to_string())];
        if self.arms == Arms::Unix {
            pairs.push(pair("unix", target.unix.to_string()));
        }
        let honest = Honest::start(pairs).await;
        let reader = Reader::start(target, token).await?;
        // Under attack the processors never rest, and who wakes one up waits for that: it would be the calm that is slow.
        let awake = Awake::keep();
        sleep(self.calm).await;
        drop(awake);
        let before = node.held().await?;

        let by_http = HonestByHttp::start(target, token, reader);
        let begin = Instant::now();
        let tally = attack(
            target.clone(),
            self.arms,
            self.seed,
            self.attacks,
            self.at_once,
            self.per_second,
        )
        .await?;
        let took = begin.elapsed();
        let busy = node.held().await?;
        let (by_http, reader) = by_http.end().await;

        // The honest ones are still there, and nobody else.
        let after = node
            .until_nothing_is_other(
                "promise 10: the node lets go of what the attackers held",
                |held| {
                    let same = |name| (name, held.figure(name), before.figure(name));
                    let none = |name| (name, held.figure(name), 0.0);
                    let of_attackers = |name| (name, held.of_attackers(name), 0.0);
                    let tasks = (held.tasks_beside_topics(), before.tasks_beside_topics());
                    let figures = [
                        same("ltq_connections"),
                        ("sockets", held.sockets as f64, before.sockets as f64),
                        same("ltq_http_connections"),
                        none("ltq_http_body_bytes"),
                        same("ltq_streams"),
                        none("ltq_partial_bytes"),
                        // Fewer are none of an attacker's.
                        ("tasks", tasks.0.max(tasks.1), tasks.1),
                        of_attackers("ltq_topic_producers"),
                        of_attackers("ltq_channel_consumers"),
                        of_attackers("ltq_channel_in_flight_messages"),
                    ];
                    let other = figures.into_iter().filter(|(_, now, wanted)| now != wanted);
                    other.map(|(name, now, wanted)| format!("{name} {now}, not {wanted}")).collect()
                },
            )
            .await?;
        // Not to the end of the wait: a node that is slow to let go would make itself a round without attacks.
        let honest = honest.end(begin..tally.last_began).await;
        reader.read(&by_http).await;
        let held = node.held().await?;
        for Account { topic, messages, .. } in &honest {
            let of = |name: &str, channel: &str| {
                held.figure(&format!("{name}{{topic=\"{topic}\"{channel}}}"))
            };
            let channel = ",channel=\"c\"";
            let counted = [
                of("ltq_topic_published_messages_total", ""),
                of("ltq_channel_deliveries_total", channel),
                of("ltq_channel_acked_messages", channel),
            ];
            assert_eq!(counted, [*messages as f64; 3], "promise 13: {topic}");
        }
        let peak = node.peak_bytes()?;
        let topics = after.figure("ltq_topics") as u64;
        let floods = if self.arms == Arms::Unix { USER_CONNECTIONS_MAX } else { 0 };
        let connections = self.at_once as u64 + floods;
        let bound = before.resident_bytes + growth_max(topics, connections);
        let (ended, log) = node.stop().await?;
        assert!(ended.success(), "promise 11: a clean stop exits with 0, not {ended}");
        let told: Vec<_> = log
            .lines()
            .filter(|line| line.contains("panicked") || line.contains("ERROR"))
            .map(str::to_owned)
            .collect();
        Ok(Report {
            seed: self.seed,
            bound: self.per_second.map_or(Bound::NoSecondAtBest, |_| self.bound),
            files: [&before, &after].map(|held| held.descriptors - held.sockets),
            topics,
            threads: [before.threads, after.threads],
            told,
            tally,
            took,
            honest,
            by_http,
            refused_by_address: after.figure("ltq_connections_refused_by_address_total") as u64,
            kept: after.figure("ltq_store_memory_bytes") as u64,
            huge: after.huge_bytes,
            memory: [before.resident_bytes, peak, after.resident_bytes, bound],
            connections: after.figure("ltq_connections_accepted_total") as u64,
            processor_seconds: busy.figure("process_cpu_seconds_total")
                - before.figure("process_cpu_seconds_total"),
        })
    }
}

impl Report {
    /// What the node did, kept and said is within what was promised.
    ///
    /// # Panics
    /// When it is not, naming the promise.
    pub fn check(&self) {
        let seed = self.seed;
        assert_eq!(self.tally.faults, Vec::<String>::new(), "promise 10, seed {seed}");
        assert_eq!(self.told, Vec::<String>::new(), "seed {seed}");
        let [_, peak, _, bound] = self.memory;
        assert!(peak <= bound, "promise 9: {peak} bytes of memory; its settings allow {bound}");
        if let Some(huge) = self.huge.filter(|_| !huge_pages_for_all()) {
            assert_eq!(huge, 0, "promise 9: huge pages, which the node is not to ask for");
        }
        let [before, after] = self.files;
        assert!(
            after <= before + 2 * self.topics as usize,
            "promise 9: {after} files, {before} before, and {} topics",
            self.topics
        );
        let [before, after] = self.threads;
        assert!(after <= before + THREADS_MORE, "promise 9: {after} threads, {before} before");
        self.honest.iter().for_each(|account| self.bound.check(account));
    }
}

impl Bound {
    /// # Panics
    /// When an honest client's wait is beyond it.
    fn check(self, account: &Account) {
        let Account { topic, latencies: [calm, siege], .. } = account;
        let waits = match self {
            Self::Twice => vec![("all in all", siege.p99, (2.0 * calm.p99).max(TWICE_FLOOR_MS))],
            Self::TenTimesAtBest => {
                let of = |p99: Option<f64>| p99.expect("a siege that lasts for a round");
                let floor = calm.p99.max(P99_FLOOR_MS);
                vec![
                    ("in the best round", of(account.best_p99()), 10.0 * floor),
                    // Loosely: a slow machine may spoil half of the rounds, but not by so much.
                    ("in the round in the middle", of(account.median_p99()), 30.0 * floor),
                ]
            }
            Self::NoSecondAtBest => {
                let of = |when, p99: Option<f64>, most| p99.map(|p99| (when, p99, most));
                let best = of("in the best round", account.best_p99(), 1_000.0);
                let median = of("in the round in the middle", account.median_p99(), 3_000.0);
                best.into_iter().chain(median).collect()
            }
        };
        for (when, p99, most) in waits {
            assert!(
                p99 <= most,
                "promise 10: {topic}: a p99 of {p99:.2} ms under attack {when}, {:.2} ms when it is calm \
                 ({self:?}); rounds: {:?}",
                calm.p99,
                account.rounds
            );
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attacks: u64 = self.tally.by_kind.values().sum();
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "{attacks} attacks in {seconds:.1} s, {} of which met no node; {} connections taken in; \
             the node used {:.1} s of a processor",
            self.tally.unmet, self.connections, self.processor_seconds
        )?;
        let [before, peak, after, bound] = self.memory.map(|bytes| bytes >> 20);
        let kept = self.kept >> 20;
        let ([files, files_after], [threads, threads_after]) = (self.files, self.threads);
        writeln!(
            f,
            "memory {before} MiB before, {peak} MiB at most, {after} MiB after, {kept} of it messages, \
             bound {bound} MiB; files {files} before, {files_after} after, of {} topics; \
             threads {threads} before, {threads_after} after",
            self.topics
        )?;
        let ByHttp { messages, again, slowest } = self.by_http;
        writeln!(
            f,
            "by HTTP: {messages} messages, each once and in order, {again} requests said again, the slowest \
             {slowest:?}; {} connections refused by address or user",
            self.refused_by_address
        )?;
        for account in &self.honest {
            let [calm, siege] = account.latencies;
            writeln!(
                f,
                "{}: {} messages, each once and in order; milliseconds calm (p50, p99, max): \
                 {:.2} {:.2} {:.2} of {}, under attack: {:.2} {:.2} {:.2} of {}",
                account.topic,
                account.messages,
                calm.p50,
                calm.p99,
                calm.max,
                calm.count,
                siege.p50,
                siege.p99,
                siege.max,
                siege.count
            )?;
            if let (Some(best), Some(median)) = (account.best_p99(), account.median_p99()) {
                let times = |p99: f64| p99 / calm.p99;
                writeln!(
                    f,
                    "{}: the p99 under attack is {:.2} times the calm one; of {} rounds, {:.2} times in the best, \
                     {:.2} times in the middle",
                    account.topic,
                    times(siege.p99),
                    account.rounds.len(),
                    times(best),
                    times(median)
                )?;
            }
        }
        let kinds: Vec<_> =
            self.tally.by_kind.iter().map(|(kind, count)| format!("{kind:?} {count}")).collect();
        write!(f, "{}", kinds.join(", "))
    }
}

/// Whether the system gives huge pages to whoever does not ask for them.
fn huge_pages_for_all() -> bool {
    let told = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    told.is_ok_and(|told| told.contains("[always]"))
}

/// Keeps the processors from resting until it is dropped, and takes none of them from anybody who wants it.
struct Awake(Arc<AtomicBool>);

impl Awake {
    fn keep() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let over = over.clone();
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            });
        }
        Self(over)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A p99 that is no worse than this is nobody's fault on a machine that does other things besides: the time of a thread
/// that does not give way, and of some more.
const P99_FLOOR_MS: f64 = 20.0;
/// A p99 that is no worse than this nobody has to be ashamed of, however calm it was before.
const TWICE_FLOOR_MS: f64 = 3.0;
/// Threads that a runtime may start for files, and end by itself.
const THREADS_MORE: u64 = 64;

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::attacker::honest::Latencies;

    fn account(calm: f64, rounds: &[f64]) -> Account {
        let of = |p99: f64| Latencies { p99, count: 400, ..Latencies::default() };
        let worst = rounds.iter().copied().fold(0.0, f64::max);
        Account {
            topic: "t".to_owned(),
            messages: 1,
            latencies: [of(calm), of(worst)],
            rounds: rounds.iter().copied().map(of).collect(),
        }
    }

    #[test]
    fn a_node_that_lets_honest_clients_wait_in_each_round_is_found_and_a_busy_machine_is_not() {
        let holds = |bound: Bound, account: Account| catch_unwind(|| bound.check(&account)).is_ok();
        let ten = Bound::TenTimesAtBest;
        assert!(holds(ten, account(8.0, &[590.0, 30.0, 2_000.0])));
        assert!(!holds(ten, account(8.0, &[590.0, 210.0, 2_000.0])));
        assert!(!holds(ten, account(8.0, &[610.0, 30.0, 2_000.0])), "the one in the middle");
        assert!(!holds(ten, account(8.0, &[30.0, 610.0])), "of two the worse");
        assert!(holds(ten, account(50.0, &[490.0])) && !holds(ten, account(50.0, &[510.0])));
        assert!(holds(Bound::Twice, account(15.0, &[29.0, 10.0])));
        assert!(!holds(Bound::Twice, account(15.0, &[31.0, 10.0])));
        assert!(
            holds(Bound::Twice, account(0.5, &[2.9])) && !holds(Bound::Twice, account(0.5, &[3.1]))
        );
        let second = Bound::NoSecondAtBest;
        assert!(holds(second, account(8.0, &[990.0, 2_900.0])) && holds(second, account(8.0, &[])));
        assert!(!holds(second, account(8.0, &[1_100.0, 1_100.0])));
        assert!(!holds(second, account(8.0, &[30.0, 3_100.0])));
    }

    #[test]
    fn a_round_in_which_little_was_published_is_not_a_good_one_and_a_siege_without_rounds_none() {
        let ten = Bound::TenTimesAtBest;
        let holds = |counts: &[usize]| {
            let mut account = account(8.0, &vec![5.0; counts.len()]);
            for (round, count) in account.rounds.iter_mut().zip(counts) {
                round.count = *count;
            }
            catch_unwind(|| ten.check(&account)).is_ok()
        };
        assert!(holds(&[400, 210, 380]) && holds(&[400, 0, 380]));
        assert!(!holds(&[400, 0, 150]) && !holds(&[400, 200]), "every other round");
        assert!(!holds(&[0, 0, 0]) && !holds(&[]));
    }
}
