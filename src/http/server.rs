//! The server loop. warp's own has no header timeout and no bound on graceful
//! shutdown, so its routes are served with hyper directly.

use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::filters::BoxedFilter;
use warp::{Filter, Reply};

/// How long a request's header may take, which includes the pause of a
/// kept-alive connection before its next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 8_192;
/// How long to leave the listener alone when the process has no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then gives open requests up to `grace`.
pub async fn serve<R>(
    listener: TcpListener,
    routes: BoxedFilter<(R,)>,
    shutdown: CancellationToken,
    grace: Duration,
) where
    R: Reply + Send + 'static,
{
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let service = warp::service(routes.map(Reply::into_response).boxed());
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accept => accepted,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "A connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (service, shutdown) = (service.clone(), shutdown.clone());
        connections.spawn(async move {
            let _permit = permit;
            connection(stream, TowerToHyperService::new(service), shutdown).await;
        });
    }
    drop(listener);
    connections.close();
    if timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!("Some requests were not finished in time");
    }
}

async fn connection<S>(stream: TcpStream, service: S, shutdown: CancellationToken)
where
    S: hyper::service::Service<
            hyper::Request<hyper::body::Incoming>,
            Response = warp::reply::Response,
            Error = std::convert::Infallible,
        >,
{
    // An answer is one small packet; waiting to fill it delays a ring.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients go away at any time; of no interest to an operator.
        tracing::debug!(%error, "A connection ended early");
    }
}
