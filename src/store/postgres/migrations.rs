//! The schema, version by version.
//!
//! Each version only adds, so that instances of the version before go on
//! working while the new one is rolled out; what is not needed any more goes
//! with the version after.

use super::connections::Connections;
use crate::store::{Result, StoreError};

/// Schema versions in order.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_traces.sql"),
    include_str!("migrations/0003_reconciliation.sql"),
    include_str!("migrations/0004_search.sql"),
];
/// The key of the lock under which one instance at a time migrates.
const LOCK: i64 = 0x0065_6c61_6f6d_7301;

/// Whether a version was ever applied.
pub(super) async fn any(pool: &Connections) -> Result<bool> {
    let any = sqlx::query_scalar("SELECT to_regclass('schema_versions') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    Ok(any)
}

/// Brings the schema up to date.
///
/// # Errors
/// If the database fails, or was made by a newer version that this one does
/// not know.
pub(super) async fn run(pool: &Connections) -> Result<()> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut transaction)
        .await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_versions (
             version    INT PRIMARY KEY,
             applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
         )",
    )
    .execute(&mut transaction)
    .await?;
    let (applied,): (i32,) =
        sqlx::query_as("SELECT coalesce(max(version), 0) FROM schema_versions")
            .fetch_one(&mut transaction)
            .await?;
    let applied = usize::try_from(applied).unwrap_or_default();
    if applied > MIGRATIONS.len() {
        return Err(StoreError::File(format!(
            "the database has schema version {applied}, this program knows {} and older",
            MIGRATIONS.len()
        )));
    }
    for (version, script) in (1i32..).zip(MIGRATIONS).skip(applied) {
        sqlx::raw_sql(*script).execute(&mut transaction).await?;
        sqlx::query("INSERT INTO schema_versions (version) VALUES ($1)")
            .bind(version)
            .execute(&mut transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}
