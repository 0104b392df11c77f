//! Taking over what an SQLite database holds beside the memories: the inbox with
//! its dead letters, what operators decided and did, agents' profiles, and which
//! calls were learned or erased. Broken off, it can be repeated.

use jiff::Timestamp;
use sqlx::PgExecutor;

use super::connections::Transaction;
use super::register::begin_erasure;
use super::rows::text;
use super::{PostgresDatabase, slot};
use crate::store::transfer::{AuditRow, InboxRow, LearnedRow, Moved};
use crate::store::{
    Decision, Ledger, PostgresLedger, PostgresRegister, Register, Result, SqliteDatabase,
    SqliteLedger, SqliteRegister, StoreError,
};

/// Rows copied at a time.
const PORTION: i64 = 500;
/// The same, of rows with bodies.
const BODIES: i64 = 50;

/// Copies everything but the memories.
///
/// # Errors
/// If a database fails, or instances work on the target: what they take in
/// would get into the order of the calls that are copied.
pub async fn move_ledger(from: &SqliteDatabase, to: &PostgresDatabase) -> Result<Moved> {
    let others: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM instances WHERE alive_until > clock_timestamp() AND id <> $1",
    )
    .bind(to.instance.id())
    .fetch_one(&to.work)
    .await?;
    if others > 0 {
        return Err(StoreError::File(format!(
            "{others} instances run on the target; stop them first"
        )));
    }
    refuse_used(from, to).await?;
    let mut moved = Moved::default();
    copy_decisions(from, to).await?;
    let mut after = String::new();
    while let Some((last, rows)) =
        portion(from.erased_after(after, PORTION).await?, |r| r.0.clone())
    {
        insert_erased(&to.work, rows).await?;
        after = last;
    }
    let mut after = String::new();
    let id = |row: &LearnedRow| row.conversation_id.clone();
    while let Some((last, rows)) = portion(from.learned_after(after, PORTION).await?, id) {
        insert_learned(&to.work, rows).await?;
        after = last;
    }
    let mut after = i64::MIN;
    while let Some((last, rows)) = portion(from.inbox_after(after, BODIES).await?, |r| r.id) {
        moved.events += rows.len() as u64;
        let mut transaction = to.begin().await?;
        insert_inbox(&mut transaction, &rows).await?;
        transaction.commit().await?;
        after = last;
    }
    let mut after = i64::MIN;
    while let Some((last, rows)) = portion(from.audit_after(after, PORTION).await?, |r| r.id) {
        moved.audit += rows.len() as u64;
        insert_audit(&to.work, rows).await?;
        after = last;
    }
    // New rows get numbers behind those.
    for table in ["inbox", "audit_log"] {
        let sql = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', 'id'),
                 greatest((SELECT coalesce(max(id), 0) FROM {table}) + 1, nextval(pg_get_serial_sequence('{table}', 'id'))), FALSE)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&to.work)
            .await?;
    }
    let (source, target) = (
        SqliteLedger::new(from.clone()),
        PostgresLedger::new(to.clone()),
    );
    for agent in source.agents().await? {
        moved.agents += 1;
        target.save_agent(agent).await?;
    }
    if let Some(until) = source.reconciled_until().await? {
        target.set_reconciled_until(until).await?;
    }
    copy_figures(&source, &target).await?;
    Ok(moved)
}

/// What is counted by day. What is there was copied before, and is not added again.
async fn copy_figures(from: &SqliteLedger, to: &PostgresLedger) -> Result<()> {
    let all = String::new;
    let there = to.figures(all()).await?;
    for (day, name, value) in from.figures(all()).await? {
        let is_there = there.iter().any(|(d, n, _)| *d == day && *n == name);
        if !is_there {
            to.add_figures(day, vec![(name, value)]).await?;
        }
    }
    Ok(())
}

/// A target that has served since it was copied to knows better: what was erased
/// or decided there must not come back.
async fn refuse_used(from: &SqliteDatabase, to: &PostgresDatabase) -> Result<()> {
    let used: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM inbox WHERE fence > 0) OR (SELECT count(*) FROM audit_log) > $1",
    )
    .bind(from.audit_entries().await?)
    .fetch_one(&to.work)
    .await?;
    if used {
        return Err(StoreError::File(
            "the target has served since: copying would bring back what was changed or erased there".into(),
        ));
    }
    Ok(())
}

