//! The report of a check, for people and for programs.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use bytesize::ByteSize;
use ltq_core::model::{Misfit, keys::Key};
use ltq_store::{CheckReport, Damage, Loss};
use serde_json::{Value, json};

use super::{check, mend};

/// What was found in a data directory.
pub(super) struct Checked {
    pub(super) report: CheckReport,
    pub(super) misfits: Vec<Misfit>,
    pub(super) mended: Option<Mended>,
}

/// What was done about it.
pub(super) struct Mended {
    /// The folder of what was set aside.
    pub(super) folder: String,
    pub(super) set_aside: Vec<String>,
    /// Whether nothing was found afterwards.
    pub(super) clean: bool,
}

impl Checked {
    pub(super) fn is_clean(&self) -> bool {
        check::is_clean(&self.report) && self.misfits.is_empty()
    }

    /// In one line.
    pub(super) fn summary(&self) -> String {
        if let Some(refused) = &self.report.refused {
            return format!("a node would not start: {refused}");
        }
        let (places, lost) = (self.report.damage.len() + self.misfits.len(), self.lost());
        let places = counted(places as u64, "place is", "places are");
        let messages = counted(lost, "message is", "messages are");
        format!("{places} damaged, {messages} lost")
    }

    fn lost(&self) -> u64 {
        self.report.lost_records()
    }

    /// The report as text.
    pub(super) fn words(&self, dir: &Path) -> String {
        let mut text = String::new();
        self.write(&mut text, dir).unwrap_or_default();
        text.truncate(text.trim_end().len());
        text
    }

    fn write(&self, text: &mut String, dir: &Path) -> std::fmt::Result {
        let report = &self.report;
        let (bytes, held) = report.bytes();
        let messages = counted(report.records, "message", "messages");
        let topics = counted(report.logs.len() as u64, "topic", "topics");
        writeln!(text, "{}: {topics}, {messages}", dir.display())?;
        let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for file in &report.files {
            let (count, bytes) = kinds.entry(file.kind.word()).or_default();
            (*count, *bytes) = (*count + 1, *bytes + file.bytes);
        }
        let kinds = kinds
            .iter()
            .map(|(kind, (count, bytes))| format!("{count} {kind} ({})", ByteSize(*bytes)));
        let kinds: Vec<_> = kinds.collect();
        let (all, held) = (ByteSize(bytes), ByteSize(held));
        if !kinds.is_empty() {
            writeln!(text, "read {all}, of which {held} hold something: {}", kinds.join(", "))?;
        }
        for damage in &report.damage {
            writeln!(text, "{}", sentence(damage, report.refused.is_some()))?;
        }
        for misfit in &self.misfits {
            let done = if misfit.mended.is_some() { "replaced" } else { "removed" };
            writeln!(
                text,
                "{}: {}; a repair has it {done}",
                subject(&misfit.subject),
                misfit.what
            )?;
        }
        for known in &report.known_losses {
            let (log, from, until) = (&known.log, known.from, known.until);
            let range = range(from.0, until.0);
            writeln!(text, "topic {log}, {range}: found lost before ({})", known.what)?;
        }
        if let Some((file, position)) = &report.torn_end {
            writeln!(
                text,
                "{file}, byte {position}: what ends the journal was never confirmed to be on the \
                 device, or is damaged; nothing can tell"
            )?;
        }
        match &self.mended {
            Some(mended) => {
                writeln!(text, "mended: {}", self.summary())?;
                for path in &mended.set_aside {
                    writeln!(text, "set aside: {}/{path}", mended.folder)?;
                }
                if !self.misfits.is_empty() {
                    writeln!(text, "set aside: {}/{}", mended.folder, mend::VALUES)?;
                }
                Ok(())
            }
            None if self.is_clean() => writeln!(text, "nothing is damaged"),
            None => Ok(()),
        }
    }

