//! Dates in words, and relative time ("last week") read against a date.

mod tables;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

use super::text_language::TextLanguage;
use tables::CALENDARS;

/// The words of one language for dates. Folded to lower case, but for what is shown.
struct Calendar {
    language: TextLanguage,
    /// As they stand in a date, in the language's own writing.
    months: [&'static str; 12],
    /// From Monday on.
    weekdays: [&'static str; 7],
    /// Before a date in a sentence, behind its day, and behind its month.
    on: (&'static str, &'static str, &'static str),
    /// Phrases for a time, whole words in lower case.
    phrases: &'static [(&'static str, When)],
    /// What stands before and after a number of units that is long ago: `("", "ago")`.
    ago: &'static [(&'static str, &'static str)],
    /// Units of time, all their forms.
    days: &'static [&'static str],
    weeks: &'static [&'static str],
    months_long: &'static [&'static str],
    /// "last", before or after a weekday.
    last: &'static [&'static str],
    /// One, two, three … as words.
    numbers: &'static [&'static str],
}

/// A time that a phrase means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// So many days before today; negative: after it.
    Day(i32),
    /// So many weeks before this one.
    Week(i32),
    Month(i32),
    Year(i32),
}

/// Days from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    pub first: Date,
    pub last: Date,
}

impl Days {
    /// The day of a moment.
    pub fn of(at: Timestamp) -> Self {
        Self::one(date_of(at))
    }

    fn one(date: Date) -> Self {
        Self {
            first: date,
            last: date,
        }
    }

    pub fn contain(self, at: Timestamp) -> bool {
        (self.first..=self.last).contains(&date_of(at))
    }
}

/// Calls have no time zone of their own: their dates are UTC's.
fn date_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// Weekday, day, month and year, as they are searched for.
pub(super) fn date_words(at: Timestamp, language: TextLanguage) -> String {
    let calendar = calendar(language);
    let date = date_of(at);
    format!(
        "{} {} {} {}",
        calendar.weekdays[weekday_index(date.weekday())],
        date.day(),
        calendar.month(date),
        date.year()
    )
}

/// "On 8 May 2023", in the language.
pub(super) fn on_date(at: Timestamp, language: TextLanguage) -> String {
    let calendar = calendar(language);
    let date = date_of(at);
    let (before, behind_day, behind_month) = calendar.on;
    let (day, month, year) = (date.day(), calendar.month(date), date.year());
    format!("{before}{day}{behind_day}{month}{behind_month}{year}")
}

/// Whether a text speaks of a time that only its date tells: "tomorrow".
pub(super) fn is_relative(text: &str, language: TextLanguage) -> bool {
    let calendar = calendar(language);
    let words = words_of(text);
    (0..words.len()).any(|at| {
        calendar.phrase_at(&words, at).is_some()
            || calendar.ago_at(&words, at).is_some()
            || calendar.weekdays.contains(&words[at].as_str())
    })
}

/// The days that a question means, read on the day `now`: "what did she say
/// last week?".
pub(super) fn days_meant(query: &str, language: TextLanguage, now: Timestamp) -> Option<Days> {
    let calendar = calendar(language);
    let words = words_of(query);
    let today = date_of(now);
    let numeric = query
        .split_whitespace()
        .find_map(|word| numeric_date(word, today));
    if let Some(date) = numeric {
        return Some(Days::one(date));
    }
    (0..words.len()).find_map(|at| {
        let phrase = calendar.phrase_at(&words, at);
        phrase
            .and_then(|when| when.days(today))
            .or_else(|| calendar.ago_at(&words, at)?.days(today))
            .or_else(|| calendar.last_weekday_at(&words, at, today))
    })
}

/// "2026-05-08", "08.05.2026", "8.5.": a date without a year is the last one that
/// was.
fn numeric_date(word: &str, today: Date) -> Option<Date> {
    let word = word.trim_matches(|c: char| !c.is_ascii_digit() && c != '.');
    if let Ok(date) = word.parse::<Date>() {
        return Some(date);
    }
    let mut parts = word.split('.');
    let day = parts.next()?.parse().ok()?;
    let month = parts.next()?.parse().ok()?;
    let date = |year: i16| Date::new(year, month, day).ok();
    match parts.next()? {
        "" => date(today.year())
            .filter(|d| *d <= today)
            .or_else(|| date(today.year() - 1)),
        year => date(year.parse().ok()?),
    }
}

