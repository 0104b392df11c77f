//! The table at the end: what was, what is.

use crate::cli::output::Output;

/// How a line of the table is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// As it should be already.
    Kept,
    /// Changed, or to be changed if nothing is written.
    Changed,
    /// Left alone or not done, and why.
    Warning,
}

/// The lines of the table, in the order in which things were done.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<(Mark, String, String)>,
    /// Whether it only tells what would be done.
    pub dry_run: bool,
}

impl Report {
    pub fn kept(&mut self, what: impl Into<String>, how: impl Into<String>) {
        self.rows.push((Mark::Kept, what.into(), how.into()));
    }

    pub fn changed(&mut self, what: impl Into<String>, how: impl Into<String>) {
        self.rows.push((Mark::Changed, what.into(), how.into()));
    }

    pub fn warn(&mut self, what: impl Into<String>, how: impl Into<String>) {
        self.rows.push((Mark::Warning, what.into(), how.into()));
    }

    /// How many things were changed, or would be.
    pub fn changes(&self) -> usize {
        let changed = self.rows.iter().filter(|row| row.0 == Mark::Changed);
        changed.count()
    }

    pub fn has_warnings(&self) -> bool {
        self.rows.iter().any(|row| row.0 == Mark::Warning)
    }

    pub fn print(&self, output: &mut Output) {
        let widths = self.rows.iter().map(|row| row.1.chars().count());
        let width = widths.max().unwrap_or_default().min(40);
        for (mark, what, how) in &self.rows {
            let mark = match mark {
                Mark::Kept => " ok ",
                Mark::Changed if self.dry_run => "    ",
                Mark::Changed => "done",
                Mark::Warning => "WARN",
            };
            let how = how.replace('\n', &format!("\n{:indent$}", "", indent = width + 7));
            writeln!(output, "{mark} {what:width$}  {how}");
        }
    }
}
