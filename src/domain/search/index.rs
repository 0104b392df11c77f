//! The inverted index over one caller's memories.

use std::cmp::Ordering;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use super::analyzer::{Analyzer, fold};
use super::answer::{self, Hit};
use super::calendar;
use super::text_language::TextLanguage;
use super::vocabulary::Vocabulary;
use crate::domain::ids::AgentId;
use crate::domain::memory::{Memory, MemoryKind, MemoryVector, fact_key};
use crate::domain::vector::Vector;

/// Most memories returned by a search (design, `search-data`).
pub const MAX_RESULTS: usize = 10;

/// Most memories of one caller that are searched, the newest ones. Bounds
/// what a session holds.
pub const MAX_INDEXED: usize = 20_000;

/// How much of a query is looked at, in characters: a long question. Bounds
/// what a search costs whatever is asked.
const MAX_QUERY_CHARS: usize = 1_000;

/// How many different words of a query are looked for.
const MAX_QUERY_WORDS: usize = 64;

/// Places of terms that a search looks at. Of a caller who says the same few
/// words for hours, terms that are only akin to the wanted ones are left out.
const MAX_POSTINGS: usize = 4_000_000;

/// BM25: how fast repetition of a term saturates.
const K1: f32 = 1.2;
/// BM25: how much long memories are held back.
const B: f32 = 0.5;
/// Weight of what the agent said right before a turn, against the turn's own words.
const BEFORE_WEIGHT: f32 = 0.6;
/// Weight of what the agent said right after a turn.
const AFTER_WEIGHT: f32 = 0.4;
/// Weight of the caller's own previous and next turn.
const CALLER_WEIGHT: f32 = 0.3;
/// Weight of the date of the call, in words.
const DATE_WEIGHT: f32 = 0.75;
/// Part of the meaning in a score; the rest is the words'.
const MEANING_WEIGHT: f32 = 0.4;
/// How much a memory of the time that a query names is worth, in rare words.
const TIME_WEIGHT: f32 = 2.0;

/// What is searched for.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub text: &'a str,
    /// What this agent may know is found.
    pub agent: &'a AgentId,
    /// When it is asked: what "last week" counts from.
    pub now: Timestamp,
    /// What the text means; without it, its words alone count.
    pub vector: Option<&'a Vector>,
}

/// See the [module](super). Grows with each call; built from the store when
/// the phone rings.
#[derive(Default)]
pub struct Index {
    /// Of the languages of the memories, those first heard first.
    analyzers: Vec<Analyzer>,
    memories: Vec<Memory>,
    /// For each memory, which of the analyzers is its own.
    languages: Vec<u8>,
    /// Weighted length of each memory in terms.
    lengths: Vec<f32>,
    total_length: f32,
    /// For each memory what it means, if that is known. Empty if none is.
    vectors: Vec<Option<Vector>>,
    /// Of the memories without their terms, in bytes.
    bytes: usize,
    vocabulary: Vocabulary,
    /// For each memory, the group of those that tell the same.
    groups: Vec<u32>,
    group_ids: FxHashMap<Box<str>, u32>,
    /// For each group the memory that is told, the newest.
    newest: Vec<u32>,
}

/// The terms of a text, by their numbers.
type Terms = Vec<u32>;

/// The terms of words met before: stemming is most of the work.
type Known = FxHashMap<(u8, Box<str>), Option<u32>>;

/// Reads texts of one language.
struct Reader<'a> {
    language: u8,
    analyzer: &'a Analyzer,
    vocabulary: &'a mut Vocabulary,
    known: &'a mut Known,
}

