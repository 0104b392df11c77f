//! The server loop. warp's own has no header timeout and no bound on graceful
//! shutdown, so its routes are served with hyper directly.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Reply};

use super::connections::{Admitted, Connections, Limits};
use super::forwarded::TrustedProxies;

/// Most of a request that is read ahead, in bytes: what a stranger's header or
/// chunk may hold of our memory.
const READ_AHEAD: usize = 64 * 1024;
/// How long to leave the listener alone when the process has no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves until `shutdown`, then gives open requests up to `grace`. For
/// listeners that strangers do not reach.
pub async fn serve<R>(
    listener: TcpListener,
    routes: BoxedFilter<(R,)>,
    shutdown: CancellationToken,
    grace: Duration,
) where
    R: Reply + Send + 'static,
{
    let connections = Connections::new(Limits::local(), TrustedProxies::default(), None);
    serve_public(listener, routes, connections, shutdown, grace).await;
}

/// The same, for a listener that strangers reach.
pub async fn serve_public<R>(
    listener: TcpListener,
    routes: BoxedFilter<(R,)>,
    connections: Arc<Connections>,
    shutdown: CancellationToken,
    grace: Duration,
) where
    R: Reply + Send + 'static,
{
    let tasks = TaskTracker::new();
    let service = warp::service(routes.map(Reply::into_response).boxed());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection could not be accepted");
                connections.out_of_files();
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(admitted) = connections.admit(address.ip()) else {
            continue;
        };
        let service = TowerToHyperService::new(service.clone());
        let shutdown = shutdown.clone();
        tasks.spawn(async move { connection(stream, admitted, service, shutdown).await });
    }
    drop(listener);
    tasks.close();
    if timeout(grace, tasks.wait()).await.is_err() {
        tracing::warn!("Some requests were not finished in time");
    }
}

async fn connection<S>(
    stream: TcpStream,
    admitted: Admitted,
    service: S,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let state = &admitted.0;
    let service = service_fn(|mut request: Request<Incoming>| {
        let client = state.begin(request.headers());
        request.extensions_mut().insert(client);
        let answer = service.call(request);
        async {
            let answer = answer.await;
            state.end();
            answer
        }
    });
    // An answer is one small packet; waiting to fill it delays a ring.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        // How long a header may take is watched by `state`, which knows who asks.
        .header_read_timeout(None)
        .max_buf_size(READ_AHEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = false;
    let result = loop {
        tokio::select! {
            result = &mut connection => break result,
            close = state.over() => {
                tracing::debug!(?close, "A connection is closed");
                return;
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        // Clients go away at any time; of no interest to an operator.
        tracing::debug!(%error, "A connection ended early");
    }
}
