//! The writer thread: group commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::store::{Result, StoreError};

/// Most operations that wait for the writer; further callers wait to queue.
const QUEUE: usize = 1_024;
/// Most operations in one transaction: bounds the delay of the first.
const GROUP: usize = 256;

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

enum Request {
    Run(Box<dyn Operation>),
    Close(oneshot::Sender<()>),
}

/// The handle of the writer thread.
pub(super) struct Writer {
    queue: mpsc::Sender<Request>,
}

impl Writer {
    pub fn start(connection: Connection) -> Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || serve(connection, requests))
            .map_err(|e| StoreError::Unavailable(format!("cannot start the writer: {e}")))?;
        Ok(Self { queue })
    }

    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let closed = || StoreError::Unavailable("the database is closed".into());
        let (reply, answer) = oneshot::channel();
        let operation = Work {
            work: Some(work),
            result: Err(closed()),
            reply,
        };
        let request = Request::Run(Box::new(operation));
        self.queue.send(request).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Request::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

fn serve(mut connection: Connection, mut requests: mpsc::Receiver<Request>) {
    let mut group: Vec<Box<dyn Operation>> = Vec::with_capacity(GROUP);
    let mut closing = None;
    while closing.is_none() {
        let Some(first) = requests.blocking_recv() else {
            break;
        };
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Run(operation) => group.push(operation),
                Request::Close(done) => closing = Some(done),
            }
            next = if group.len() < GROUP && closing.is_none() {
                requests.try_recv().ok()
            } else {
                None
            };
        }
        commit(&mut connection, &mut group);
    }
    if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!(%error, "The database log could not be folded in at the end");
    }
    drop(connection);
    if let Some(done) = closing {
        let _ = done.send(());
    }
}

fn commit(connection: &mut Connection, group: &mut Vec<Box<dyn Operation>>) {
    let outcome = transact(connection, group);
    for operation in group.drain(..) {
        operation.finish(outcome.clone());
    }
}

/// A failed operation is undone alone (savepoint); a failed commit fails all.
fn transact(connection: &mut Connection, group: &mut [Box<dyn Operation>]) -> Result<()> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for operation in group {
        let savepoint = transaction.savepoint()?;
        if operation.run(&savepoint) {
            savepoint.commit()?;
        }
    }
    transaction.commit()?;
    Ok(())
}
