//! Whether a file is a database of ours, and whole.
//!
//! Damage is reported, never mended: what looks like an empty or broken file
//! may be all that is left of what callers said.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{MIGRATIONS, cannot_open, connect, sibling};
use crate::store::{Result, StoreError};

/// Added to the name of a database that is being restored, until it is whole
/// and in its place.
pub(super) const RESTORING: &str = ".restoring";
/// Tables that every version of the schema has.
const TABLES: &[&str] = &[
    "callers",
    "conversation_states",
    "inbox",
    "memories",
    "record_index",
];

/// What a database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Version of the schema.
    pub schema: u32,
    /// Callers with a Tier 1.
    pub callers: u64,
    /// What they said, and the facts collected.
    pub memories: u64,
    /// Events that are not learned, greeted or archived yet.
    pub open_events: u64,
    /// Events that were given up.
    pub dead_letters: u64,
    /// Records of an OpenMemory server that are in the index.
    pub indexed_records: u64,
}

/// Looks at the file before it is opened for writing: damage that shows in its
/// header, its schema or the first page of a table is found, whatever its
/// size. Changes nothing in the file. Whether it exists.
///
/// # Errors
/// If it is no whole database, or is missing where one was.
pub(super) fn examine(path: &Path) -> Result<bool> {
    let unusable = |why: &dyn std::fmt::Display| {
        StoreError::File(format!(
            "{} cannot be used as the database: {why}. Nothing was changed. Put a backup in its place with: \
             elaoms restore FILE",
            path.display()
        ))
    };
    let length = match path.metadata() {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            for left in ["-wal", RESTORING].map(|suffix| sibling(path, suffix)) {
                if left.exists() {
                    let why = format!(
                        "it is missing, though {} shows that there was one",
                        left.display()
                    );
                    return Err(unusable(&why));
                }
            }
            return Ok(false);
        }
        Err(error) => return Err(cannot_open(path, &error)),
    };
    if length == 0 {
        return Err(unusable(
            &"it is empty (if no database ever was there, remove it and start again)",
        ));
    }
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // What the log holds may stand beyond the end of the file.
    let log = sibling(path, "-wal").metadata().map_or(0, |log| log.len());
    let end = if log == 0 { length } else { u64::MAX };
    match look(&db, end) {
        Ok(true) => Ok(true),
        Ok(false) => Err(unusable(&"it is damaged")),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Err(unusable(&error)),
            // Its folder cannot be written, for instance.
            _ => Err(cannot_open(path, &error)),
        },
    }
}

/// Reads the pages that everything else hangs on; whether they are whole, and
/// all pages lie within so many bytes.
fn look(db: &Connection, bytes: u64) -> rusqlite::Result<bool> {
    let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    // SQLite itself reads a last page that is cut as if zeros followed.
    let pages = number("page_count")?.unsigned_abs();
    if pages * number("page_size")?.unsigned_abs() > bytes {
        return Ok(false);
    }
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0";
    let tables = strings(db, sql)?;
    for table in tables {
        // Names come from the file: quoted, they are nothing but names.
        let sql = format!("SELECT 1 FROM \"{}\" LIMIT 1", table.replace('"', "\"\""));
        db.prepare(&sql)?.exists([])?;
    }
    intact(db, "PRAGMA quick_check(sqlite_schema)")
}

/// Reads every page of a database: that it is one of ours, which this program
/// knows, and whole.
///
/// # Errors
/// If it is not.
pub(super) fn verify(db: &Connection) -> Result<Contents> {
    let damaged = |e: rusqlite::Error| StoreError::Corrupt(e.to_string());
    let schema = schema_version(db).map_err(damaged)?;
    let tables = strings(db, "SELECT name FROM sqlite_schema WHERE type = 'table'");
    let tables = tables.map_err(damaged)?;
    let is_there = |ours: &&str| tables.iter().any(|name| name == ours);
    if schema == 0 || !TABLES.iter().all(is_there) {
        return Err(StoreError::Corrupt("it is no database of ELAOMS".into()));
    }
    known(schema)?;
    if !intact(db, "PRAGMA integrity_check(1)").map_err(damaged)? {
        return Err(StoreError::Corrupt("it is damaged".into()));
    }
    let count = |sql: &str| -> Result<u64> {
        let count: i64 = db.query_row(sql, [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    };
    Ok(Contents {
        schema,
        callers: count("SELECT count(*) FROM callers")?,
        memories: count("SELECT count(*) FROM memories")?,
        open_events: count(
            "SELECT count(*) FROM inbox WHERE state IN ('queued', 'ready') OR (state = 'done' AND archived = 0)",
        )?,
        dead_letters: count("SELECT count(*) FROM inbox WHERE state = 'dead'")?,
        indexed_records: count("SELECT count(*) FROM record_index")?,
    })
}

/// How many migrations were applied.
pub(super) fn schema_version(db: &Connection) -> rusqlite::Result<u32> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// That this program knows the schema.
pub(super) fn known(schema: u32) -> Result<()> {
    if schema as usize > MIGRATIONS.len() {
        return Err(StoreError::File(format!(
            "the database has schema version {schema}, this program knows {} and older",
            MIGRATIONS.len()
        )));
    }
    Ok(())
}

/// The result of one of SQLite's own checks. What it finds is not passed on: it
/// may quote what is stored.
fn intact(db: &Connection, check: &str) -> rusqlite::Result<bool> {
    let found: String = db.query_row(check, [], |row| row.get(0))?;
    Ok(found == "ok")
}

fn strings(db: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}
