//! The measuring stick for a ring: a bare warp handler, served by the same
//! loop, that reads the same body and answers with the same number of bytes,
//! and does nothing else. Used by `benches/ring.sh`.

use std::time::Duration;

use elaoms::http::serve;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use warp::http::Response;
use warp::{Filter, path};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8001".into());
    let length: usize = arguments.next().unwrap_or_else(|| "300".into()).parse()?;
    let answer = vec![b'x'; length];
    let route = path!("webhook" / "client-data")
        .and(warp::post())
        .and(warp::body::bytes())
        .map(move |_body| {
            let mut response = Response::new(answer.clone());
            let json = warp::http::HeaderValue::from_static("application/json");
            response.headers_mut().insert("content-type", json);
            response
        })
        .boxed();
    let listener = TcpListener::bind(address).await?;
    serve(listener, route, CancellationToken::new(), Duration::ZERO).await;
    Ok(())
}
