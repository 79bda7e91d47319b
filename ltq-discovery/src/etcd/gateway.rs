//! etcd's JSON gateway: what is asked of it, one request at a time.

use std::time::Duration;

use hyper::{StatusCode, header::HeaderValue};
use ltq_core::Address;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;
use tracing::warn;

use super::{
    Config,
    http::{Http, HttpError, Lines},
    json::{
        Done, Event, Failed, Kept, KeyValue, Nothing, Ranged, Streamed, Token, Watched, base64,
    },
    keys::end_of,
};

/// Why etcd did not do something, or did it and could not say so.
#[derive(Debug, Error)]
pub(super) enum GatewayError {
    #[error("{doing}: {source}")]
    Http { doing: &'static str, source: HttpError },
    #[error("{doing}: no answer within {after:?}")]
    Silent { doing: &'static str, after: Duration },
    #[error("{doing}: the answer is not etcd's: {source}")]
    Garbage { doing: &'static str, source: serde_json::Error },
    #[error("{doing}: the answer is HTTP's {status} and not etcd's")]
    Status { doing: &'static str, status: StatusCode },
    #[error("{doing}: {message} (code {code})")]
    Failed { doing: &'static str, code: i64, message: String },
    #[error("watching: what changed since is compacted; revision {0} is the first that there is")]
    Compacted(i64),
    #[error("watching: etcd ended it: {0}")]
    Ended(String),
}

impl GatewayError {
    /// Whether asking again is of no use as long as nobody changes anything.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Failed { code, .. } => [INVALID_ARGUMENT, PERMISSION_DENIED].contains(code),
            Self::Http { source: HttpError::Transport(error), .. } => {
                matches!(error, ltq_core::TransportError::Address { .. })
            }
            _ => false,
        }
    }

    pub(super) const fn is_too_long(&self) -> bool {
        matches!(self, Self::Http { source: HttpError::TooLong(_), .. })
    }

    /// Whether a lease was named that is none.
    pub(super) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed { code: NOT_FOUND, .. })
    }
}

/// Keys that are asked for.
pub(super) struct Range<'a> {
    pub(super) from: &'a [u8],
    /// Behind the last one; empty for a single key.
    pub(super) end: &'a [u8],
    pub(super) limit: usize,
    /// As they were then; 0 for now.
    pub(super) revision: i64,
    pub(super) keys_only: bool,
}

/// A condition of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) enum If {
    /// The key is not there.
    Absent,
    /// It was changed last by this revision.
    UnchangedSince(i64),
    /// It goes with this lease.
    GoesWith(i64),
}

/// What a transaction does.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put { key: String, value: Vec<u8>, lease: i64 },
    Delete { key: String },
}

impl Op {
    /// What it takes of a request.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Put { key, value, lease } => json!({ "request_put": {
                "key": base64(key.as_bytes()), "value": base64(value), "lease": lease.to_string(),
            }}),
            Self::Delete { key } => {
                json!({ "request_delete_range": { "key": base64(key.as_bytes()) } })
            }
        }
    }
}

/// A connection to one member of etcd.
pub(super) struct Gateway {
    http: Http,
    address: Address,
    token: Option<HeaderValue>,
    timeout: Duration,
}

