//! Who holds what, and who gives way: the rules, without waiting.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::progress::Progress;
use crate::http::peers::Peer;

/// Most bodies at a time of a peer that has proven nothing.
const PER_STRANGER: usize = 256;
/// Large bodies at a time.
const MAX_LARGE: usize = 256;
/// Memory for bodies under way, in multiples of the largest body.
const MEMORY: usize = 4;
/// Disk for recordings under way, in multiples of the largest body.
const DISK: usize = 16;
#[derive(Default)]
pub(super) struct Table {
    next: u64,
    held: HashMap<u64, Entry>,
    large: usize,
    /// Large bodies of proven peers that wait for a place: they come first.
    pub proven_waiting: usize,
    holding: Holding,
    /// Of that, what is held for peers that have proven nothing.
    by_strangers: Holding,
    strangers: HashMap<Peer, Stranger>,
}

#[derive(Default)]
struct Stranger {
    bodies: usize,
    large: usize,
    holding: Holding,
}

/// What is held for bodies, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::http) struct Holding {
    pub memory: usize,
    pub disk: usize,
}

struct Entry {
    peer: Peer,
    proven: bool,
    large: bool,
    holding: Holding,
    progress: Arc<Progress>,
}

/// There is no room for a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Full;

impl Table {
    /// Takes a body in; its name here.
    pub fn enter(
        &mut self,
        peer: Peer,
        proven: bool,
        progress: Arc<Progress>,
        most: usize,
        now: u64,
    ) -> Result<u64, Full> {
        let own = self.strangers.get(&peer).map_or(0, |s| s.bodies);
        if !proven && own >= PER_STRANGER {
            // However short its pause: the newest may be the genuine one behind a
            // proxy, and who gets on pauses less than those who do not.
            self.evict(now, |e| {
                let own = !e.proven && e.peer == peer;
                (own && e.progress.pause(now) > 0).then_some(0)
            })?;
        } else if self.held.len() >= most {
            self.evict(now, |e| e.rank(proven, false, now))?;
        }
        let id = self.next;
        self.next += 1;
        if !proven {
            self.strangers.entry(peer).or_default().bodies += 1;
        }
        let entry = Entry {
            peer,
            proven,
            large: false,
            holding: Holding::default(),
            progress,
        };
        self.held.insert(id, entry);
        Ok(id)
    }

    /// Whether this body's peer or signature is known to be good.
    pub fn is_proven(&self, id: u64) -> bool {
        self.held.get(&id).is_some_and(|e| e.proven)
    }

    /// Ends the body with the lowest rank; of several, the one that has waited
    /// longest for its sender.
    fn evict(&mut self, now: u64, rank: impl Fn(&Entry) -> Option<u8>) -> Result<(), Full> {
        let victims = self.held.iter().filter_map(|(id, entry)| {
            let waited = entry.progress.pause(now);
            Some(((rank(entry)?, u64::MAX - waited), *id))
        });
        let (_, id) = victims.min().ok_or(Full)?;
        if let Some(entry) = self.held.get(&id) {
            entry.progress.has_lost.store(true, Ordering::Relaxed);
            entry.progress.lost.notify_one();
        }
        self.remove(id);
        Ok(())
    }

    /// Gives a body a place among the large ones, if need be another's; whether
    /// it got one.
    pub fn take_place(&mut self, id: u64, now: u64) -> bool {
        let Some(entry) = self.held.get(&id) else {
            return true; // It has lost, and will hear of it with its next chunk.
        };
        let (peer, proven) = (entry.peer, entry.proven);
        if !proven && self.proven_waiting > 0 {
            return false;
        }
        if self.large >= MAX_LARGE {
            // A stranger gets as many as the others have, whoever came first.
            let own = self.strangers.get(&peer).map_or(0, |s| s.large);
            let fair = if proven { 1 } else { own + 1 };
            let most = self.strangers.values().map(|s| s.large).max();
            let greediest: HashSet<Peer> = self
                .strangers
                .iter()
                .filter(|(_, s)| s.large > fair && Some(s.large) == most)
                .map(|(peer, _)| *peer)
                .collect();
            let rank = |e: &Entry| {
                let greedy = !e.proven && greediest.contains(&e.peer);
                e.large.then(|| e.rank(proven, greedy, now)).flatten()
            };
            if self.evict(now, rank).is_err() {
                return false;
            }
        }
        self.large += 1;
        if let Some(entry) = self.held.get_mut(&id) {
            entry.large = true;
        }
        if !proven {
            self.strangers.entry(peer).or_default().large += 1;
        }
        true
    }

