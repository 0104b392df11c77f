//! A stand-in for an OpenMemory server, in both generations of its API.
//!
//! It reproduces what the real servers do to a client, each checked against
//! real ones (v1.3.0 and the main branch of November 2026) with the test
//! `a_real_server_keeps_the_contract`: a record whose simhash equals another's
//! is dropped with `deduplicated`, across users; contents over 200 characters
//! are shortened, metadata is not; salience is OpenMemory's own; lists come
//! newest first; the second generation refuses a foreign `user_id`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use elaoms::clients::Generation;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::DropGuard;
use warp::http::Response;
use warp::{Filter, path};

use crate::fakes::listen;

pub const KEY: &str = "om-key-for-openmemory-0007";
/// What the second generation derives from the key.
const TENANT: &str = "tenant0123456789";

/// A stored record.
#[derive(Clone)]
struct Stored {
    id: String,
    user: String,
    content: String,
    metadata: Value,
    tags: Value,
    created_at: i64,
    deleted: bool,
}

/// What the server does instead of answering well.
#[derive(Clone, Copy, PartialEq, Default)]
pub enum Trouble {
    #[default]
    None,
    /// Every request is answered with this status.
    Status(u16),
    /// 200 with something that is no JSON.
    Nonsense,
    /// No answer for a long time.
    Hangs,
    /// Every so-many-th addition is stored, but answered with 500.
    LosesAnswers(u64),
}

pub struct State {
    generation: Generation,
    records: Vec<Stored>,
    by_simhash: HashMap<u32, usize>,
    by_user: HashMap<String, Vec<usize>>,
    pub trouble: Trouble,
    pub requests: u64,
    additions: u64,
}

