//! The inverted index over one caller's memories.

use rustc_hash::FxHashMap;

use super::text::Analyzer;
use crate::domain::ids::AgentId;
use crate::domain::memory::{Memory, MemoryKind};

/// Most memories returned by a search (design, `search-data`).
pub const MAX_RESULTS: usize = 10;

/// Most memories of one caller that are searched, the newest ones. Bounds
/// what a session holds.
pub const MAX_INDEXED: usize = 20_000;

/// How much of a query is looked at, in characters: a long question. Bounds
/// what a search costs whatever is asked.
const MAX_QUERY_CHARS: usize = 1_000;

/// What a term costs beside its letters: its list of postings, and its place
/// in the table of terms.
const TERM_BYTES: usize = 96;

/// BM25: how fast repetition of a term saturates.
const K1: f32 = 1.2;
/// BM25: how much long memories are held back.
const B: f32 = 0.5;
/// Weight of what the agent said right before and after a turn, against the turn's own words.
const AGENT_WEIGHT: f32 = 0.5;
/// Weight of the caller's own previous and next turn.
const CALLER_WEIGHT: f32 = 0.2;

/// See the [module](super). Grows with each call; built from the store when
/// the phone rings.
#[derive(Default)]
pub struct Index {
    analyzer: Analyzer,
    memories: Vec<Memory>,
    /// Weighted length of each memory in terms.
    lengths: Vec<f32>,
    total_length: f32,
    /// See [`Index::bytes`].
    bytes: usize,
    term_ids: FxHashMap<Box<str>, usize>,
    /// For each term, the memories it occurs in with its weighted frequency.
    postings: Vec<Vec<(u32, f32)>>,
}

impl Index {
    /// An index over memories in the order in which they were stored.
    #[must_use]
    pub fn new(memories: Vec<Memory>) -> Self {
        let mut index = Self::default();
        index.extend(memories);
        index
    }

    /// Adds the memories of further calls, each call's in order.
    pub fn extend(&mut self, memories: Vec<Memory>) {
        let first = self.memories.len();
        self.memories.extend(memories);
        for position in first..self.memories.len() {
            self.add(position, first);
        }
    }

