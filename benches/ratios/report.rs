//! The report: a table of ratios, and the plots.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Result;
use super::load::{Measured, PERCENTILES};
use super::plots::{Line, plot};

/// What was measured.
pub struct Report {
    rounds: usize,
    round: Duration,
    rows: Vec<Row>,
    /// Bytes that a session takes.
    session: Option<f64>,
    latencies: Vec<Line>,
    connections: [Line; 2],
    sessions: Line,
    known: Line,
}

/// One ratio, over several rounds.
pub struct Row {
    what: String,
    against: &'static str,
    unit: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    target: Option<Target>,
}

#[derive(Clone, Copy)]
enum Target {
    Least(f64),
    Most(f64),
}

impl Row {
    /// Requests a second.
    pub fn throughput(what: &str, against: &'static str, rounds: &[(Measured, Measured)]) -> Self {
        Self::new(what.to_owned(), against, "/s", rounds, |m| m.rate)
    }

    /// The latency that one request in a hundred exceeds.
    pub fn p99(what: &str, against: &'static str, rounds: &[(Measured, Measured)]) -> Self {
        let what = format!("{what}: p99");
        Self::new(what, against, " ms", rounds, |m| m.p99() / 1e3)
    }

    fn new(
        what: String,
        against: &'static str,
        unit: &'static str,
        rounds: &[(Measured, Measured)],
        value: impl Fn(&Measured) -> f64,
    ) -> Self {
        Self {
            what,
            against,
            unit,
            ours: rounds.iter().map(|(ours, _)| value(ours)).collect(),
            theirs: rounds.iter().map(|(_, theirs)| value(theirs)).collect(),
            target: None,
        }
    }

    pub fn least(self, ratio: f64) -> Self {
        Self {
            target: Some(Target::Least(ratio)),
            ..self
        }
    }

    pub fn most(self, ratio: f64) -> Self {
        Self {
            target: Some(Target::Most(ratio)),
            ..self
        }
    }

    fn ratios(&self) -> Vec<f64> {
        let rounds = self.ours.iter().zip(&self.theirs);
        rounds.map(|(ours, theirs)| ours / theirs).collect()
    }

    fn render(&self) -> String {
        let ratio = median(&self.ratios());
        let (wanted, reached) = match self.target {
            Some(Target::Least(least)) => (format!("≥ {least}"), ratio >= least),
            Some(Target::Most(most)) => (format!("≤ {most}"), ratio <= most),
            None => (String::new(), true),
        };
        let (low, high) = spread(&self.ratios());
        format!(
            "| {} | {} | {}{unit} | {}{unit} | **{ratio:.2}** | {low:.2}–{high:.2} | {wanted} | {} |\n",
            self.what,
            self.against,
            number(median(&self.ours)),
            number(median(&self.theirs)),
            if reached { "yes" } else { "no" },
            unit = self.unit,
        )
    }
}

impl Report {
    pub fn new(rounds: usize, round: Duration) -> Self {
        let line = |name: &str| Line::new(name);
        Self {
            rounds,
            round,
            rows: Vec::new(),
            session: None,
            latencies: Vec::new(),
            connections: [line("ELAOMS"), line("bare warp")],
            sessions: line("ELAOMS"),
            known: line("ELAOMS"),
        }
    }

    pub fn push(&mut self, row: Row) {
        eprint!("{}", row.render());
        self.rows.push(row);
    }

    pub fn memory(&mut self, bytes: f64) {
        eprintln!("a session: {bytes:.0} bytes");
        self.session = Some(bytes);
    }

    /// The latency distribution of a comparison.
    pub fn latencies(&mut self, rounds: &[(Measured, Measured)]) {
        let line = |name: &str, side: fn(&(Measured, Measured)) -> &Measured| {
            let mut line = Line::new(name);
            for (i, percent) in PERCENTILES.iter().enumerate() {
                let values: Vec<f64> = rounds
                    .iter()
                    .map(|round| side(round).percentiles[i] / 1e3)
                    .collect();
                // How many times one in so many requests: 99 % is 100.
                line.push(1.0 / (1.0 - percent / 100.0), median(&values));
            }
            line
        };
        self.latencies = vec![line("ELAOMS", |r| &r.0), line("bare warp", |r| &r.1)];
    }

    pub fn connections(&mut self, connections: usize, ours: &Measured, theirs: &Measured) {
        self.connections[0].push(connections as f64, ours.rate);
        self.connections[1].push(connections as f64, theirs.rate);
    }

    pub fn sessions(&mut self, active: usize, measured: &Measured) {
        self.sessions.push(active as f64, measured.p99() / 1e3);
    }

    pub fn known(&mut self, callers: usize, measured: &Measured) {
        self.known.push(callers as f64, measured.p99() / 1e3);
    }

    /// Writes the report and its plots; returns where it is.
    pub fn write(&self, project: &Path) -> Result<PathBuf> {
        let folder = project.join("target/bench");
        std::fs::create_dir_all(&folder)?;
        let mut text = format!(
            "# ELAOMS beside bare baselines\n\n{}, {}. {} rounds of {} s a side, in turns; wrk on the same processors.\n\n",
            jiff::Zoned::now().date(),
            machine(),
            self.rounds,
            self.round.as_secs(),
        );
        text += "| what | against | ELAOMS | baseline | ratio | rounds | wanted | reached |\n|---|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            text += &row.render();
        }
        if let Some(bytes) = self.session {
            writeln!(
                text,
                "| active session without a loaded index | – | {bytes:.0} bytes | – | – | – | ≤ 4096 bytes | {} |",
                if bytes <= 4096.0 { "yes" } else { "no" }
            )?;
        }
        let plots = [
            (
                "latency",
                "Latency of a warm ring: one request in so many takes longer",
                "one in",
                "ms",
                &self.latencies[..],
            ),
            (
                "connections",
                "Warm rings a second",
                "connections",
                "rings/s",
                &self.connections[..],
            ),
            (
                "sessions",
                "p99 of a warm ring",
                "active sessions",
                "ms",
                std::slice::from_ref(&self.sessions),
            ),
            (
                "callers",
                "p99 of a warm ring",
                "known callers",
                "ms",
                std::slice::from_ref(&self.known),
            ),
        ];
        for (name, title, x, y, lines) in plots {
            plot(&folder.join(format!("{name}.svg")), title, x, y, lines)?;
            write!(text, "\n![{title}]({name}.svg)\n")?;
        }
        let path = folder.join("report.md");
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{processors} × {}",
        model.unwrap_or_else(|| "unknown processor".into())
    )
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}