/// The running stand-in.
pub struct OpenMemoryStandIn {
    pub addr: SocketAddr,
    pub state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

impl OpenMemoryStandIn {
    pub async fn start(generation: Generation) -> Self {
        let state = State {
            generation,
            records: Vec::new(),
            by_simhash: HashMap::new(),
            by_user: HashMap::new(),
            trouble: Trouble::None,
            requests: 0,
            additions: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let shared = warp::any()
            .map({
                let state = Arc::clone(&state);
                move || Arc::clone(&state)
            })
            .and(warp::header::optional("authorization"));
        let query = warp::query::raw().or(warp::any().map(String::new)).unify();
        let add = path!("memory" / "add")
            .and(warp::post())
            .and(shared.clone())
            .and(warp::body::json())
            .then(async |state, key, body: Value| answer(state, key, move |s| s.add(&body)).await);
        let all = path!("memory" / "all")
            .and(warp::get())
            .and(shared.clone())
            .and(query)
            .then(async |state, key, query: String| {
                answer(state, key, move |s| s.all(&query)).await
            });
        let get = path!("memory" / String)
            .and(warp::get())
            .and(shared.clone())
            .then(async |id: String, state, key| answer(state, key, move |s| s.get(&id)).await);
        let patch = path!("memory" / String)
            .and(warp::patch())
            .and(shared.clone())
            .and(warp::body::json())
            .then(async |id: String, state, key, body: Value| {
                answer(state, key, move |s| s.patch(&id, &body)).await
            });
        let delete = path!("memory" / String)
            .and(warp::delete())
            .and(shared.clone())
            .then(async |id: String, state, key| answer(state, key, move |s| s.remove(&id)).await);
        let user = path!("users" / String / "memories")
            .and(warp::get())
            .and(shared)
            .and(query)
            .then(async |user: String, state, key, query: String| {
                answer(state, key, move |s| s.user(&user, &query)).await
            });
        let routes = add
            .or(all)
            .unify()
            .or(user)
            .unify()
            .or(get)
            .unify()
            .or(patch)
            .unify()
            .or(delete)
            .unify()
            .boxed();
        let (addr, stop) = listen(routes).await;
        Self {
            addr,
            state,
            _stop: stop,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn set_trouble(&self, trouble: Trouble) {
        self.state.lock().unwrap().trouble = trouble;
    }

    /// How many records the server holds.
    pub fn len(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.records.iter().filter(|r| !r.deleted).count()
    }

    /// The metadata of the records of ours that are of this kind.
    pub fn metadata(&self, kind: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let metadata = state.records.iter().map(|r| r.metadata.clone());
        metadata.filter(|m| m["elaoms"] == kind).collect()
    }

    /// Changes the metadata of the records of ours that are of this kind, as
    /// an operator or another program may.
    pub fn edit(&self, kind: &str, change: impl Fn(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        let metadata = state.records.iter_mut().map(|r| &mut r.metadata);
        metadata.filter(|m| m["elaoms"] == kind).for_each(change);
    }

    /// Deletes the records with this metadata, as an operator may.
    pub fn delete(&self, is_wanted: impl Fn(&Value) -> bool) {
        let mut state = self.state.lock().unwrap();
        let wanted = state.records.iter_mut().filter(|r| is_wanted(&r.metadata));
        wanted.for_each(|record| record.deleted = true);
    }

    /// How many requests were made so far.
    pub fn requests(&self) -> u64 {
        self.state.lock().unwrap().requests
    }

    /// Puts a record of the legacy system in place, as if none had looked like it.
    pub fn add_legacy(&self, user: &str, content: &str, metadata: Value) {
        let mut state = self.state.lock().unwrap();
        let user = if state.generation == Generation::First {
            user
        } else {
            TENANT
        };
        state.push(content, user, metadata, json!([]));
    }
}

type Answer = (u16, Value);

async fn answer(
    state: Arc<Mutex<State>>,
    key: Option<String>,
    work: impl FnOnce(&mut State) -> Answer,
) -> Response<String> {
    let trouble = {
        let mut state = state.lock().unwrap();
        state.requests += 1;
        state.trouble
    };
    let respond =
        |status: u16, body: String| Response::builder().status(status).body(body).unwrap();
    match trouble {
        Trouble::Status(status) => return respond(status, json!({"err": "internal"}).to_string()),
        Trouble::Nonsense => return respond(200, "<html>".into()),
        Trouble::Hangs => tokio::time::sleep(Duration::from_secs(30)).await,
        Trouble::None | Trouble::LosesAnswers(_) => {}
    }
    match key.as_deref().and_then(|k| k.strip_prefix("Bearer ")) {
        None => return respond(401, json!({"error": "authentication_required"}).to_string()),
        Some(KEY) => {}
        Some(_) => return respond(403, json!({"error": "invalid_api_key"}).to_string()),
    }
    let (status, body) = work(&mut state.lock().unwrap());
    respond(status, body.to_string())
}

impl State {
    /// The user of a request, as this generation sees it.
    fn user_of(&self, given: Option<&str>) -> Result<String, Answer> {
        match (self.generation, given) {
            (Generation::First, given) => Ok(given.unwrap_or("anonymous").to_owned()),
            (Generation::Second, Some(given)) if given != TENANT => Err((
                403,
                json!({"error": "tenant_mismatch", "message": "user_id does not match"}),
            )),
            (Generation::Second, _) => Ok(TENANT.to_owned()),
        }
    }

    fn add(&mut self, body: &Value) -> Answer {
        if body["content"].as_str().is_none_or(str::is_empty) {
            return (400, json!({"err": "content"}));
        }
        match self.user_of(body["user_id"].as_str()) {
            Ok(user) => {
                let answer = self.store(body, &user);
                self.additions += 1;
                match self.trouble {
                    Trouble::LosesAnswers(nth) if self.additions.is_multiple_of(nth) => {
                        (500, json!({"err": "lost"}))
                    }
                    _ => answer,
                }
            }
            Err(refusal) => refusal,
        }
    }

    fn store(&mut self, body: &Value, user: &str) -> Answer {
        let content = body["content"].as_str().unwrap();
        let simhash = simhash(content);
        if let Some(other) = self.by_simhash.get(&simhash).map(|i| &self.records[*i]) {
            return (
                200,
                json!({"id": other.id, "primary_sector": "semantic", "sectors": ["semantic"], "deduplicated": true}),
            );
        }
        let id = self.push(
            content,
            user,
            body["metadata"].clone(),
            body["tags"].clone(),
        );
        (
            200,
            json!({"id": id, "primary_sector": "semantic", "sectors": ["semantic"], "chunks": 1}),
        )
    }

    fn push(&mut self, content: &str, user: &str, metadata: Value, tags: Value) -> String {
        let position = self.records.len();
        let id = format!("00000000-0000-4000-8000-{position:012}");
        self.by_simhash.entry(simhash(content)).or_insert(position);
        self.by_user
            .entry(user.to_owned())
            .or_default()
            .push(position);
        self.records.push(Stored {
            id: id.clone(),
            user: user.to_owned(),
            content: content.chars().take(200).collect(),
            metadata,
            tags,
            created_at: Timestamp::now().as_millisecond(),
            deleted: false,
        });
        id
    }

    fn get(&self, id: &str) -> Answer {
        match position_of(id).and_then(|i| self.records.get(i)) {
            Some(record) if !record.deleted => (200, shown(record)),
            _ => (404, json!({"err": "nf"})),
        }
    }

    fn patch(&mut self, id: &str, body: &Value) -> Answer {
        if let Err(refusal) = self.user_of(body["user_id"].as_str()) {
            return refusal;
        }
        let found = position_of(id).and_then(|i| self.records.get_mut(i));
        let Some(record) = found.filter(|r| !r.deleted) else {
            return (404, json!({"err": "nf"}));
        };
        if !body["metadata"].is_null() {
            record.metadata = body["metadata"].clone();
        }
        (200, json!({"id": id, "updated": true}))
    }

    fn remove(&mut self, id: &str) -> Answer {
        match position_of(id).and_then(|i| self.records.get_mut(i)) {
            Some(record) if !record.deleted => {
                record.deleted = true;
                (200, json!({"ok": true}))
            }
            _ => (404, json!({"err": "nf"})),
        }
    }

    fn all(&self, query: &str) -> Answer {
        let given = parameter(query, "user_id");
        match self.user_of(given.as_deref()) {
            Ok(_) if given.is_none() && self.generation == Generation::First => {
                let everything = (0..self.records.len()).rev();
                (200, json!({"items": self.page(query, everything)}))
            }
            Ok(user) => (200, json!({"items": self.page_of(&user, query)})),
            Err(refusal) => refusal,
        }
    }

    fn user(&self, user: &str, query: &str) -> Answer {
        // The real server decodes path segments.
        let user = percent_decoded(user);
        match self.user_of(Some(&user)) {
            Ok(user) => (
                200,
                json!({"user_id": user, "items": self.page_of(&user, query)}),
            ),
            Err(refusal) => refusal,
        }
    }

    fn page_of(&self, user: &str, query: &str) -> Vec<Value> {
        let positions = self
            .by_user
            .get(user)
            .map(Vec::as_slice)
            .unwrap_or_default();
        self.page(query, positions.iter().rev().copied())
    }

    fn page(&self, query: &str, newest_first: impl Iterator<Item = usize>) -> Vec<Value> {
        let number = |name, default| parameter(query, name).map_or(default, |n| n.parse().unwrap());
        let (limit, offset) = (number("l", 100), number("u", 0));
        newest_first
            .filter(|i| !self.records[*i].deleted)
            .skip(offset)
            .take(limit)
            .map(|i| shown(&self.records[i]))
            .collect()
    }
}

fn position_of(id: &str) -> Option<usize> {
    id.rsplit('-').next()?.parse().ok()
}

fn shown(record: &Stored) -> Value {
    json!({
        "id": record.id, "content": record.content, "tags": record.tags, "metadata": record.metadata,
        "created_at": record.created_at, "updated_at": record.created_at, "last_seen_at": record.created_at,
        "salience": 0.4, "decay_lambda": 0.005, "primary_sector": "semantic", "version": 1, "user_id": record.user,
    })
}

fn parameter(query: &str, name: &str) -> Option<String> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        .map(percent_decoded)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' && tail.len() >= 2 {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Of the set of words, as the real one: shifts wrap at 32 bits, so half of
/// its 64 bits repeat the others.
fn simhash(text: &str) -> u32 {
    let words: std::collections::BTreeSet<String> = text
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| w.len() > 1)
        .map(str::to_owned)
        .collect();
    let mut counts = [0i32; 32];
    for word in &words {
        let hash = word.encode_utf16().fold(0i32, |h, c| {
            (h << 5).wrapping_sub(h).wrapping_add(i32::from(c))
        });
        for (i, count) in counts.iter_mut().enumerate() {
            *count += if hash & (1 << i) == 0 { -1 } else { 1 };
        }
    }
    counts.iter().enumerate().fold(
        0,
        |hash, (i, count)| if *count > 0 { hash | 1 << i } else { hash },
    )
}