impl Reader<'_> {
    fn terms(&mut self, text: &str) -> Terms {
        let mut terms = Terms::new();
        self.analyzer.words(text, |word| {
            let key = (self.language, Box::from(word));
            let term = *self.known.entry(key).or_insert_with(|| {
                let term = self.analyzer.term(word)?;
                Some(self.vocabulary.intern(&term))
            });
            terms.extend(term);
        });
        terms
    }
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
        self.tell_languages(first);
        let mut known = Known::default();
        let own: Vec<Terms> = (first..self.memories.len())
            .map(|position| {
                let language = self.languages[position];
                let mut reader = Reader {
                    language,
                    analyzer: &self.analyzers[usize::from(language)],
                    vocabulary: &mut self.vocabulary,
                    known: &mut known,
                };
                reader.terms(&self.memories[position].content)
            })
            .collect();
        for position in first..self.memories.len() {
            self.add(position, first, &own, &mut known);
            self.group(position);
        }
    }

    /// Takes what some of the memories mean.
    pub fn attach(&mut self, vectors: Vec<MemoryVector>) {
        if vectors.is_empty() {
            return;
        }
        let places = self.memories.iter().enumerate();
        let places: FxHashMap<(&str, u32), usize> = places
            .map(|(place, m)| ((m.conversation_id.as_str(), m.ordinal), place))
            .collect();
        let found: Vec<(usize, Vector)> = vectors
            .into_iter()
            .filter_map(|v| {
                let place = places.get(&(v.conversation_id.as_str(), v.ordinal))?;
                Some((*place, v.vector))
            })
            .collect();
        self.vectors.resize(self.memories.len(), None);
        for (place, vector) in found {
            self.bytes += vector.bytes();
            self.vectors[place] = Some(vector);
        }
    }

    /// Whether it is known of some memory what it means.
    #[must_use]
    pub fn has_vectors(&self) -> bool {
        !self.vectors.is_empty()
    }

    /// How many memories are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memories.len()
    }

    /// Memory taken, in bytes, roughly: texts, terms and postings.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.vocabulary.bytes()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memories.is_empty()
    }

    /// Each memory's language: that of its call, else what the call's words
    /// tell, else English.
    fn tell_languages(&mut self, first: usize) {
        let new = &self.memories[first..];
        for call in new.chunk_by(|a, b| a.conversation_id == b.conversation_id) {
            let known = call.iter().find_map(|m| m.language.as_ref());
            let language = match known {
                Some(language) => TextLanguage::of(language),
                None => TextLanguage::detect(call.iter().map(|m| m.content.as_str())),
            };
            let language = language.unwrap_or(TextLanguage::English);
            let place = self.analyzers.iter().position(|a| a.language() == language);
            let place = place.unwrap_or_else(|| {
                self.analyzers.push(Analyzer::new(language));
                self.analyzers.len() - 1
            });
            let place = u8::try_from(place).unwrap_or_default();
            self.languages
                .extend(std::iter::repeat_n(place, call.len()));
        }
    }

    fn language_of(&self, position: usize) -> TextLanguage {
        self.analyzers[usize::from(self.languages[position])].language()
    }

    fn add(&mut self, position: usize, first: usize, own: &[Terms], known: &mut Known) {
        let memory = &self.memories[position];
        let date = calendar::date_words(memory.timestamp, self.language_of(position));
        let language = self.languages[position];
        let mut reader = Reader {
            language,
            analyzer: &self.analyzers[usize::from(language)],
            vocabulary: &mut self.vocabulary,
            known,
        };
        let before = reader.terms(&memory.before);
        let after = reader.terms(&memory.after);
        let date = reader.terms(&date);
        let mut weighted = vec![
            (&own[position - first], 1.0),
            (&before, BEFORE_WEIGHT),
            (&after, AFTER_WEIGHT),
        ];
        let neighbours = [
            position.checked_sub(1).filter(|p| *p >= first),
            Some(position + 1),
        ];
        for neighbour in neighbours.into_iter().flatten() {
            if self
                .memories
                .get(neighbour)
                .is_some_and(|other| memory.is_beside(other))
            {
                weighted.push((&own[neighbour - first], CALLER_WEIGHT));
            }
        }
        let mut frequencies: FxHashMap<u32, f32> = FxHashMap::default();
        let mut length = 0.0;
        for (terms, weight) in weighted {
            for term in terms {
                *frequencies.entry(*term).or_default() += weight;
                length += weight;
            }
        }
        // Of every memory alike, the date makes none longer than the others.
        for term in date {
            *frequencies.entry(term).or_default() += DATE_WEIGHT;
        }
        self.bytes += std::mem::size_of::<Memory>()
            + memory.content.len()
            + memory.before.len()
            + memory.after.len();
        // Positions fit: MAX_INDEXED bounds what a session loads.
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        for (term, frequency) in frequencies {
            self.vocabulary.post(term, (position, frequency));
        }
        self.lengths.push(length);
        self.total_length += length;
    }

    /// Of what was told twice, and of values of one fact, the newest is told.
    fn group(&mut self, position: usize) {
        let memory = &self.memories[position];
        let key = group_key(memory);
        self.bytes += key.len() + GROUP_BYTES;
        let next = u32::try_from(self.newest.len()).unwrap_or(u32::MAX);
        let group = *self.group_ids.entry(key).or_insert(next);
        let place = u32::try_from(position).unwrap_or(u32::MAX);
        self.groups.push(group);
        match self.newest.get_mut(group as usize) {
            None => self.newest.push(place),
            Some(newest) if self.memories[*newest as usize].timestamp <= memory.timestamp => {
                *newest = place;
            }
            Some(_) => {}
        }
    }

    /// The memories that the agent may know and that match the query, best
    /// first, at most [`MAX_RESULTS`]. A query without a telling word gets the
    /// most salient and newest.
    #[must_use]
    pub fn search(&self, query: &Query<'_>) -> Vec<Hit> {
        let found = self.best(query);
        answer::fill(&self.memories, &found, |position| {
            self.language_of(position)
        })
    }

    /// Positions of the memories to be told, best first.
    fn best(&self, query: &Query<'_>) -> Vec<usize> {
        let end = query.text.char_indices().nth(MAX_QUERY_CHARS);
        let text = end.map_or(query.text, |(end, _)| &query.text[..end]);
        let is_visible =
            |(position, _): &(usize, f32)| self.memories[*position].is_known_to(query.agent);
        let days = self.days_meant(query, text);
        let mut by_words = self.scores(text, days);
        if let Some(scores) = &mut by_words {
            scores.retain(is_visible);
        }
        let mut by_meaning = query.vector.map(|v| self.likenesses(v)).unwrap_or_default();
        by_meaning.retain(is_visible);
        let mut scores = match (by_words, by_meaning.is_empty()) {
            (Some(words), true) => words,
            (words, false) => fused(self.memories.len(), words.unwrap_or_default(), by_meaning),
            (None, true) => {
                let by_salience = self.memories.iter().map(|m| m.salience);
                by_salience.enumerate().filter(is_visible).collect()
            }
        };
        scores.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| self.by_age(a.0, b.0)));
        let mut best: Vec<usize> = Vec::with_capacity(MAX_RESULTS);
        // What was so at a time that is named is told as it was then.
        for (position, _) in scores {
            let group = self.groups[position];
            if best.iter().any(|told| self.groups[*told] == group) {
                continue;
            }
            let newest = self.newest[group as usize] as usize;
            best.push(if days.is_some() { position } else { newest });
            if best.len() == MAX_RESULTS {
                break;
            }
        }
        best
    }

    /// How near the memories are to a question, those of which that is known.
    fn likenesses(&self, query: &Vector) -> Vec<(usize, f32)> {
        let known = self.vectors.iter().enumerate();
        known
            .filter_map(|(position, vector)| Some((position, vector.as_ref()?.likeness(query))))
            .collect()
    }

    /// Of two equally good memories that of the newer call is better, and in
    /// one call that which was said first: it tells what the call is about.
    fn by_age(&self, a: usize, b: usize) -> Ordering {
        let (one, other) = (&self.memories[a], &self.memories[b]);
        if one.conversation_id == other.conversation_id {
            return a.cmp(&b);
        }
        other.timestamp.cmp(&one.timestamp).then(b.cmp(&a))
    }

    /// BM25 of each memory that matches; `None` if the query has no telling word.
    fn scores(&self, text: &str, days: Option<calendar::Days>) -> Option<Vec<(usize, f32)>> {
        let mut scores = Scores::new(self.memories.len());
        let mut is_telling = false;
        let mut left = MAX_POSTINGS;
        for wanted in self.wanted(text) {
            is_telling = true;
            for (term, weight) in wanted.terms {
                let Some(rest) = left.checked_sub(self.vocabulary.postings(term).len()) else {
                    continue;
                };
                left = rest;
                self.score(term, weight * wanted.count, &mut scores);
            }
            scores.end_word();
        }
        if let Some(days) = days {
            is_telling = true;
            let said_then = |m: &Memory| days.contain(m.timestamp);
            let meant = self.memories.iter().filter(|m| said_then(m)).count();
            let worth = TIME_WEIGHT * self.rarity(meant);
            for (position, memory) in self.memories.iter().enumerate() {
                if said_then(memory) {
                    scores.offer(position, worth);
                }
            }
            scores.end_word();
        }
        is_telling.then(|| scores.into_list())
    }

    /// The days of a time that a question names, in any of the languages.
    fn days_meant(&self, query: &Query<'_>, text: &str) -> Option<calendar::Days> {
        if calendar::means_last_call(text) {
            let known = self.memories.iter().filter(|m| m.is_known_to(query.agent));
            return known.map(|m| m.timestamp).max().map(calendar::Days::of);
        }
        let mut languages = self.analyzers.iter().map(Analyzer::language);
        languages.find_map(|language| calendar::days_meant(text, language, query.now))
    }

    /// The query's words, and for each the terms that it finds: read in all
    /// languages that the caller has spoken.
    fn wanted(&self, text: &str) -> Vec<Wanted> {
        let mut counts: FxHashMap<String, f32> = FxHashMap::default();
        for analyzer in &self.analyzers {
            let mut here: FxHashMap<String, f32> = FxHashMap::default();
            analyzer.words(text, |word| {
                if here.len() < MAX_QUERY_WORDS || here.contains_key(word) {
                    *here.entry(word.to_owned()).or_default() += 1.0;
                }
            });
            // One word in several languages is one wish.
            for (word, count) in here {
                let most = counts.entry(word).or_default();
                *most = most.max(count);
            }
        }
        let wanted = counts.into_iter().filter_map(|(word, count)| {
            let mut terms: FxHashMap<u32, f32> = FxHashMap::default();
            let mut is_stop_word = false;
            for analyzer in &self.analyzers {
                let Some(term) = analyzer.term(&word) else {
                    is_stop_word = true;
                    continue;
                };
                let language = analyzer.language();
                self.vocabulary.akin(&term, language, |id, weight| {
                    let best = terms.entry(id).or_default();
                    *best = best.max(weight);
                });
            }
            // What says nothing in one language must be found in another.
            let is_telling = !(is_stop_word && terms.is_empty());
            let mut terms: Vec<(u32, f32)> = terms.into_iter().collect();
            // The word itself first, then those that are nearest.
            terms.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            is_telling.then_some(Wanted { count, terms })
        });
        wanted.collect()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts below 20,000 are exact in f32"
    )]
    fn score(&self, term: u32, weight: f32, scores: &mut Scores) {
        let average = (self.total_length / self.memories.len() as f32).max(1.0);
        let postings = self.vocabulary.postings(term);
        let idf = self.rarity(postings.len());
        for &(position, frequency) in postings {
            let position = position as usize;
            let norm = K1 * (1.0 - B + B * self.lengths[position] / average);
            let score = weight * idf * frequency * (K1 + 1.0) / (frequency + norm);
            scores.offer(position, score);
        }
    }

    /// What it tells that a memory is one of so many (inverse document frequency).
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts below 20,000 are exact in f32"
    )]
    fn rarity(&self, containing: usize) -> f32 {
        let (count, containing) = (self.memories.len() as f32, containing as f32);
        (1.0 + (count - containing + 0.5) / (containing + 0.5)).ln()
    }
}