/// Whether a question is about the last call: "what did we say last time?".
pub(super) fn means_last_call(query: &str) -> bool {
    const PHRASES: &[&str] = &[
        "last call",
        "last time",
        "previous call",
        "last conversation",
        "most recent call",
        "most recent conversation",
        "previous conversation",
        "letztes mal",
        "letzten mal",
        "letzter anruf",
        "letzten anruf",
        "letztes gespräch",
        "letzten gespräch",
        "última llamada",
        "última vez",
        "última conversación",
        "dernier appel",
        "dernière fois",
        "ultima chiamata",
        "ultima volta",
        "última ligação",
        "última chamada",
        "vorige keer",
        "laatste gesprek",
        "laatste keer",
        "förra samtalet",
        "förra gången",
        "senaste samtalet",
        "ostatnia rozmowa",
        "ostatniej rozmowie",
        "ostatnim razem",
        "последний звонок",
        "последний раз",
        "прошлый раз",
        "последнем разговоре",
    ];
    let query = query.to_lowercase();
    PHRASES.iter().any(|phrase| query.contains(phrase))
}

fn words_of(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '-'))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn weekday_index(day: Weekday) -> usize {
    usize::try_from(day.to_monday_zero_offset()).unwrap_or_default()
}

impl When {
    fn days(self, today: Date) -> Option<Days> {
        let back = |span: Span| today.checked_sub(span).ok();
        Some(match self {
            Self::Day(days) => Days::one(back(days.days())?),
            Self::Week(weeks) => {
                let since_monday = i32::from(today.weekday().to_monday_zero_offset());
                let first = back((weeks * 7 + since_monday).days())?;
                Days {
                    first,
                    last: first.checked_add(6.days()).ok()?,
                }
            }
            Self::Month(months) => {
                let date = back(months.months())?;
                Days {
                    first: date.first_of_month(),
                    last: date.last_of_month(),
                }
            }
            Self::Year(years) => {
                let date = back(years.years())?;
                Days {
                    first: date.first_of_year(),
                    last: date.last_of_year(),
                }
            }
        })
    }
}

impl Calendar {
    fn month(&self, date: Date) -> &'static str {
        let index = usize::try_from(date.month() - 1).unwrap_or_default();
        self.months[index]
    }

    fn phrase_at(&self, words: &[String], at: usize) -> Option<When> {
        let is_there = |phrase: &str| {
            let mut rest = words[at..].iter();
            phrase
                .split(' ')
                .all(|word| rest.next().is_some_and(|w| w == word))
        };
        // "the day before yesterday" is longer than "yesterday".
        let longest = self.phrases.iter().filter(|(phrase, _)| is_there(phrase));
        longest
            .max_by_key(|(phrase, _)| phrase.len())
            .map(|(_, when)| *when)
    }

    /// "two weeks ago", "vor zwei Wochen".
    fn ago_at(&self, words: &[String], at: usize) -> Option<When> {
        let word = |i: usize| words.get(i).map_or("", String::as_str);
        let stand_at = |place: usize, expected: &str| {
            let expected = expected.split_whitespace();
            expected
                .clone()
                .zip(place..)
                .all(|(e, i)| word(i) == e)
                .then(|| place + expected.count())
        };
        self.ago.iter().find_map(|(before, after)| {
            let place = stand_at(at, before)?;
            let count = self.number(word(place))?;
            let unit = word(place + 1);
            stand_at(place + 2, after)?;
            if self.days.contains(&unit) {
                Some(When::Day(count))
            } else if self.weeks.contains(&unit) {
                Some(When::Week(count))
            } else if self.months_long.contains(&unit) {
                Some(When::Month(count))
            } else {
                None
            }
        })
    }

    fn number(&self, word: &str) -> Option<i32> {
        if let Ok(number) = word.parse::<i32>() {
            return (1..=1_000).contains(&number).then_some(number);
        }
        let index = self
            .numbers
            .iter()
            .position(|forms| forms.split('/').any(|form| form == word))?;
        i32::try_from(index + 1).ok()
    }

    /// "last Tuesday", "letzten Dienstag", "martes pasado".
    fn last_weekday_at(&self, words: &[String], at: usize, today: Date) -> Option<Days> {
        let day = self.weekdays.iter().position(|day| words[at] == *day)?;
        let beside = [at.checked_sub(1), Some(at + 1)];
        let is_last = beside.into_iter().flatten().any(|i| {
            words
                .get(i)
                .is_some_and(|word| self.last.contains(&word.as_str()))
        });
        let day = i32::try_from(day).ok().filter(|_| is_last)?;
        let since = i32::from(today.weekday().to_monday_zero_offset()) - day;
        When::Day(if since > 0 { since } else { since + 7 }).days(today)
    }
}