    /// How many memories are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memories.len()
    }

    /// Memory taken, in bytes, roughly: texts, terms and postings.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memories.is_empty()
    }

    fn add(&mut self, position: usize, first: usize) {
        let memory = &self.memories[position];
        let mut frequencies: FxHashMap<usize, f32> = FxHashMap::default();
        let mut length = 0.0;
        let term_ids = &mut self.term_ids;
        let postings = &mut self.postings;
        let bytes = &mut self.bytes;
        let mut count = |text: &str, weight: f32| {
            self.analyzer.terms(text, |term| {
                let id = term_ids.get(term).copied().unwrap_or_else(|| {
                    postings.push(Vec::new());
                    term_ids.insert(term.into(), postings.len() - 1);
                    *bytes += TERM_BYTES + term.len();
                    postings.len() - 1
                });
                *frequencies.entry(id).or_default() += weight;
                length += weight;
            });
        };
        count(&memory.content, 1.0);
        count(&memory.before, AGENT_WEIGHT);
        count(&memory.after, AGENT_WEIGHT);
        let neighbours = [
            position.checked_sub(1).filter(|p| *p >= first),
            Some(position + 1),
        ];
        for neighbour in neighbours.into_iter().flatten() {
            if let Some(other) = self.memories.get(neighbour)
                && other.conversation_id == memory.conversation_id
                && (other.kind, memory.kind) == (MemoryKind::Turn, MemoryKind::Turn)
            {
                count(&other.content, CALLER_WEIGHT);
            }
        }
        *bytes += std::mem::size_of::<Memory>()
            + memory.content.len()
            + memory.before.len()
            + memory.after.len()
            + frequencies.len() * std::mem::size_of::<(u32, f32)>() * 3 / 2;
        // Positions fit: MAX_INDEXED bounds what a session loads.
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        for (id, frequency) in frequencies {
            self.postings[id].push((position, frequency));
        }
        self.lengths.push(length);
        self.total_length += length;
    }

    /// The memories that this agent may know and that match `query`, best
    /// first, at most [`MAX_RESULTS`]. A query without a telling word gets the
    /// most salient and newest.
    #[must_use]
    pub fn search(&self, query: &str, agent: &AgentId) -> Vec<&Memory> {
        let mut wanted: FxHashMap<usize, f32> = FxHashMap::default();
        let mut telling = false;
        let end = query.char_indices().nth(MAX_QUERY_CHARS);
        let query = end.map_or(query, |(end, _)| &query[..end]);
        self.analyzer.terms(query, |term| {
            telling = true;
            if let Some(id) = self.term_ids.get(term) {
                *wanted.entry(*id).or_default() += 1.0;
            }
        });
        let mut scores: Vec<(usize, f32)> = if telling {
            self.scores(&wanted)
        } else {
            self.memories
                .iter()
                .map(|m| m.salience)
                .enumerate()
                .collect()
        };
        scores.retain(|(position, _)| {
            self.memories[*position]
                .agent
                .as_ref()
                .is_none_or(|a| a == agent)
        });
        // Of two equally good memories the newer one is better.
        scores.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        let mut best: Vec<&Memory> = Vec::with_capacity(MAX_RESULTS);
        for (position, _) in scores {
            let memory = &self.memories[position];
            // A fact collected in every call is told once.
            if !best.iter().any(|m| m.content == memory.content) {
                best.push(memory);
            }
            if best.len() == MAX_RESULTS {
                break;
            }
        }
        best
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts below 20,000 are exact in f32"
    )]
    fn scores(&self, wanted: &FxHashMap<usize, f32>) -> Vec<(usize, f32)> {
        let count = self.memories.len() as f32;
        let average = (self.total_length / count).max(1.0);
        let mut scores: FxHashMap<usize, f32> = FxHashMap::default();
        for (id, weight) in wanted {
            let postings = &self.postings[*id];
            let containing = postings.len() as f32;
            let idf = (1.0 + (count - containing + 0.5) / (containing + 0.5)).ln();
            for &(position, frequency) in postings {
                let position = position as usize;
                let norm = K1 * (1.0 - B + B * self.lengths[position] / average);
                let score = weight * idf * frequency * (K1 + 1.0) / (frequency + norm);
                *scores.entry(position).or_default() += score;
            }
        }
        scores.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::ids::ConversationId;

    fn memory(agent: &str, call: &str, content: &str) -> Memory {
        Memory {
            agent: AgentId::parse(agent).ok(),
            conversation_id: ConversationId::parse(call).unwrap(),
            ordinal: 0,
            kind: MemoryKind::Turn,
            sector: MemoryKind::Turn.sector(),
            content: content.into(),
            before: String::new(),
            after: String::new(),
            salience: 0.7,
            timestamp: Timestamp::UNIX_EPOCH,
        }
    }

    fn found(index: &Index, query: &str) -> Vec<String> {
        let agent = AgentId::parse("a").unwrap();
        index
            .search(query, &agent)
            .into_iter()
            .map(|m| m.content.clone())
            .collect()
    }

    #[test]
    fn the_rarer_word_decides() {
        let index = Index::new(vec![
            memory("a", "1", "I like my garden"),
            memory("a", "2", "The garden needs peat-free compost"),
            memory("a", "3", "My garden is sunny"),
        ]);
        assert_eq!(
            found(&index, "which compost for the garden?")[0],
            "The garden needs peat-free compost"
        );
        assert_eq!(found(&index, "submarine"), Vec::<String>::new());
    }

    #[test]
    fn a_turn_is_found_by_the_question_it_answers() {
        let answer = Memory {
            before: "Which day suits you for the delivery?".into(),
            ..memory("a", "1", "Tuesdays, please")
        };
        let index = Index::new(vec![memory("a", "1", "I like roses"), answer]);
        assert_eq!(found(&index, "delivery day"), ["Tuesdays, please"]);
    }

    #[test]
    fn another_agent_finds_nothing() {
        let index = Index::new(vec![memory("b", "1", "I like roses")]);
        assert_eq!(found(&index, "roses"), Vec::<String>::new());
        assert_eq!(found(&index, ""), Vec::<String>::new());
    }

    #[test]
    fn ten_at_most_newest_first_and_nothing_twice() {
        let index = Index::new(
            (0..30)
                .map(|i| memory("a", &i.to_string(), &format!("roses {}", i % 15)))
                .collect(),
        );
        let best = found(&index, "roses");
        assert_eq!(best.len(), MAX_RESULTS);
        assert_eq!(best[0], "roses 14");
        assert_eq!(
            found(&index, "and the"),
            best,
            "no telling word: the newest"
        );
    }

    #[test]
    fn growing_is_the_same_as_building() {
        let all: Vec<Memory> = (0..20)
            .map(|i| memory("a", &i.to_string(), &format!("rose number {i}")))
            .collect();
        let mut grown = Index::default();
        for one in all.clone() {
            grown.extend(vec![one]);
        }
        let built = Index::new(all);
        for query in ["number 7", "rose", "19"] {
            assert_eq!(found(&grown, query), found(&built, query));
        }
    }
}