    /// Whether it had one.
    pub fn leave_place(&mut self, id: u64) -> bool {
        let Some(entry) = self.held.get_mut(&id).filter(|e| e.large) else {
            return false;
        };
        entry.large = false;
        self.large -= 1;
        let (peer, proven) = (entry.peer, entry.proven);
        if !proven {
            self.strangers.entry(peer).or_default().large -= 1;
        }
        true
    }

    /// Gives back what a body holds; whether that was a place as well.
    pub fn give_back(&mut self, id: u64) -> bool {
        if let Some(entry) = self.held.get_mut(&id) {
            let holding = std::mem::take(&mut entry.holding);
            self.holding = self.holding.less(holding);
            let stranger = self.strangers.get_mut(&entry.peer);
            if let Some(stranger) = stranger.filter(|_| !entry.proven) {
                stranger.holding = stranger.holding.less(holding);
                self.by_strangers = self.by_strangers.less(holding);
            }
        }
        self.leave_place(id)
    }

    pub fn prove(&mut self, id: u64) {
        if let Some(entry) = self.held.get_mut(&id).filter(|e| !e.proven) {
            entry.proven = true;
            let (peer, large, holding) = (entry.peer, entry.large, entry.holding);
            self.forget_stranger(peer, large, holding);
        }
    }

    /// Whether a place among the large bodies became free.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(entry) = self.held.remove(&id) else {
            return false;
        };
        if !entry.proven {
            self.forget_stranger(entry.peer, entry.large, entry.holding);
        }
        self.large -= usize::from(entry.large);
        self.holding = self.holding.less(entry.holding);
        entry.large
    }

    fn forget_stranger(&mut self, peer: Peer, large: bool, holding: Holding) {
        self.by_strangers = self.by_strangers.less(holding);
        let Some(stranger) = self.strangers.get_mut(&peer) else {
            return;
        };
        stranger.bodies -= 1;
        stranger.large -= usize::from(large);
        stranger.holding = stranger.holding.less(holding);
        if stranger.bodies == 0 {
            self.strangers.remove(&peer);
        }
    }

    /// A stranger may hold as much as one body, all strangers half of what
    /// there is.
    pub fn hold(&mut self, id: u64, wanted: Holding, max_body: usize) -> Result<(), Full> {
        let Some(entry) = self.held.get(&id) else {
            return Ok(()); // It has lost, and will hear of it with its next chunk.
        };
        let more = wanted.less(entry.holding);
        if more == Holding::default() {
            return Ok(());
        }
        let (peer, proven) = (entry.peer, entry.proven);
        let all = Holding {
            memory: MEMORY * max_body,
            disk: DISK * max_body,
        };
        let half = Holding {
            memory: all.memory / 2,
            disk: all.disk / 2,
        };
        let one = Holding {
            memory: max_body,
            disk: max_body,
        };
        if !self.holding.and(more).is_within(all) {
            return Err(Full);
        }
        if !proven {
            let stranger = self.strangers.entry(peer).or_default();
            let fits = self.by_strangers.and(more).is_within(half)
                && stranger.holding.and(more).is_within(one);
            if !fits {
                return Err(Full);
            }
            stranger.holding = stranger.holding.and(more);
            self.by_strangers = self.by_strangers.and(more);
        }
        self.holding = self.holding.and(more);
        if let Some(entry) = self.held.get_mut(&id) {
            entry.holding = entry.holding.and(more);
        }
        Ok(())
    }
}

impl Entry {
    /// How readily this body gives way to one that is proven or not; `None` if
    /// it does not.
    fn rank(&self, to_proven: bool, greedy: bool, now: u64) -> Option<u8> {
        let idle = self.progress.is_idle(now);
        match self.proven {
            false if idle => Some(0),
            false if greedy => Some(1),
            false if to_proven => Some(2),
            true if idle => Some(3),
            _ => None,
        }
    }
}

impl Holding {
    fn and(self, other: Self) -> Self {
        Self {
            memory: self.memory + other.memory,
            disk: self.disk + other.disk,
        }
    }