/// A language without words of its own here has English ones.
fn calendar(language: TextLanguage) -> &'static Calendar {
    let own = CALENDARS
        .iter()
        .find(|calendar| calendar.language == language);
    own.unwrap_or(&CALENDARS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("{text}T12:00:00Z").parse().unwrap()
    }

    #[test]
    fn dates_are_said_as_people_say_them() {
        let day = at("2023-05-08");
        for (language, words, on) in [
            (TextLanguage::English, "monday 8 May 2023", "On 8 May 2023"),
            (TextLanguage::German, "montag 8 Mai 2023", "Am 8. Mai 2023"),
            (
                TextLanguage::Spanish,
                "lunes 8 mayo 2023",
                "El 8 de mayo de 2023",
            ),
            (
                TextLanguage::Portuguese,
                "segunda-feira 8 maio 2023",
                "Em 8 de maio de 2023",
            ),
            (
                TextLanguage::Polish,
                "poniedziałek 8 maja 2023",
                "8 maja 2023",
            ),
            // Without words of its own.
            (TextLanguage::Turkish, "monday 8 May 2023", "On 8 May 2023"),
        ] {
            assert_eq!(date_words(day, language), words);
            assert_eq!(on_date(day, language), on);
        }
    }

    #[test]
    fn relative_time_is_read_against_the_day_of_the_question() {
        // A Thursday.
        let now = at("2025-11-27");
        for (language, query, expected) in [
            (
                TextLanguage::English,
                "what did she order yesterday?",
                Some(("2025-11-26", "2025-11-26")),
            ),
            (
                TextLanguage::English,
                "the day before yesterday",
                Some(("2025-11-25", "2025-11-25")),
            ),
            (
                TextLanguage::English,
                "complaint last week",
                Some(("2025-11-17", "2025-11-23")),
            ),
            (
                TextLanguage::English,
                "two weeks ago",
                Some(("2025-11-10", "2025-11-16")),
            ),
            (
                TextLanguage::English,
                "3 days ago",
                Some(("2025-11-24", "2025-11-24")),
            ),
            (
                TextLanguage::English,
                "last Tuesday",
                Some(("2025-11-25", "2025-11-25")),
            ),
            (
                TextLanguage::English,
                "last Thursday",
                Some(("2025-11-20", "2025-11-20")),
            ),
            (TextLanguage::English, "on Tuesday", None),
            (
                TextLanguage::English,
                "2025-05-08?",
                Some(("2025-05-08", "2025-05-08")),
            ),
            (
                TextLanguage::German,
                "am 08.05.2025",
                Some(("2025-05-08", "2025-05-08")),
            ),
            (
                TextLanguage::German,
                "am 8.12. war was?",
                Some(("2024-12-08", "2024-12-08")),
            ),
            (TextLanguage::German, "3.5 Meter", None),
            (TextLanguage::English, "last order", None),
            (
                TextLanguage::German,
                "Was war letzten Monat?",
                Some(("2025-10-01", "2025-10-31")),
            ),
            (
                TextLanguage::German,
                "vor zwei Wochen",
                Some(("2025-11-10", "2025-11-16")),
            ),
            (
                TextLanguage::Spanish,
                "el martes pasado",
                Some(("2025-11-25", "2025-11-25")),
            ),
            (
                TextLanguage::French,
                "il y a 2 jours",
                Some(("2025-11-25", "2025-11-25")),
            ),
            (
                TextLanguage::Swedish,
                "för två veckor sedan",
                Some(("2025-11-10", "2025-11-16")),
            ),
            (
                TextLanguage::Polish,
                "w zeszłym roku",
                Some(("2024-01-01", "2024-12-31")),
            ),
            (
                TextLanguage::Russian,
                "на прошлой неделе",
                Some(("2025-11-17", "2025-11-23")),
            ),
        ] {
            let days = days_meant(query, language, now);
            let expected = expected.map(|(first, last): (&str, &str)| Days {
                first: first.parse().unwrap(),
                last: last.parse().unwrap(),
            });
            assert_eq!(days, expected, "{query}");
        }
        assert!(days_meant("last week", TextLanguage::English, Timestamp::MIN).is_none());
    }

    #[test]
    fn what_only_its_date_tells_is_seen() {
        assert!(is_relative("I need it tomorrow", TextLanguage::English));
        assert!(is_relative(
            "Kommt nächste Woche jemand?",
            TextLanguage::German
        ));
        assert!(!is_relative("I like roses", TextLanguage::English));
    }
}