impl Gateway {
    /// Connects, and says who asks if that is set.
    pub(super) async fn connect(config: &Config, address: &Address) -> Result<Self, GatewayError> {
        let doing = "connecting";
        let connecting = Http::connect(&*config.transport, address);
        let http = within(doing, config.timeout, connecting).await?;
        let address = address.clone();
        let mut gateway = Self { http, address, token: None, timeout: config.timeout };
        if let Some((name, password)) = &config.user {
            let doing = "authenticating";
            let asked = json!({ "name": name, "password": password });
            match gateway.ask(doing, "/v3/auth/authenticate", &asked).await {
                Ok(Token { token }) => gateway.token = header(&token),
                // An etcd that asks nobody who they are.
                Err(GatewayError::Failed { code: FAILED_PRECONDITION, message, .. }) => {
                    warn!(endpoint = %gateway.address, message, "etcd does not want to know the user that is set");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(gateway)
    }

    pub(super) fn address(&self) -> Address {
        self.address.clone()
    }

    /// Makes a lease of this number, of at least a second.
    pub(super) async fn grant(&mut self, lease: i64, lasts: Duration) -> Result<(), GatewayError> {
        let seconds = lasts.as_millis().div_ceil(1_000);
        let asked = json!({ "ID": lease.to_string(), "TTL": seconds.to_string() });
        self.ask("granting a lease", "/v3/lease/grant", &asked).await.map(|Nothing {}| ())
    }

    /// Makes a lease last on. `false` if it is gone.
    pub(super) async fn keep(&mut self, lease: i64) -> Result<bool, GatewayError> {
        let doing = "keeping a lease";
        let asked = json!({ "ID": lease.to_string() });
        match self.ask::<Streamed<Kept>>(doing, "/v3/lease/keepalive", &asked).await {
            Ok(Streamed { result, error: None }) => Ok(result.unwrap_or_default().ttl > 0),
            Ok(Streamed { error: Some(error), .. }) => match failed(doing, error) {
                error if error.is_not_found() => Ok(false),
                error => Err(error),
            },
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends a lease, and all keys that go with it.
    pub(super) async fn revoke(&mut self, lease: i64) -> Result<(), GatewayError> {
        let asked = json!({ "ID": lease.to_string() });
        match self.ask("revoking a lease", "/v3/lease/revoke", &asked).await {
            Ok(Nothing {}) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Keys as they are at one revision.
    pub(super) async fn range(&mut self, range: &Range<'_>) -> Result<Ranged, GatewayError> {
        let Range { from, end, limit, revision, keys_only } = range;
        let asked = json!({
            "key": base64(from), "range_end": base64(end), "limit": limit.to_string(),
            "revision": revision.to_string(), "keys_only": keys_only,
        });
        self.ask("reading keys", "/v3/kv/range", &asked).await
    }

    /// One key, if it is there.
    pub(super) async fn get(&mut self, key: &str) -> Result<Option<KeyValue>, GatewayError> {
        let from = key.as_bytes();
        let range = Range { from, end: b"", limit: 1, revision: 0, keys_only: false };
        Ok(self.range(&range).await?.kvs.pop())
    }

    /// That it answers, and as of now: a member that others do not hear does not.
    pub(super) async fn probe(&mut self, key: &str) -> Result<(), GatewayError> {
        let asked = json!({ "key": base64(key.as_bytes()), "count_only": true });
        self.ask("looking whether etcd is there", "/v3/kv/range", &asked).await.map(|Nothing {}| ())
    }

    /// Does all of it if the key is so, or nothing. Says whether.
    pub(super) async fn when(
        &mut self,
        key: &str,
        is: Option<If>,
        ops: &[Op],
    ) -> Result<bool, GatewayError> {
        let key = base64(key.as_bytes());
        let compare = match is {
            None => json!([]),
            Some(If::Absent) => {
                json!([{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }])
            }
            Some(If::UnchangedSince(revision)) => json!([{
                "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
            }]),
            Some(If::GoesWith(lease)) => {
                json!([{ "key": key, "target": "LEASE", "result": "EQUAL", "lease": lease.to_string() }])
            }
        };
        let ops: Vec<_> = ops.iter().map(Op::json).collect();
        let asked = json!({ "compare": compare, "success": ops });
        let Done { succeeded } = self.ask("writing keys", "/v3/kv/txn", &asked).await?;
        Ok(succeeded)
    }

    /// What becomes of the keys that begin so, from a revision on. Uses the connection up.
    pub(super) async fn watch(self, prefix: &str, from: i64) -> Result<Changes, GatewayError> {
        let doing = "watching";
        let asked = json!({ "create_request": {
            "key": base64(prefix.as_bytes()), "range_end": base64(&end_of(prefix)),
            "start_revision": from.to_string(), "fragment": true,
        }});
        let (http, token, after) = (self.http, self.token, self.timeout);
        let asked = asked.to_string().into_bytes();
        let begin = http.listen("/v3/watch", token.as_ref(), asked, ANSWER_BYTES_MAX);
        let (status, lines) = within(doing, after, begin).await?;
        let mut changes = Changes { lines };
        if status != StatusCode::OK {
            let line = within(doing, after, changes.lines.next()).await?.unwrap_or_default();
            return Err(not_done(doing, status, &line));
        }
        // Its first line says that it is there, or why it is not.
        let first = timeout(after, changes.next()).await;
        let events = first.map_err(|_| GatewayError::Silent { doing, after })??;
        match events.is_empty() {
            true => Ok(changes),
            false => Err(GatewayError::Ended("it told of changes before it began".to_owned())),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        doing: &'static str,
        path: &str,
        asked: &Value,
    ) -> Result<T, GatewayError> {
        let asked = asked.to_string().into_bytes();
        let asking = self.http.ask(path, self.token.as_ref(), asked, ANSWER_BYTES_MAX);
        let (status, answer) = within(doing, self.timeout, asking).await?;
        if status != StatusCode::OK {
            return Err(not_done(doing, status, &answer));
        }
        serde_json::from_slice(&answer).map_err(|source| GatewayError::Garbage { doing, source })
    }
}

/// What becomes of keys.
pub(super) struct Changes {
    lines: Lines,
}

impl Changes {
    /// What happened next; nothing, where etcd only said that it is there. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, GatewayError> {
        let doing = "watching";
        let line =
            self.lines.next().await.map_err(|source| GatewayError::Http { doing, source })?;
        let Some(line) = line else { return Err(GatewayError::Ended("without a word".to_owned())) };
        told(&line)
    }
}

/// What a line of a watch tells.
fn told(line: &[u8]) -> Result<Vec<Event>, GatewayError> {
    let doing = "watching";
    let streamed: Streamed<Watched> =
        serde_json::from_slice(line).map_err(|source| GatewayError::Garbage { doing, source })?;
    if let Some(error) = streamed.error {
        return Err(failed(doing, error));
    }
    let watched = streamed.result.unwrap_or_default();
    match watched {
        Watched { compact_revision: 1.., .. } => {
            Err(GatewayError::Compacted(watched.compact_revision))
        }
        Watched { canceled: true, cancel_reason, .. } => Err(GatewayError::Ended(cancel_reason)),
        Watched { created: true, events, .. } | Watched { events, .. } => Ok(events),
    }
}

async fn within<T>(
    doing: &'static str,
    after: Duration,
    asking: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, GatewayError> {
    match timeout(after, asking).await {
        Ok(answered) => answered.map_err(|source| GatewayError::Http { doing, source }),
        Err(_) => Err(GatewayError::Silent { doing, after }),
    }
}

/// What an answer says that is none.
fn not_done(doing: &'static str, status: StatusCode, answer: &[u8]) -> GatewayError {
    match serde_json::from_slice::<Failed>(answer) {
        Ok(error) if error.code() != 0 => failed(doing, error),
        _ => GatewayError::Status { doing, status },
    }
}

fn failed(doing: &'static str, error: Failed) -> GatewayError {
    let code = error.code();
    let mut message = error.message;
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
    }
    GatewayError::Failed { doing, code, message }
}

fn header(token: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(token).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The longest answer, and the longest line of a watch. What etcd takes in with one request has 1.5 MiB by
/// default, and what it answers with at once a page of those.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const MESSAGE_BYTES_MAX: usize = 1_024;

// Codes of gRPC.
const INVALID_ARGUMENT: i64 = 3;
const NOT_FOUND: i64 = 5;
const PERMISSION_DENIED: i64 = 7;
const FAILED_PRECONDITION: i64 = 9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::json::EventKind, *};

    #[test]
    fn lines_of_a_watch_are_read_as_etcd_writes_them() {
        let created = br#"{"result":{"header":{"revision":"2"},"created":true}}"#;
        assert!(told(created).unwrap().is_empty());
        let put = br#"{"result":{"events":[{"kv":{"key":"YQ==","mod_revision":"2","value":"Yg==","lease":"77"}},
            {"type":"DELETE","kv":{"key":"YQ==","mod_revision":3}}]}}"#;
        let events = told(put).unwrap();
        let [put, delete] = &events[..] else { panic!("{events:?}") };
        assert_eq!(
            (&put.kind, &*put.kv.key, &*put.kv.value),
            (&EventKind::Put, &b"a"[..], &b"b"[..])
        );
        assert_eq!((put.kv.lease, put.kv.mod_revision), (77, 2));
        assert_eq!((&delete.kind, delete.kv.mod_revision), (&EventKind::Delete, 3));
        let compacted = br#"{"result":{"canceled":true,"compact_revision":"9"}}"#;
        assert!(matches!(told(compacted), Err(GatewayError::Compacted(9))));
        let ended = br#"{"result":{"canceled":true,"cancel_reason":"permission denied"}}"#;
        assert!(told(ended).unwrap_err().to_string().contains("permission denied"));
        let failed = br#"{"error":{"grpc_code":14,"http_code":503,"message":"no leader"}}"#;
        assert!(told(failed).unwrap_err().to_string().ends_with("no leader (code 14)"));
    }

    #[test]
    fn answers_that_are_not_etcds_are_told_by_name() {
        let doing = "reading keys";
        let page = not_done(doing, StatusCode::BAD_GATEWAY, b"<html>").to_string();
        assert_eq!(page, "reading keys: the answer is HTTP's 502 Bad Gateway and not etcd's");
        let error = br#"{"error":"no such lease","message":"no such lease","code":5}"#;
        assert!(not_done(doing, StatusCode::NOT_FOUND, error).is_not_found());
        let long = json!({ "message": "\u{fc}".repeat(5_000), "code": 2 }).to_string();
        let error = not_done(doing, StatusCode::NOT_FOUND, long.as_bytes()).to_string();
        assert!(error.len() < 1_100, "{}", error.len());
        for bad in ["", "{", "[]", "7", r#"{"result":7}"#, r#"{"result":{"events":{}}}"#] {
            assert!(matches!(told(bad.as_bytes()), Err(GatewayError::Garbage { .. })), "{bad}");
        }
    }

    /// JSON as it may come, with the words that mean something here.
    fn json_of_any_kind() -> impl Strategy<Value = Value> {
        const WORDS: &[&str] = &[
            "result",
            "error",
            "events",
            "kv",
            "key",
            "value",
            "lease",
            "type",
            "PUT",
            "DELETE",
            "created",
            "canceled",
            "compact_revision",
            "code",
            "message",
            "YQ==",
        ];
        let text =
            prop_oneof![proptest::sample::select(WORDS).prop_map(str::to_owned), "\\PC{0,8}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(|number| Value::from(number.to_string())),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(text.clone(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_answer_panics(json in json_of_any_kind(), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for answer in [json.to_string().as_bytes(), &bytes] {
                let _ = told(answer);
                let _ = not_done("", StatusCode::OK, answer);
                let _ = serde_json::from_slice::<Ranged>(answer);
                let _ = serde_json::from_slice::<Streamed<Kept>>(answer);
                let _ = serde_json::from_slice::<Done>(answer);
                let _ = serde_json::from_slice::<Token>(answer);
            }
        }
    }
}