/// The rows, and the last one's place, or nothing if there are none.
fn portion<T, P>(rows: Vec<T>, place: impl Fn(&T) -> P) -> Option<(P, Vec<T>)> {
    let last = place(rows.last()?);
    Some((last, rows))
}

async fn copy_decisions(from: &SqliteDatabase, to: &PostgresDatabase) -> Result<()> {
    let (source, target) = (
        SqliteRegister::new(from.clone()),
        PostgresRegister::new(to.clone()),
    );
    let now = Timestamp::now();
    let standings = source.standings().await?;
    let out = standings.opted_out.into_iter();
    let shared = standings.shared.into_iter();
    let linked = standings.aliases.into_iter();
    let decisions = out
        .map(|caller| Decision::OptOut(caller, true))
        .chain(shared.map(|caller| Decision::Share(caller, true)))
        .chain(linked.map(|(alias, caller)| Decision::Link(alias, Some(caller))));
    for decision in decisions {
        target.decide(decision, now).await?;
    }
    for erasure in source.pending_erasures().await? {
        let (conversations, forgotten) = (&erasure.conversations, erasure.forgotten);
        begin_erasure(&to.work, &erasure.caller, conversations, forgotten, now).await?;
    }
    Ok(())
}

async fn insert_erased(db: impl PgExecutor<'_>, rows: Vec<(String, i64)>) -> Result<()> {
    let (marks, times): (Vec<String>, Vec<i64>) = rows.into_iter().unzip();
    sqlx::query(
        "INSERT INTO erased_calls (mark, at) SELECT * FROM unnest($1::text[], $2::bigint[])
         ON CONFLICT DO NOTHING",
    )
    .bind(marks)
    .bind(times)
    .execute(db)
    .await?;
    Ok(())
}

async fn insert_learned(db: impl PgExecutor<'_>, rows: Vec<LearnedRow>) -> Result<()> {
    let column = |of: fn(&LearnedRow) -> &str| rows.iter().map(|r| text(of(r))).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO learned_calls (conversation_id, caller, agent, learned_at)
         SELECT id, caller, agent, to_timestamp(seconds)
         FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[]) AS c (id, caller, agent, seconds)
         ON CONFLICT DO NOTHING",
    )
    .bind(column(|r| &r.conversation_id))
    .bind(column(|r| &r.caller))
    .bind(column(|r| &r.agent))
    .bind(rows.iter().map(|r| r.learned_at).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

async fn insert_inbox(db: &mut Transaction, rows: &[InboxRow]) -> Result<()> {
    for row in rows {
        sqlx::query(
            "INSERT INTO inbox (id, event_key, kind, conversation_id, agent, caller, started_at, greeting_wanted,
                 stage, state, attempts, crashes, unusable, run_at, received_at, greet_since, archived, archive_at,
                 last_error, payload, slot)
             OVERRIDING SYSTEM VALUE
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
             ON CONFLICT (event_key) DO NOTHING",
        )
        .bind(row.id)
        .bind(text(&row.event_key))
        .bind(&row.kind)
        .bind(row.conversation_id.as_deref().map(text))
        .bind(row.agent.as_deref().map(text))
        .bind(row.caller.as_deref().map(text))
        .bind(row.started_at)
        .bind(row.greeting_wanted)
        .bind(&row.stage)
        .bind(&row.state)
        .bind(row.attempts)
        .bind(row.crashes)
        .bind(row.unusable)
        .bind(row.run_at)
        .bind(row.received_at)
        .bind(row.greet_since)
        .bind(row.archived)
        .bind(row.archive_at)
        .bind(row.last_error.as_deref().map(text))
        .bind(&row.payload)
        .bind(row.caller.as_deref().map(slot))
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

async fn insert_audit(db: impl PgExecutor<'_>, rows: Vec<AuditRow>) -> Result<()> {
    let column = |of: fn(&AuditRow) -> &str| rows.iter().map(|r| text(of(r))).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO audit_log (id, at, who, action, subject, outcome) OVERRIDING SYSTEM VALUE
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(rows.iter().map(|r| r.id).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.at).collect::<Vec<_>>())
    .bind(column(|r| &r.who))
    .bind(column(|r| &r.action))
    .bind(column(|r| &r.subject))
    .bind(column(|r| &r.outcome))
    .execute(db)
    .await?;
    Ok(())
}
