//! The writer thread: group commit.
//!
//! Operations wait in two queues. Those that somebody waits for (a new event,
//! before its 200) come first; background work fills the rest of a
//! transaction for a bounded time, so that an acknowledgement never waits for
//! a backlog of learning.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::store::{Result, StoreError};

/// Most operations of a kind that wait for the writer; further callers wait to
/// queue.
const QUEUE: usize = 1_024;
/// Most operations of a kind in one transaction.
const GROUP: usize = 256;
/// How long a transaction goes on with background work while somebody waits.
const BACKGROUND_TIME: Duration = Duration::from_millis(1);
/// The same while nobody does: bounds the delay of what arrives meanwhile.
const BACKGROUND_TIME_ALONE: Duration = Duration::from_millis(20);

/// When an operation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// In the next transaction.
    First,
    /// When the transactions have room for it.
    Background,
}

/// One queued operation, its result type erased.
trait Operation: Send {
    /// Does the work. False if it failed and its changes are to be undone.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Tells the caller, once the transaction has ended.
    fn finish(self: Box<Self>, committed: Result<()>);
}

struct Work<T, F> {
    work: Option<F>,
    result: Result<T>,
    reply: oneshot::Sender<Result<T>>,
    /// A place in the queue.
    _place: OwnedSemaphorePermit,
}

impl<T, F> Operation for Work<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        if let Some(work) = self.work.take() {
            self.result = catch_unwind(AssertUnwindSafe(|| work(connection)))
                .unwrap_or_else(|_| Err(StoreError::Unavailable("a write panicked".into())));
        }
        self.result.is_ok()
    }

    fn finish(self: Box<Self>, committed: Result<()>) {
        // The caller may have given up; the outcome stands either way.
        let _ = self.reply.send(committed.and(self.result));
    }
}

#[derive(Default)]
struct Queues {
    first: VecDeque<Box<dyn Operation>>,
    background: VecDeque<Box<dyn Operation>>,
    /// Who waits for the log to be folded into the database file.
    checkpoints: Vec<oneshot::Sender<Result<()>>>,
    /// The writer ends when the queues are empty, and answers.
    closing: Vec<oneshot::Sender<()>>,
    /// Nothing is taken any more.
    closed: bool,
}

impl Queues {
    fn has_work(&self) -> bool {
        !(self.first.is_empty() && self.background.is_empty() && self.checkpoints.is_empty())
    }
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    news: Condvar,
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of the writer thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    first: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

impl Writer {
    pub fn start(connection: Connection) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let queues = Arc::clone(&shared);
        thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || serve(connection, &queues))
            .map_err(|e| StoreError::Unavailable(format!("cannot start the writer: {e}")))?;
        Ok(Self {
            shared,
            first: Arc::new(Semaphore::new(QUEUE)),
            background: Arc::new(Semaphore::new(QUEUE)),
        })
    }

    pub async fn run<T, F>(&self, turn: Turn, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let closed = || StoreError::Unavailable("the database is closed".into());
        let places = match turn {
            Turn::First => &self.first,
            Turn::Background => &self.background,
        };
        let place = Arc::clone(places).acquire_owned().await;
        let (reply, answer) = oneshot::channel();
        let operation = Box::new(Work {
            work: Some(work),
            result: Err(closed()),
            reply,
            _place: place.map_err(|_| closed())?,
        });
        {
            let mut queues = self.shared.queues();
            if queues.closed {
                return Err(closed());
            }
            match turn {
                Turn::First => queues.first.push_back(operation),
                Turn::Background => queues.background.push_back(operation),
            }
        }
        self.shared.news.notify_one();
        answer.await.map_err(|_| closed())?
    }

    /// Folds the log into the database file and empties it, after what is
    /// queued now.
    pub async fn checkpoint(&self) -> Result<()> {
        let (done, folded) = oneshot::channel();
        self.shared.queues().checkpoints.push(done);
        self.shared.news.notify_one();
        let closed = || StoreError::Unavailable("the database is closed".into());
        folded.await.map_err(|_| closed())?
    }

    /// Does what is queued, then stops.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        {
            let mut queues = self.shared.queues();
            queues.closed = true;
            queues.closing.push(done);
        }
        self.shared.news.notify_one();
        let _ = closed.await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queues().closed = true;
        self.shared.news.notify_one();
    }
}

fn serve(mut connection: Connection, shared: &Shared) {
    let mut group: Vec<Box<dyn Operation>> = Vec::with_capacity(2 * GROUP);
    while wait(shared) {
        commit(&mut connection, shared, &mut group);
        let waiting = std::mem::take(&mut shared.queues().checkpoints);
        if !waiting.is_empty() {
            let folded = checkpoint(&connection);
            for done in waiting {
                let _ = done.send(folded.clone());
            }
        }
    }
    if let Err(error) = checkpoint(&connection) {
        tracing::warn!(%error, "The database log could not be folded in at the end");
    }
    drop(connection);
    for done in std::mem::take(&mut shared.queues().closing) {
        let _ = done.send(());
    }
}

fn checkpoint(connection: &Connection) -> Result<()> {
    Ok(connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?)
}

/// Waits for work. False when there is none and none will come.
fn wait(shared: &Shared) -> bool {
    let queues = shared
        .news
        .wait_while(shared.queues(), |q| !q.has_work() && !q.closed)
        .unwrap_or_else(PoisonError::into_inner);
    queues.has_work()
}

fn commit(connection: &mut Connection, shared: &Shared, group: &mut Vec<Box<dyn Operation>>) {
    let outcome = transact(connection, shared, group);
    for operation in group.drain(..) {
        operation.finish(outcome.clone());
    }
}

/// A failed operation is undone alone (savepoint); a failed commit fails all.
fn transact(
    connection: &mut Connection,
    shared: &Shared,
    group: &mut Vec<Box<dyn Operation>>,
) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = match transaction {
        Ok(transaction) => transaction,
        Err(error) => {
            // They learn of it, rather than wait for a database that is locked.
            group.extend(next(shared, Turn::First, GROUP));
            group.extend(next(shared, Turn::Background, GROUP));
            return Err(error.into());
        }
    };
    group.extend(next(shared, Turn::First, GROUP));
    for operation in group.iter_mut() {
        run(&transaction, &mut **operation)?;
    }
    let begun = Instant::now();
    for _ in 0..GROUP {
        let Some(mut operation) = next(shared, Turn::Background, 1).pop() else {
            break;
        };
        let done = run(&transaction, &mut *operation);
        group.push(operation);
        done?;
        let limit = if shared.queues().first.is_empty() {
            BACKGROUND_TIME_ALONE
        } else {
            BACKGROUND_TIME
        };
        if begun.elapsed() > limit {
            break;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn run(transaction: &Transaction<'_>, operation: &mut dyn Operation) -> Result<()> {
    // Prepared once: rusqlite's own savepoints are parsed each time.
    let execute = |sql: &str| transaction.prepare_cached(sql)?.execute([]);
    execute("SAVEPOINT operation")?;
    if !operation.run(transaction) {
        execute("ROLLBACK TO operation")?;
    }
    execute("RELEASE operation")?;
    Ok(())
}

/// Takes operations whose turn it is.
fn next(shared: &Shared, turn: Turn, most: usize) -> Vec<Box<dyn Operation>> {
    let mut queues = shared.queues();
    let queue = match turn {
        Turn::First => &mut queues.first,
        Turn::Background => &mut queues.background,
    };
    let count = queue.len().min(most);
    queue.drain(..count).collect()
}
