//! The reader threads: each has a connection of its own and sees the last
//! commit. They never wait for the writer.
//!
//! Threads of our own rather than the runtime's: under load a reader goes from
//! one read to the next without sleeping in between, and however long a disk
//! hangs, only these threads hang with it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use crate::store::{Result, StoreError};

/// Most reads that wait; further callers wait to queue.
const QUEUE: usize = 4_096;

type Read = Box<dyn FnOnce(&Connection) + Send>;

#[derive(Default)]
struct Queue {
    reads: VecDeque<Read>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next read; `None` when there will be none.
    fn next(&self) -> Option<Read> {
        let is_idle = |queue: &mut Queue| queue.reads.is_empty() && !queue.closed;
        let waited = self.news.wait_while(self.queue(), is_idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            return None;
        }
        queue.reads.pop_front()
    }
}

/// The handle of the reader threads.
pub(super) struct Readers {
    shared: Arc<Shared>,
    places: Semaphore,
}

impl Readers {
    pub fn start(connections: Vec<Connection>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        for connection in connections {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("sqlite-reader".into())
                .spawn(move || {
                    while let Some(read) = shared.next() {
                        read(&connection);
                    }
                })
                .map_err(|e| StoreError::Unavailable(format!("cannot start a reader: {e}")))?;
        }
        Ok(Self {
            shared,
            places: Semaphore::new(QUEUE),
        })
    }

    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let closed = || StoreError::Unavailable("the database is closed".into());
        let _place = self.places.acquire().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let read = Box::new(move |connection: &Connection| {
            // Whoever asked may have stopped waiting.
            if !reply.is_closed() {
                let result = catch_unwind(AssertUnwindSafe(|| work(connection)));
                let panicked = Err(StoreError::Unavailable("a read panicked".into()));
                let _ = reply.send(result.unwrap_or(panicked));
            }
        });
        {
            let mut queue = self.shared.queue();
            if queue.closed {
                return Err(closed());
            }
            queue.reads.push_back(read);
        }
        self.shared.news.notify_one();
        answer.await.map_err(|_| closed())?
    }

    /// Reads no more.
    pub fn close(&self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        queue.reads.clear();
        drop(queue);
        self.shared.news.notify_all();
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close();
    }
}
