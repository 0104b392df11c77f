//! The open connections: how many there may be, how long one may be silent,
//! and which one gives way to a new one.
//!
//! A stranger costs little and is first to go. A connection is *proven* once a
//! request on it had a good key or signature, and so is its peer, for a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use warp::http::HeaderMap;

use super::forwarded::TrustedProxies;
use super::peers::{Peer, Peers};
use crate::metric_definitions::{Dropped, Metrics};

/// How many connections there may be, and how patient the listener is.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections at a time.
    pub connections: usize,
    /// Most connections at a time of a peer that has proven nothing: more than
    /// a proxy opens before its first ring is answered.
    pub per_stranger: usize,
    /// How long a connection may take for the header of its first request and,
    /// if it has proven nothing, of each further one.
    pub patience: Duration,
    /// How long a proven one may take for a further header: longer than proxies
    /// keep idle connections (60 s is usual), so that none sends a ring into one
    /// that just closes.
    pub proven_patience: Duration,
}

impl Limits {
    /// For a listener that strangers reach. A quarter of the files that the
    /// process may open is left for its own.
    #[must_use]
    pub fn public() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let files = files
            .current
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Self {
            connections: 8_192.min(files / 4 * 3),
            per_stranger: 1_024,
            patience: Duration::from_secs(5),
            proven_patience: Duration::from_secs(75),
        }
    }

    /// For a listener that only this machine, or its operators, reach.
    #[must_use]
    pub fn local() -> Self {
        let public = Self::public();
        Self {
            per_stranger: public.connections,
            patience: public.proven_patience,
            ..public
        }
    }
}

/// What a listener knows of its connections.
pub struct Connections {
    limits: Limits,
    proxies: TrustedProxies,
    peers: Peers,
    table: Mutex<Table>,
    /// Times are kept as nanoseconds since this.
    started: Instant,
    metrics: Option<Arc<Metrics>>,
}

#[derive(Default)]
struct Table {
    open: HashMap<Peer, Vec<Arc<Connection>>>,
    count: usize,
}

/// One connection.
pub(super) struct Connection {
    all: Arc<Connections>,
    peer: Peer,
    /// It comes from a trusted proxy: others' requests come through it.
    is_proxy: bool,
    /// It or its peer is proven.
    proven: AtomicBool,
    /// A request on it had a good key or signature.
    has_shown: AtomicBool,
    /// The header of a request has come.
    has_asked: AtomicBool,
    /// Since when it has been silent, or [`BUSY`].
    silent_since: AtomicU64,
    give_way: Notify,
}

/// A request is being answered.
const BUSY: u64 = u64::MAX;

/// Who sends a request, and over what.
#[derive(Clone)]
pub(super) struct Client {
    connection: Arc<Connection>,
    /// Another than the connection's peer if a trusted proxy says so.
    pub peer: Peer,
}

/// A connection's place in the table, until it is dropped.
pub(super) struct Admitted(pub Arc<Connection>);

/// Why a connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// No request came in time.
    Silent,
    /// Another needed its place.
    GiveWay,
}

