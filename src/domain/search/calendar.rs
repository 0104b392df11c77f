//! Dates in words, and relative time ("last week") read against a date.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

use super::text_language::TextLanguage;

/// The words of one language for dates. Folded to lower case, but for what is shown.
struct Calendar {
    language: TextLanguage,
    /// As they stand in a date, in the language's own writing.
    months: [&'static str; 12],
    /// From Monday on.
    weekdays: [&'static str; 7],
    /// Before and after a date in a sentence, and between day, month and year.
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

/// A day from which any span of a phrase can be counted.
const ANY_DAY: Date = jiff::civil::date(2000, 1, 1);

/// Days from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    pub first: Date,
    pub last: Date,
}

impl Days {
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
    let (before, after, between) = calendar.on;
    format!(
        "{before}{}{between}{}{}{}{}",
        date.day(),
        calendar.month(date),
        if between == " de " { " de " } else { " " },
        date.year(),
        after
    )
}

/// Whether a text speaks of a time that only its date tells: "tomorrow".
pub(super) fn is_relative(text: &str, language: TextLanguage) -> bool {
    let calendar = calendar(language);
    let words = words_of(text);
    (0..words.len()).any(|at| {
        calendar.phrase_at(&words, at).is_some()
            || calendar.ago_at(&words, at, ANY_DAY).is_some()
            || calendar.weekdays.contains(&words[at].as_str())
    })
}

/// The days that a question means, read on the day `now`: "what did she say
/// last week?".
pub(super) fn days_meant(query: &str, language: TextLanguage, now: Timestamp) -> Option<Days> {
    let calendar = calendar(language);
    let words = words_of(query);
    let today = date_of(now);
    (0..words.len()).find_map(|at| {
        let phrase = calendar.phrase_at(&words, at);
        phrase
            .and_then(|when| when.days(today))
            .or_else(|| calendar.ago_at(&words, at, today))
            .or_else(|| calendar.last_weekday_at(&words, at, today))
    })
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
    fn ago_at(&self, words: &[String], at: usize, today: Date) -> Option<Days> {
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
            let when = if self.days.contains(&unit) {
                When::Day(count)
            } else if self.weeks.contains(&unit) {
                When::Week(count)
            } else if self.months_long.contains(&unit) {
                When::Month(count)
            } else {
                return None;
            };
            when.days(today)
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

static CALENDARS: [Calendar; 10] = [
    Calendar {
        language: TextLanguage::English,
        months: [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ],
        weekdays: [
            "monday",
            "tuesday",
            "wednesday",
            "thursday",
            "friday",
            "saturday",
            "sunday",
        ],
        on: ("On ", "", " "),
        phrases: &[
            ("today", When::Day(0)),
            ("tonight", When::Day(0)),
            ("yesterday", When::Day(1)),
            ("day before yesterday", When::Day(2)),
            ("tomorrow", When::Day(-1)),
            ("this week", When::Week(0)),
            ("last week", When::Week(1)),
            ("next week", When::Week(-1)),
            ("this month", When::Month(0)),
            ("last month", When::Month(1)),
            ("next month", When::Month(-1)),
            ("this year", When::Year(0)),
            ("last year", When::Year(1)),
            ("next year", When::Year(-1)),
        ],
        ago: &[("", "ago")],
        days: &["day", "days"],
        weeks: &["week", "weeks"],
        months_long: &["month", "months"],
        last: &["last"],
        numbers: &["a/one", "two", "three", "four", "five", "six"],
    },
    Calendar {
        language: TextLanguage::German,
        months: [
            "Januar",
            "Februar",
            "März",
            "April",
            "Mai",
            "Juni",
            "Juli",
            "August",
            "September",
            "Oktober",
            "November",
            "Dezember",
        ],
        weekdays: [
            "montag",
            "dienstag",
            "mittwoch",
            "donnerstag",
            "freitag",
            "samstag",
            "sonntag",
        ],
        on: ("Am ", "", ". "),
        phrases: &[
            ("heute", When::Day(0)),
            ("gestern", When::Day(1)),
            ("vorgestern", When::Day(2)),
            ("morgen", When::Day(-1)),
            ("übermorgen", When::Day(-2)),
            ("diese woche", When::Week(0)),
            ("dieser woche", When::Week(0)),
            ("letzte woche", When::Week(1)),
            ("letzter woche", When::Week(1)),
            ("vergangene woche", When::Week(1)),
            ("nächste woche", When::Week(-1)),
            ("nächster woche", When::Week(-1)),
            ("diesen monat", When::Month(0)),
            ("letzten monat", When::Month(1)),
            ("vergangenen monat", When::Month(1)),
            ("nächsten monat", When::Month(-1)),
            ("dieses jahr", When::Year(0)),
            ("letztes jahr", When::Year(1)),
            ("letzten jahr", When::Year(1)),
            ("nächstes jahr", When::Year(-1)),
        ],
        ago: &[("vor", "")],
        days: &["tag", "tage", "tagen"],
        weeks: &["woche", "wochen"],
        months_long: &["monat", "monate", "monaten"],
        last: &["letzten", "letzter", "letzte", "vergangenen"],
        numbers: &[
            "einem/einer/ein/eine",
            "zwei",
            "drei",
            "vier",
            "fünf",
            "sechs",
        ],
    },
    Calendar {
        language: TextLanguage::Spanish,
        months: [
            "enero",
            "febrero",
            "marzo",
            "abril",
            "mayo",
            "junio",
            "julio",
            "agosto",
            "septiembre",
            "octubre",
            "noviembre",
            "diciembre",
        ],
        weekdays: [
            "lunes",
            "martes",
            "miércoles",
            "jueves",
            "viernes",
            "sábado",
            "domingo",
        ],
        on: ("El ", "", " de "),
        phrases: &[
            ("hoy", When::Day(0)),
            ("ayer", When::Day(1)),
            ("anteayer", When::Day(2)),
            ("antes de ayer", When::Day(2)),
            ("pasado mañana", When::Day(-2)),
            ("mañana", When::Day(-1)),
            ("esta semana", When::Week(0)),
            ("la semana pasada", When::Week(1)),
            ("semana pasada", When::Week(1)),
            ("semana que viene", When::Week(-1)),
            ("próxima semana", When::Week(-1)),
            ("este mes", When::Month(0)),
            ("mes pasado", When::Month(1)),
            ("próximo mes", When::Month(-1)),
            ("mes que viene", When::Month(-1)),
            ("este año", When::Year(0)),
            ("año pasado", When::Year(1)),
            ("próximo año", When::Year(-1)),
        ],
        ago: &[("hace", "")],
        days: &["día", "días"],
        weeks: &["semana", "semanas"],
        months_long: &["mes", "meses"],
        last: &["pasado", "último"],
        numbers: &["un/una/uno", "dos", "tres", "cuatro", "cinco", "seis"],
    },
    Calendar {
        language: TextLanguage::French,
        months: [
            "janvier",
            "février",
            "mars",
            "avril",
            "mai",
            "juin",
            "juillet",
            "août",
            "septembre",
            "octobre",
            "novembre",
            "décembre",
        ],
        weekdays: [
            "lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche",
        ],
        on: ("Le ", "", " "),
        phrases: &[
            ("aujourd'hui", When::Day(0)),
            ("ce soir", When::Day(0)),
            ("hier", When::Day(1)),
            ("avant-hier", When::Day(2)),
            ("demain", When::Day(-1)),
            ("après-demain", When::Day(-2)),
            ("cette semaine", When::Week(0)),
            ("semaine dernière", When::Week(1)),
            ("semaine prochaine", When::Week(-1)),
            ("ce mois-ci", When::Month(0)),
            ("mois dernier", When::Month(1)),
            ("mois prochain", When::Month(-1)),
            ("cette année", When::Year(0)),
            ("année dernière", When::Year(1)),
            ("l'année dernière", When::Year(1)),
            ("an dernier", When::Year(1)),
            ("l'an dernier", When::Year(1)),
            ("année prochaine", When::Year(-1)),
        ],
        ago: &[("il y a", "")],
        days: &["jour", "jours"],
        weeks: &["semaine", "semaines"],
        months_long: &["mois"],
        last: &["dernier"],
        numbers: &["un/une", "deux", "trois", "quatre", "cinq", "six"],
    },
    Calendar {
        language: TextLanguage::Italian,
        months: [
            "gennaio",
            "febbraio",
            "marzo",
            "aprile",
            "maggio",
            "giugno",
            "luglio",
            "agosto",
            "settembre",
            "ottobre",
            "novembre",
            "dicembre",
        ],
        weekdays: [
            "lunedì",
            "martedì",
            "mercoledì",
            "giovedì",
            "venerdì",
            "sabato",
            "domenica",
        ],
        on: ("Il ", "", " "),
        phrases: &[
            ("oggi", When::Day(0)),
            ("stasera", When::Day(0)),
            ("ieri", When::Day(1)),
            ("l'altro ieri", When::Day(2)),
            ("domani", When::Day(-1)),
            ("dopodomani", When::Day(-2)),
            ("questa settimana", When::Week(0)),
            ("settimana scorsa", When::Week(1)),
            ("scorsa settimana", When::Week(1)),
            ("prossima settimana", When::Week(-1)),
            ("settimana prossima", When::Week(-1)),
            ("questo mese", When::Month(0)),
            ("mese scorso", When::Month(1)),
            ("scorso mese", When::Month(1)),
            ("mese prossimo", When::Month(-1)),
            ("prossimo mese", When::Month(-1)),
            ("quest'anno", When::Year(0)),
            ("anno scorso", When::Year(1)),
            ("l'anno scorso", When::Year(1)),
            ("scorso anno", When::Year(1)),
            ("prossimo anno", When::Year(-1)),
        ],
        ago: &[("", "fa")],
        days: &["giorno", "giorni"],
        weeks: &["settimana", "settimane"],
        months_long: &["mese", "mesi"],
        last: &["scorso", "scorsa"],
        numbers: &["un/una/uno", "due", "tre", "quattro", "cinque", "sei"],
    },
    Calendar {
        language: TextLanguage::Portuguese,
        months: [
            "janeiro",
            "fevereiro",
            "março",
            "abril",
            "maio",
            "junho",
            "julho",
            "agosto",
            "setembro",
            "outubro",
            "novembro",
            "dezembro",
        ],
        weekdays: [
            "segunda-feira",
            "terça-feira",
            "quarta-feira",
            "quinta-feira",
            "sexta-feira",
            "sábado",
            "domingo",
        ],
        on: ("Em ", "", " de "),
        phrases: &[
            ("hoje", When::Day(0)),
            ("ontem", When::Day(1)),
            ("anteontem", When::Day(2)),
            ("amanhã", When::Day(-1)),
            ("depois de amanhã", When::Day(-2)),
            ("esta semana", When::Week(0)),
            ("semana passada", When::Week(1)),
            ("semana que vem", When::Week(-1)),
            ("próxima semana", When::Week(-1)),
            ("este mês", When::Month(0)),
            ("mês passado", When::Month(1)),
            ("mês que vem", When::Month(-1)),
            ("próximo mês", When::Month(-1)),
            ("este ano", When::Year(0)),
            ("ano passado", When::Year(1)),
            ("ano que vem", When::Year(-1)),
            ("próximo ano", When::Year(-1)),
        ],
        ago: &[("há", ""), ("faz", ""), ("", "atrás")],
        days: &["dia", "dias"],
        weeks: &["semana", "semanas"],
        months_long: &["mês", "meses"],
        last: &["passada", "passado", "última", "último"],
        numbers: &["um/uma", "dois/duas", "três", "quatro", "cinco", "seis"],
    },
    Calendar {
        language: TextLanguage::Dutch,
        months: [
            "januari",
            "februari",
            "maart",
            "april",
            "mei",
            "juni",
            "juli",
            "augustus",
            "september",
            "oktober",
            "november",
            "december",
        ],
        weekdays: [
            "maandag",
            "dinsdag",
            "woensdag",
            "donderdag",
            "vrijdag",
            "zaterdag",
            "zondag",
        ],
        on: ("Op ", "", " "),
        phrases: &[
            ("vandaag", When::Day(0)),
            ("vanavond", When::Day(0)),
            ("gisteren", When::Day(1)),
            ("eergisteren", When::Day(2)),
            ("morgen", When::Day(-1)),
            ("overmorgen", When::Day(-2)),
            ("deze week", When::Week(0)),
            ("vorige week", When::Week(1)),
            ("afgelopen week", When::Week(1)),
            ("volgende week", When::Week(-1)),
            ("deze maand", When::Month(0)),
            ("vorige maand", When::Month(1)),
            ("afgelopen maand", When::Month(1)),
            ("volgende maand", When::Month(-1)),
            ("dit jaar", When::Year(0)),
            ("vorig jaar", When::Year(1)),
            ("volgend jaar", When::Year(-1)),
        ],
        ago: &[("", "geleden")],
        days: &["dag", "dagen"],
        weeks: &["week", "weken"],
        months_long: &["maand", "maanden"],
        last: &["vorige", "afgelopen", "laatste"],
        numbers: &["een/één", "twee", "drie", "vier", "vijf", "zes"],
    },
    Calendar {
        language: TextLanguage::Swedish,
        months: [
            "januari",
            "februari",
            "mars",
            "april",
            "maj",
            "juni",
            "juli",
            "augusti",
            "september",
            "oktober",
            "november",
            "december",
        ],
        weekdays: [
            "måndag", "tisdag", "onsdag", "torsdag", "fredag", "lördag", "söndag",
        ],
        on: ("Den ", "", " "),
        phrases: &[
            ("idag", When::Day(0)),
            ("i dag", When::Day(0)),
            ("ikväll", When::Day(0)),
            ("i kväll", When::Day(0)),
            ("igår", When::Day(1)),
            ("i går", When::Day(1)),
            ("i förrgår", When::Day(2)),
            ("förrgår", When::Day(2)),
            ("imorgon", When::Day(-1)),
            ("i morgon", When::Day(-1)),
            ("i övermorgon", When::Day(-2)),
            ("den här veckan", When::Week(0)),
            ("förra veckan", When::Week(1)),
            ("nästa vecka", When::Week(-1)),
            ("den här månaden", When::Month(0)),
            ("förra månaden", When::Month(1)),
            ("nästa månad", When::Month(-1)),
            ("i år", When::Year(0)),
            ("förra året", When::Year(1)),
            ("i fjol", When::Year(1)),
            ("nästa år", When::Year(-1)),
        ],
        ago: &[("för", "sedan"), ("för", "sen")],
        days: &["dag", "dagar"],
        weeks: &["vecka", "veckor"],
        months_long: &["månad", "månader"],
        last: &["förra", "senaste"],
        numbers: &["en/ett", "två", "tre", "fyra", "fem", "sex"],
    },
    Calendar {
        language: TextLanguage::Polish,
        months: [
            "stycznia",
            "lutego",
            "marca",
            "kwietnia",
            "maja",
            "czerwca",
            "lipca",
            "sierpnia",
            "września",
            "października",
            "listopada",
            "grudnia",
        ],
        weekdays: [
            "poniedziałek",
            "wtorek",
            "środa",
            "czwartek",
            "piątek",
            "sobota",
            "niedziela",
        ],
        on: ("", "", " "),
        phrases: &[
            ("dzisiaj", When::Day(0)),
            ("dziś", When::Day(0)),
            ("wczoraj", When::Day(1)),
            ("przedwczoraj", When::Day(2)),
            ("jutro", When::Day(-1)),
            ("pojutrze", When::Day(-2)),
            ("w tym tygodniu", When::Week(0)),
            ("tym tygodniu", When::Week(0)),
            ("zeszłym tygodniu", When::Week(1)),
            ("ubiegłym tygodniu", When::Week(1)),
            ("poprzednim tygodniu", When::Week(1)),
            ("przyszłym tygodniu", When::Week(-1)),
            ("następnym tygodniu", When::Week(-1)),
            ("tym miesiącu", When::Month(0)),
            ("zeszłym miesiącu", When::Month(1)),
            ("ubiegłym miesiącu", When::Month(1)),
            ("przyszłym miesiącu", When::Month(-1)),
            ("tym roku", When::Year(0)),
            ("zeszłym roku", When::Year(1)),
            ("ubiegłym roku", When::Year(1)),
            ("przyszłym roku", When::Year(-1)),
        ],
        ago: &[("", "temu")],
        days: &["dzień", "dni"],
        weeks: &["tydzień", "tygodnie", "tygodni"],
        months_long: &["miesiąc", "miesiące", "miesięcy"],
        last: &[
            "zeszły",
            "zeszłą",
            "ostatni",
            "ostatnią",
            "ubiegły",
            "ubiegłą",
        ],
        numbers: &["jeden", "dwa", "trzy", "cztery", "pięć", "sześć"],
    },
    Calendar {
        language: TextLanguage::Russian,
        months: [
            "января",
            "февраля",
            "марта",
            "апреля",
            "мая",
            "июня",
            "июля",
            "августа",
            "сентября",
            "октября",
            "ноября",
            "декабря",
        ],
        weekdays: [
            "понедельник",
            "вторник",
            "среда",
            "четверг",
            "пятница",
            "суббота",
            "воскресенье",
        ],
        on: ("", "", " "),
        phrases: &[
            ("сегодня", When::Day(0)),
            ("вчера", When::Day(1)),
            ("позавчера", When::Day(2)),
            ("завтра", When::Day(-1)),
            ("послезавтра", When::Day(-2)),
            ("этой неделе", When::Week(0)),
            ("прошлой неделе", When::Week(1)),
            ("прошлую неделю", When::Week(1)),
            ("следующей неделе", When::Week(-1)),
            ("этом месяце", When::Month(0)),
            ("прошлом месяце", When::Month(1)),
            ("следующем месяце", When::Month(-1)),
            ("этом году", When::Year(0)),
            ("прошлом году", When::Year(1)),
            ("следующем году", When::Year(-1)),
        ],
        ago: &[("", "назад")],
        days: &["день", "дня", "дней"],
        weeks: &["неделю", "недели", "недель"],
        months_long: &["месяц", "месяца", "месяцев"],
        last: &["прошлый", "прошлую", "последний"],
        numbers: &["один/одну", "два/две", "три", "четыре", "пять", "шесть"],
    },
];

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