/// Both scores, each as a part of its span, added.
fn fused(
    memories: usize,
    by_words: Vec<(usize, f32)>,
    by_meaning: Vec<(usize, f32)>,
) -> Vec<(usize, f32)> {
    let most = |scores: &[(usize, f32)]| scores.iter().fold(f32::MIN, |m, s| m.max(s.1));
    let least = by_meaning.iter().fold(f32::MAX, |m, s| m.min(s.1));
    let (words, span) = (most(&by_words).max(f32::EPSILON), most(&by_meaning) - least);
    let mut scores = vec![0.0; memories];
    for (position, score) in by_words {
        scores[position] += (1.0 - MEANING_WEIGHT) * score / words;
    }
    for (position, likeness) in by_meaning {
        // All alike, none is farther than the others.
        let part = if span > f32::EPSILON {
            (likeness - least) / span
        } else {
            1.0
        };
        scores[position] += MEANING_WEIGHT * part;
    }
    let scores = scores.into_iter().enumerate();
    scores.filter(|(_, score)| *score > 0.0).collect()
}

/// What a group of memories costs beside its key, in bytes.
const GROUP_BYTES: usize = 48;

/// Equal for memories that tell the same: for whom, and which fact or what words.
fn group_key(memory: &Memory) -> Box<str> {
    let agent = memory.agent.as_ref().map_or("", AgentId::as_str);
    let told = match memory.kind {
        MemoryKind::Fact => fact_key(&memory.content),
        MemoryKind::Turn => None,
    };
    let mut key = format!("{agent}\n");
    if let Some(fact) = told {
        key.push_str("fact\n");
        key.push_str(fact);
    } else {
        // "Yes, please" to one question is not "Yes, please" to another.
        for text in [memory.content.as_str(), memory.asked()] {
            let folded = fold(&text.to_lowercase());
            key.extend(folded.chars().filter(|c| c.is_alphanumeric()));
            key.push('\n');
        }
    }
    key.into()
}

