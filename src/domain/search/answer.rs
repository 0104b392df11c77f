//! What an agent is given to read: the memories found, within the room that an
//! answer has.

use jiff::Timestamp;

use super::calendar;
use super::text_language::TextLanguage;
use crate::domain::memory::{Memory, Sector};

/// Room of an answer, in characters of all contents together. What an agent
/// reads of it in the middle of a call; more would slow its reply.
pub const ROOM: usize = 2_000;

/// A memory as it is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The memory's words; around a turn perhaps what was said before and after.
    pub content: String,
    /// What the store takes it for.
    pub sector: Sector,
    /// 0 to 1.
    pub salience: f32,
    /// When the call took place.
    pub timestamp: Timestamp,
}

/// Of so many memories, the best ones, the question is shown.
const QUESTIONS: usize = 3;

/// The found memories, best first. Room that they leave goes to what was said
/// around the best of them: the agent reads question and answer together.
pub(super) fn fill(
    memories: &[Memory],
    found: &[usize],
    language_of: impl Fn(usize) -> TextLanguage,
) -> Vec<Hit> {
    let mut parts: Vec<Part<'_>> = found
        .iter()
        .map(|position| Part::of(memories, *position, language_of(*position)))
        .collect();
    let used: usize = parts.iter().map(Part::chars).sum();
    let mut room = ROOM.saturating_sub(used);
    for part in parts.iter_mut().take(QUESTIONS) {
        part.show_question(&mut room);
    }
    let mut shown = found.to_vec();
    for part in &mut parts {
        for neighbour in neighbours(memories, part.position).into_iter().flatten() {
            if !shown.contains(&neighbour) && take(&mut room, &memories[neighbour].content) {
                shown.push(neighbour);
                part.turns.push(neighbour);
            }
        }
    }
    parts.iter().map(|part| part.hit(memories)).collect()
}

/// Takes room for a line, if there is so much.
fn take(room: &mut usize, line: &str) -> bool {
    let left = room.checked_sub(line.chars().count() + 1);
    *room = left.unwrap_or(*room);
    left.is_some()
}

/// A hit in the making.
struct Part<'a> {
    position: usize,
    memory: &'a Memory,
    /// "On 8 May 2023", where the words need it.
    date: Option<String>,
    /// What the agent had asked, where the words need it.
    asked: Option<String>,
    /// Positions of the caller's turns that are shown, its own and some around it.
    turns: Vec<usize>,
}

impl<'a> Part<'a> {
    fn of(memories: &'a [Memory], position: usize, language: TextLanguage) -> Self {
        let memory = &memories[position];
        let needs_date = calendar::is_relative(&memory.content, language);
        Self {
            position,
            memory,
            date: needs_date.then(|| calendar::on_date(memory.timestamp, language)),
            asked: None,
            turns: vec![position],
        }
    }

    fn chars(&self) -> usize {
        let date = self
            .date
            .as_ref()
            .map_or(0, |date| date.chars().count() + 2);
        self.memory.content.chars().count() + date
    }

    fn show_question(&mut self, room: &mut usize) {
        let asked = self.memory.asked();
        if asked.ends_with(['?', '？', '؟']) {
            let line = format!("[Agent: {asked}]");
            self.asked = take(room, &line).then_some(line);
        }
    }

    fn hit(&self, memories: &[Memory]) -> Hit {
        let mut turns = self.turns.clone();
        turns.sort_unstable();
        let said = turns.into_iter().flat_map(|at| {
            let asked = self.asked.as_deref().filter(|_| at == self.position);
            asked.into_iter().chain([memories[at].content.as_str()])
        });
        let said = said.collect::<Vec<_>>().join("\n");
        Hit {
            content: match &self.date {
                Some(date) => format!("{date}: {said}"),
                None => said,
            },
            sector: self.memory.sector,
            salience: self.memory.salience,
            timestamp: self.memory.timestamp,
        }
    }
}

/// The caller's turns right after and right before, in the same call.
fn neighbours(memories: &[Memory], position: usize) -> [Option<usize>; 2] {
    let is_beside = |at: &usize| {
        let other = memories.get(*at);
        other.is_some_and(|other| memories[position].is_beside(other))
    };
    [
        Some(position + 1).filter(is_beside),
        position.checked_sub(1).filter(is_beside),
    ]
}
