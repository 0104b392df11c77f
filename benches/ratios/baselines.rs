//! What the service is measured against: the least that the same job takes.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use elaoms::http::serve;
use hmac::{Hmac, KeyInit, Mac};
use rusqlite::{Connection, OpenFlags, params};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use warp::filters::BoxedFilter;
use warp::http::{Response, StatusCode};
use warp::{Filter, path};

use super::load::Measured;
use super::service::KEY;
use super::{Result, postgres, seed};

/// Read connections, as many as the service has.
const READERS: usize = 4;

/// A handler that reads the same body, answers as many bytes and does nothing
/// else, behind the service's own server loop.
#[tokio::main]
pub async fn ring(address: &str, bytes: usize) -> Result<()> {
    let answer = vec![b'x'; bytes];
    let route = path!("webhook" / "client-data")
        .and(warp::post())
        .and(warp::body::bytes())
        .map(move |_body| {
            let mut response = Response::new(answer.clone());
            let json = warp::http::HeaderValue::from_static("application/json");
            response.headers_mut().insert("content-type", json);
            response
        })
        .or(health())
        .unify()
        .boxed();
    listen(address, route).await
}

/// A handler that checks the signature and inserts the body as one row, in
/// transactions that hold whatever has come together: the least that an
/// acknowledgement promises.
#[tokio::main]
pub async fn post_call(address: &str, database: &str) -> Result<()> {
    let queue = if database.starts_with("postgres:") {
        postgres::bare_inserts(database).await?
    } else {
        sqlite_inserts(Path::new(database))?
    };
    let route = path!("webhook" / "post-call")
        .and(warp::post())
        .and(warp::header("elevenlabs-signature"))
        .and(warp::body::bytes())
        .then(move |signature: String, body: Bytes| {
            let queue = queue.clone();
            async move {
                let mut response = Response::new(Vec::new());
                if !is_signed(&signature, &body) {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                    return response;
                }
                let (done, stored) = oneshot::channel();
                if queue.send((body, done)).await.is_err() || stored.await.is_err() {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                response
            }
        })
        .or(health())
        .unify()
        .boxed();
    listen(address, route).await
}

fn sqlite_inserts(database: &Path) -> Result<postgres::Queue> {
    let (queue, mut rows) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>(1_024);
    let mut connection = Connection::open(database)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("CREATE TABLE events (id INTEGER PRIMARY KEY, body BLOB)")?;
    std::thread::spawn(move || -> rusqlite::Result<()> {
        while let Some(first) = rows.blocking_recv() {
            let transaction = connection.transaction()?;
            let mut waiting = Vec::new();
            let mut next = Some(first);
            while let Some((body, done)) = next {
                transaction
                    .prepare_cached("INSERT INTO events (body) VALUES (?1)")?
                    .execute([&body[..]])?;
                waiting.push(done);
                next = rows.try_recv().ok();
            }
            transaction.commit()?;
            for done in waiting {
                let _ = done.send(());
            }
        }
        Ok(())
    });
    Ok(queue)
}

fn is_signed(signature: &str, body: &[u8]) -> bool {
    let Some((time, hex)) = signature
        .strip_prefix("t=")
        .and_then(|rest| rest.split_once(",v0="))
    else {
        return false;
    };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()) else {
        return false;
    };
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    hex::decode(hex).is_ok_and(|given| mac.verify_slice(&given).is_ok())
}

fn health() -> BoxedFilter<(Response<Vec<u8>>,)> {
    path!("health").map(|| Response::new(Vec::new())).boxed()
}

async fn listen(address: &str, route: BoxedFilter<(Response<Vec<u8>>,)>) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    serve(listener, route, CancellationToken::new(), Duration::ZERO).await;
    Ok(())
}

/// Both tiers of one caller after the other, on as many connections as the
/// service reads with.
pub fn raw_reads(database: &Path, from: usize, count: usize, time: Duration) -> Result<Measured> {
    let started = Instant::now();
    let threads: Vec<_> = (0..READERS)
        .map(|thread| {
            let database = database.to_owned();
            std::thread::spawn(move || -> rusqlite::Result<u64> {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(database, flags)?;
                let mut reads = 0;
                let mut place = thread;
                while started.elapsed() < time {
                    let caller = seed::number(seed::scattered(from + place, count));
                    let snapshot = connection.unchecked_transaction()?;
                    for table in ["callers", "conversation_states"] {
                        let sql = format!("SELECT * FROM {table} WHERE caller = ?1");
                        let mut statement = snapshot.prepare_cached(&sql)?;
                        let mut rows = statement.query(params![caller])?;
                        while rows.next()?.is_some() {}
                    }
                    reads += 1;
                    place += READERS;
                }
                Ok(reads)
            })
        })
        .collect();
    let mut requests = 0;
    for thread in threads {
        requests += thread.join().map_err(|_| "a reader panicked")??;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Measured {
        requests,
        seconds,
        rate: requests as f64 / seconds,
        percentiles: Vec::new(),
    })
}