/// A word of a query.
struct Wanted {
    /// How often it stands there.
    count: f32,
    /// What it finds, with weights.
    terms: Vec<(u32, f32)>,
}

/// Scores of memories, summed word by word; of the terms that one word finds,
/// the best counts.
struct Scores {
    total: Vec<f32>,
    word: Vec<f32>,
    touched: Vec<usize>,
}

impl Scores {
    fn new(memories: usize) -> Self {
        Self {
            total: vec![0.0; memories],
            word: vec![0.0; memories],
            touched: Vec::new(),
        }
    }

    fn offer(&mut self, position: usize, score: f32) {
        let best = &mut self.word[position];
        if *best == 0.0 {
            self.touched.push(position);
        }
        *best = best.max(score);
    }

    fn end_word(&mut self) {
        for position in self.touched.drain(..) {
            self.total[position] += std::mem::take(&mut self.word[position]);
        }
    }

    fn into_list(self) -> Vec<(usize, f32)> {
        let all = self.total.into_iter().enumerate();
        all.filter(|(_, score)| *score > 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::ids::ConversationId;
    use crate::domain::language::Language;

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
            language: None,
        }
    }

    fn found(index: &Index, query: &str) -> Vec<String> {
        let agent = AgentId::parse("a").unwrap();
        let query = Query {
            text: query,
            agent: &agent,
            now: Timestamp::UNIX_EPOCH,
            vector: None,
        };
        index
            .search(&query)
            .into_iter()
            .map(|m| m.content)
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
        assert_eq!(
            found(&index, "delivery day"),
            ["I like roses\n[Agent: Which day suits you for the delivery?]\nTuesdays, please"]
        );
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

    fn of_day(day: &str, memory: Memory) -> Memory {
        Memory {
            timestamp: format!("{day}T12:00:00Z").parse().unwrap(),
            ..memory
        }
    }

    fn fact(agent: &str, call: &str, content: &str) -> Memory {
        Memory {
            kind: MemoryKind::Fact,
            ..memory(agent, call, content)
        }
    }

    #[test]
    fn of_a_fact_that_changed_the_newest_value_is_told_to_whom_it_was_said() {
        let index = Index::new(vec![
            of_day(
                "2025-05-01",
                fact("a", "1", "The caller's delivery day is Monday."),
            ),
            of_day(
                "2025-05-09",
                fact("a", "3", "The caller's delivery day is Friday."),
            ),
            // Learned last, said in between.
            of_day(
                "2025-05-05",
                fact("a", "2", "The caller's delivery day is Tuesday."),
            ),
            of_day(
                "2025-05-20",
                fact("b", "4", "The caller's delivery day is Sunday."),
            ),
        ]);
        for query in ["delivery day", "is the delivery on Monday?"] {
            assert_eq!(
                found(&index, query),
                ["On 9 May 2025: The caller's delivery day is Friday."]
            );
        }
    }

    #[test]
    fn what_was_said_twice_is_told_once_with_the_newer_date() {
        let index = Index::new(vec![
            of_day("2025-05-01", memory("a", "1", "I like roses!")),
            of_day("2025-06-01", memory("a", "2", "i like Roses")),
        ]);
        assert_eq!(found(&index, "roses"), ["i like Roses"]);
        // The same answer to another question is something else.
        let answer = |call: &str, asked: &str| Memory {
            before: asked.into(),
            ..memory("a", call, "Yes, please")
        };
        let index = Index::new(vec![
            answer("1", "Shall we deliver on Tuesday?"),
            answer("2", "Shall I cancel the subscription?"),
        ]);
        assert_eq!(
            found(&index, "deliver on Tuesday")[0],
            "[Agent: Shall we deliver on Tuesday?]\nYes, please"
        );
    }

    #[test]
    fn a_call_is_found_by_its_date_and_by_how_long_ago_it_was() {
        let index = Index::new(vec![
            of_day(
                "2025-05-08",
                memory("a", "1", "The hedge needs cutting tomorrow"),
            ),
            of_day("2025-11-18", memory("a", "2", "The pump makes a noise")),
            of_day("2025-11-26", memory("a", "3", "The lamp is broken")),
        ]);
        assert_eq!(
            found(&index, "what was it on 8 May?"),
            ["On 8 May 2025: The hedge needs cutting tomorrow"]
        );
        let agent = AgentId::parse("a").unwrap();
        let ask = |text: &str| {
            let hits = index.search(&Query {
                text,
                agent: &agent,
                now: "2025-11-27T09:00:00Z".parse().unwrap(),
                vector: None,
            });
            hits.into_iter().next().map(|hit| hit.content)
        };
        assert_eq!(
            ask("what did she say last week?").as_deref(),
            Some("The pump makes a noise")
        );
        assert_eq!(ask("yesterday").as_deref(), Some("The lamp is broken"));
        assert_eq!(
            ask("what did we say last time?").as_deref(),
            Some("The lamp is broken")
        );
        assert_eq!(
            ask("am 18.11.2025").as_deref(),
            Some("The pump makes a noise")
        );
    }

    #[test]
    fn each_call_is_read_in_its_own_language_and_a_question_in_all_of_them() {
        let said = |language: &str, call: &str, content: &str| Memory {
            language: Some(Language::parse(language).unwrap()),
            ..memory("a", call, content)
        };
        let index = Index::new(vec![
            said("de", "1", "Die Gartenhäuser sind mir zu teuer"),
            said("en", "2", "I ordered two hedge trimmers"),
            said("de", "3", "Die Lieferadresse ist der Hof meiner Schwester"),
            said("nl", "4", "De bezorging mag naar mijn werk"),
        ]);
        for (query, expected) in [
            ("Gartenhaus", "Die Gartenhäuser sind mir zu teuer"),
            ("Adresse", "Die Lieferadresse ist der Hof meiner Schwester"),
            (
                "wohin wird geliefert",
                "Die Lieferadresse ist der Hof meiner Schwester",
            ),
            ("ordering a trimmer", "I ordered two hedge trimmers"),
            ("bezorgadres", "De bezorging mag naar mijn werk"),
        ] {
            assert_eq!(
                found(&index, query).first().map(String::as_str),
                Some(expected),
                "{query}"
            );
        }
    }

    #[test]
    fn an_answer_keeps_to_its_room_and_shows_nothing_of_another_agent() {
        let long = "garden ".repeat(30);
        let index = Index::new(
            (0..60)
                .map(|i| Memory {
                    agent: AgentId::parse(if i % 2 == 0 { "a" } else { "b" }).ok(),
                    ..memory(
                        "a",
                        "1",
                        &format!("{i}{} {long}", if i % 2 == 0 { "own" } else { "foreign" }),
                    )
                })
                .collect(),
        );
        let hits = found(&index, "garden");
        let chars: usize = hits.iter().map(|hit| hit.chars().count()).sum();
        assert!(chars <= answer::ROOM.max(10 * 220), "{chars}");
        assert!(hits.iter().all(|hit| !hit.contains("foreign")));
    }

    #[test]
    fn words_and_meaning_are_added() {
        let memories = vec![
            memory("a", "1", "My tabby sleeps all day"),
            memory("a", "2", "The sofa is green"),
            memory("a", "3", "I drive a sedan"),
        ];
        let vector = |numbers: &[f32]| Vector::quantised(numbers).unwrap();
        let meanings = [
            vector(&[1.0, 0.0]),
            vector(&[0.5, 0.5]),
            vector(&[0.0, 1.0]),
        ];
        let vectors = memories.iter().zip(&meanings);
        let vectors: Vec<MemoryVector> = vectors
            .map(|(memory, vector)| MemoryVector::of(memory, vector.clone()))
            .collect();
        let agent = AgentId::parse("a").unwrap();
        let first = |index: &Index, text: &str, vector: Option<&Vector>| {
            let hits = index.search(&Query {
                text,
                agent: &agent,
                now: Timestamp::UNIX_EPOCH,
                vector,
            });
            hits.into_iter().next().map(|hit| hit.content)
        };
        let mut index = Index::new(memories);
        let cat = vector(&[0.9, 0.1]);
        assert_eq!(
            first(&index, "cat", Some(&cat)),
            None,
            "nothing is known of meanings"
        );
        index.attach(vectors[..1].to_vec());
        assert!(
            first(&index, "cat", Some(&cat)).unwrap().contains("tabby"),
            "the only one"
        );
        index.attach(vectors);
        assert!(first(&index, "cat", Some(&cat)).unwrap().contains("tabby"));
        // Each way finds one half of it; both together find the third.
        let green = vector(&[0.45, 0.55]);
        assert!(
            first(&index, "is the car green?", Some(&green))
                .unwrap()
                .contains("sofa")
        );
        assert_eq!(first(&index, "cat", None), None);
        // Of another model: no two are alike.
        let other = vector(&[1.0, 0.0, 0.0]);
        assert!(
            first(&index, "sofa", Some(&other))
                .unwrap()
                .contains("sofa")
        );
        assert!(index.bytes() > Index::new(Vec::new()).bytes());
    }
}