impl Connections {
    #[must_use]
    pub fn new(
        limits: Limits,
        proxies: TrustedProxies,
        metrics: Option<Arc<Metrics>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            proxies,
            peers: Peers::default(),
            table: Mutex::default(),
            started: Instant::now(),
            metrics,
        })
    }

    /// Takes a new connection in, if need be in place of one that has been
    /// silent. `None` if it has to be refused.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let peer = Peer::from(address);
        let is_proxy = self.proxies.contains(address);
        let proven = is_proxy || self.peers.is_proven(peer);
        let mut table = self.table();
        if !proven {
            let own = table.open.get(&peer).map_or(&[][..], Vec::as_slice);
            if own.len() >= self.limits.per_stranger {
                // Of those under way none is taken: behind a proxy that is not
                // known as one they may be anybody's, and bodies have bounds of
                // their own.
                if let Some(oldest) = longest_silent(own.iter(), 1).pop() {
                    self.close(&mut table, &oldest, Dropped::Peer);
                }
            }
        }
        if table.count >= self.limits.connections {
            self.make_room(&mut table);
        }
        if table.count >= self.limits.connections {
            self.count(Dropped::Full);
            return None;
        }
        let connection = Arc::new(Connection {
            all: Arc::clone(self),
            peer,
            is_proxy,
            proven: AtomicBool::new(proven),
            has_shown: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            silent_since: AtomicU64::new(self.now()),
            give_way: Notify::new(),
        });
        let own = table.open.entry(peer).or_default();
        own.push(Arc::clone(&connection));
        table.count += 1;
        self.show(table.count);
        Some(Admitted(connection))
    }

    /// The process may open no more files: some connections are closed.
    pub(super) fn out_of_files(&self) {
        self.make_room(&mut self.table());
    }

    /// Closes the connections that have been silent longest: a few at once, so
    /// that a flood does not have the whole table looked at for each of its own.
    fn make_room(&self, table: &mut Table) {
        let some = 1 + table.count / 128;
        for silent in longest_silent(table.open.values().flatten(), some) {
            self.close(table, &silent, Dropped::Full);
        }
    }

    fn close(&self, table: &mut Table, connection: &Arc<Connection>, reason: Dropped) {
        connection.give_way.notify_one();
        table.remove(connection);
        self.count(reason);
    }

    fn count(&self, reason: Dropped) {
        if let Some(metrics) = &self.metrics {
            metrics.connections_dropped.get(reason).increment(1);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn show(&self, count: usize) {
        if let Some(metrics) = &self.metrics {
            metrics.connections.set(count as f64);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(BUSY - 1)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, connection: &Arc<Connection>) {
        let Some(own) = self.open.get_mut(&connection.peer) else {
            return;
        };
        let Some(place) = own.iter().position(|c| Arc::ptr_eq(c, connection)) else {
            return;
        };
        own.swap_remove(place);
        if own.is_empty() {
            self.open.remove(&connection.peer);
        }
        self.count -= 1;
    }
}

/// Those that have been silent longest, up to `most`; if there is a stranger
/// among the silent, strangers alone.
fn longest_silent<'a>(
    connections: impl Iterator<Item = &'a Arc<Connection>>,
    most: usize,
) -> Vec<Arc<Connection>> {
    let mut silent: Vec<_> = connections
        .map(|c| (c.is_proven(), c.silent_since.load(Ordering::Relaxed), c))
        .filter(|(_, since, _)| *since != BUSY)
        .collect();
    if silent.len() > most {
        silent.select_nth_unstable_by_key(most, |(proven, since, _)| (*proven, *since));
        silent.truncate(most);
    }
    if silent.iter().any(|(proven, ..)| !proven) {
        silent.retain(|(proven, ..)| !proven);
    }
    silent.into_iter().map(|(.., c)| Arc::clone(c)).collect()
}

impl Connection {
    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// A request's header is complete: who sends it.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap) -> Client {
        self.silent_since.store(BUSY, Ordering::Relaxed);
        self.has_asked.store(true, Ordering::Relaxed);
        let forwarded = self.is_proxy.then(|| self.all.proxies.client(headers));
        Client {
            connection: Arc::clone(self),
            peer: forwarded.flatten().map_or(self.peer, Peer::from),
        }
    }

    /// The answer is ready.
    pub fn end(&self) {
        self.silent_since.store(self.all.now(), Ordering::Relaxed);
    }

    /// Returns when the connection is to be closed.
    pub async fn over(&self) -> Close {
        tokio::select! {
            () = self.give_way.notified() => Close::GiveWay,
            () = self.patience() => {
                if !(self.is_proven() && self.has_asked.load(Ordering::Relaxed)) {
                    self.all.count(Dropped::Silent);
                }
                Close::Silent
            }
        }
    }

    /// Looks now and then, instead of being told of each request.
    async fn patience(&self) {
        let Limits {
            patience,
            proven_patience,
            ..
        } = self.all.limits;
        loop {
            let since = self.silent_since.load(Ordering::Relaxed);
            // Whoever connects has something to ask.
            let may_pause = self.has_asked.load(Ordering::Relaxed);
            let patience = if may_pause && self.is_proven() {
                proven_patience
            } else {
                patience
            };
            let now = Instant::now();
            let end = if since == BUSY {
                now + patience
            } else {
                self.all.started + Duration::from_nanos(since) + patience
            };
            if end > now {
                sleep_until(end).await;
            } else if may_pause && !self.is_proven() && self.all.peers.is_proven(self.peer) {
                // A proxy's connection that has carried no ring yet.
                self.proven.store(true, Ordering::Relaxed);
            } else {
                return;
            }
        }
    }
}

impl Client {
    /// The request had a good key or signature. On a connection that has shown
    /// one before this is one look at a flag.
    pub fn prove(&self) {
        let connection = &self.connection;
        if connection.is_proxy {
            connection.all.peers.prove(self.peer);
        } else if !connection.has_shown.load(Ordering::Relaxed) {
            connection.has_shown.store(true, Ordering::Relaxed);
            connection.proven.store(true, Ordering::Relaxed);
            connection.all.peers.prove(self.peer);
        }
    }

    pub fn is_proven(&self) -> bool {
        let connection = &self.connection;
        (connection.is_proven() && !connection.is_proxy)
            || connection.all.peers.is_proven(self.peer)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let connection = &self.0;
        let all = &connection.all;
        // An hour from its end, not from its beginning.
        if connection.has_shown.load(Ordering::Relaxed) {
            all.peers.prove(connection.peer);
        }
        let mut table = all.table();
        table.remove(connection);
        all.show(table.count);
    }
}