    /// The report as an object.
    pub(super) fn json(&self, dir: &Path) -> Value {
        let report = &self.report;
        let file = |file: &ltq_store::CheckedFile| {
            let kind = file.kind.word();
            json!({ "file": file.path, "kind": kind, "bytes": file.bytes, "checked": file.checked })
        };
        let topic = |info: &ltq_core::LogInfo| {
            let (first, end) = (info.bounds.first, info.bounds.end);
            json!({ "topic": info.log, "first": first, "end": end })
        };
        let known = |known: &ltq_store::KnownLoss| {
            json!({
                "topic": known.log,
                "from": known.from,
                "until": known.until,
                "file": known.file,
                "position": known.position,
                "what": known.what,
            })
        };
        // Only a store that checks itself tells of its files.
        let of_files = |bytes: u64| (!report.files.is_empty()).then_some(bytes);
        let closed_in_order = (!report.files.is_empty()).then_some(report.closed_in_order);
        let (bytes, checked) = report.bytes();
        json!({
            "data_dir": dir,
            "clean": self.is_clean(),
            "bytes": of_files(bytes),
            "bytes_checked": of_files(checked),
            "messages": report.records,
            "messages_lost": self.lost(),
            "closed_in_order": closed_in_order,
            "topics": report.logs.iter().map(topic).collect::<Vec<_>>(),
            "files": report.files.iter().map(file).collect::<Vec<_>>(),
            "damage": report.damage.iter().map(damage_json).collect::<Vec<_>>(),
            "values": self.misfits.iter().map(misfit_json).collect::<Vec<_>>(),
            "known_losses": report.known_losses.iter().map(known).collect::<Vec<_>>(),
            "torn_end": report.torn_end.as_ref().map(|(file, position)| {
                json!({ "file": file, "position": position })
            }),
            "refused": report.refused.as_ref().map(ToString::to_string),
            "mended": self.mended.as_ref().map(|mended| {
                json!({
                    "folder": mended.folder,
                    "set_aside": mended.set_aside,
                    "clean": mended.clean,
                })
            }),
        })
    }
}

/// `refused`: what stands elsewhere too may be damaged there as well.
fn sentence(damage: &Damage, refused: bool) -> String {
    let Damage { file, position, what, loss } = damage;
    let loss = match loss {
        Loss::Records { log, from, until } => {
            format!("topic {log}, {}: lost", range(from.0, until.0))
        }
        Loss::Values(count) => {
            format!("{} lost", counted(*count, "change of a value is", "changes of values are"))
        }
        Loss::Batches(count) => {
            format!("what {} is lost", counted(*count, "commit did", "commits did"))
        }
        Loss::Unknown => return format!("{file}: {what}"),
        _ if refused => return format!("{file}, byte {position}: {what}"),
        _ => "nothing is lost".to_owned(),
    };
    format!("{file}, byte {position}: {what}; {loss}")
}

fn damage_json(damage: &Damage) -> Value {
    let Damage { file, position, what, loss } = damage;
    let mut object = json!({ "file": file, "position": position, "what": what });
    let more = match loss {
        Loss::Records { log, from, until } => {
            json!({ "topic": log, "from": from, "until": until })
        }
        Loss::Values(values) => json!({ "values_lost": values }),
        Loss::Batches(batches) => json!({ "commits_lost": batches }),
        Loss::Unknown => json!({ "lost": "unknown" }),
        _ => json!({}),
    };
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

fn misfit_json(misfit: &Misfit) -> Value {
    let name = match &misfit.subject {
        Key::Channel(_, channel) => json!({ "channel": channel }),
        Key::Producer(_, producer) => json!({ "producer": producer }),
        Key::Topic(_) | Key::Marks(_) => json!({}),
    };
    let mut object = json!({
        "key": String::from_utf8_lossy(&misfit.key),
        "topic": misfit.subject.topic(),
        "what": misfit.what,
    });
    if let (Some(object), Value::Object(name)) = (object.as_object_mut(), name) {
        object.extend(name);
    }
    object
}

fn subject(key: &Key) -> String {
    match key {
        Key::Topic(topic) => format!("topic {topic}"),
        Key::Marks(topic) => format!("the marks of topic {topic}"),
        Key::Channel(topic, channel) => format!("channel {channel} of topic {topic}"),
        Key::Producer(topic, producer) => format!("producer {producer} of topic {topic}"),
    }
}

fn range(from: u64, until: u64) -> String {
    match until.saturating_sub(from) {
        1 => format!("offset {from}"),
        _ => format!("offsets {from} to {}", until.saturating_sub(1)),
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