    fn less(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_sub(other.memory),
            disk: self.disk.saturating_sub(other.disk),
        }
    }

    fn is_within(self, bound: Self) -> bool {
        self.memory <= bound.memory && self.disk <= bound.disk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BODY: usize = 1_000;
    /// Long after whoever waits began to.
    const LATER: u64 = 10_000;

    fn peer(n: u16) -> Peer {
        let [high, low] = n.to_be_bytes();
        Peer::from(std::net::IpAddr::from([192, 0, high, low]))
    }

    fn progress() -> Arc<Progress> {
        Arc::new(Progress::new())
    }

    fn enter(table: &mut Table, n: u16, proven: bool) -> u64 {
        table.enter(peer(n), proven, progress(), 4_096, 0).unwrap()
    }

    /// A large body that gets on.
    fn large(table: &mut Table, n: u16, proven: bool) -> u64 {
        let id = enter(table, n, proven);
        assert!(table.take_place(id, LATER));
        id
    }

    fn stall(table: &Table, id: u64) {
        table.held[&id].progress.since.store(0, Ordering::Relaxed);
    }

    fn lost(table: &Table, id: u64) -> bool {
        !table.held.contains_key(&id)
    }

    #[test]
    fn those_who_get_on_keep_their_places() {
        let mut table = Table::default();
        let held: Vec<u64> = (0..MAX_LARGE)
            .map(|n| large(&mut table, n as u16, false))
            .collect();
        let late = enter(&mut table, 999, false);
        assert!(!table.take_place(late, LATER));
        stall(&table, held[7]);
        assert!(table.take_place(late, LATER));
        assert!(lost(&table, held[7]) && !lost(&table, held[8]));
    }

    #[test]
    fn a_stranger_gets_as_many_as_the_others_have() {
        let mut table = Table::default();
        for n in 0..MAX_LARGE {
            large(&mut table, (n / (MAX_LARGE / 4)) as u16, false);
        }
        let late = (0..PER_STRANGER).take_while(|_| {
            let late = enter(&mut table, 100, false);
            table.take_place(late, LATER)
        });
        assert_eq!(late.count(), MAX_LARGE / 5);
        for n in 0..4 {
            assert!(table.strangers[&peer(n)].large.abs_diff(MAX_LARGE / 5) <= 1);
        }
    }

    #[test]
    fn strangers_give_way_to_the_known_the_greedy_first() {
        let mut table = Table::default();
        let greedy: Vec<u64> = (0..9).map(|_| large(&mut table, 1, false)).collect();
        let mut known = Vec::new();
        while table.large < MAX_LARGE - 1 {
            known.push(large(&mut table, 2, true));
        }
        let modest = large(&mut table, 3, false);
        stall(&table, known[0]);
        for _ in 0..8 {
            large(&mut table, 2, true);
        }
        assert_eq!(greedy.iter().filter(|id| !lost(&table, **id)).count(), 1);
        assert!(!lost(&table, modest));
        // Then any stranger's, then the known one that stalls, then nobody.
        for _ in 0..2 {
            large(&mut table, 2, true);
        }
        assert!(lost(&table, modest) && !lost(&table, known[0]));
        large(&mut table, 2, true);
        assert!(lost(&table, known[0]));
        let late = enter(&mut table, 2, true);
        assert!(!table.take_place(late, LATER));
    }

    #[test]
    fn a_stranger_has_a_bound_of_his_own_and_loses_only_his_own() {
        let mut table = Table::default();
        let other = enter(&mut table, 1, false);
        stall(&table, other);
        let own: Vec<u64> = (0..PER_STRANGER)
            .map(|_| enter(&mut table, 2, false))
            .collect();
        let again = |table: &mut Table| table.enter(peer(2), false, progress(), 4_096, LATER);
        assert_eq!(again(&mut table), Err(Full));
        stall(&table, own[3]);
        assert!(again(&mut table).is_ok() && lost(&table, own[3]));
        assert!(!lost(&table, other));
    }

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let disk = |disk| Holding { memory: 0, disk };
        let mut table = Table::default();
        let hold = |table: &mut Table, id, bytes| table.hold(id, disk(bytes), MAX_BODY);
        let (one, two) = (enter(&mut table, 1, false), enter(&mut table, 1, false));
        assert_eq!(hold(&mut table, one, 700), Ok(()));
        assert_eq!(hold(&mut table, two, 400), Err(Full));
        assert_eq!(hold(&mut table, one, MAX_BODY), Ok(()));
        for n in 2..=8 {
            let id = enter(&mut table, n, false);
            assert_eq!(hold(&mut table, id, MAX_BODY), Ok(()));
        }
        let ninth = enter(&mut table, 9, false);
        assert_eq!(hold(&mut table, ninth, 1), Err(Full));
        table.prove(ninth);
        assert_eq!(hold(&mut table, ninth, MAX_BODY), Ok(()));
        table.give_back(one);
        assert_eq!(hold(&mut table, two, MAX_BODY), Ok(()));
        let ids: Vec<u64> = table.held.keys().copied().collect();
        for id in ids {
            table.remove(id);
        }
        assert_eq!(table.holding, Holding::default());
        assert_eq!(table.by_strangers, Holding::default());
        assert!(table.strangers.is_empty() && table.large == 0);
    }
}
