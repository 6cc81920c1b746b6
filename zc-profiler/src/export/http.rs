//! The HTTP endpoint: `/metrics` and `/healthz`.

use std::{future::Future, io, net::TcpListener, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::prometheus;
use crate::Accounts;

/// Binds an address, so that a port in use is known before anything else is done.
///
/// # Errors
///
/// One line that names the address and the cause.
pub fn bind(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!(
                "cannot listen on {address}: another program does; choose another with --listen"
            )
        }
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })
}

/// Serves until `stop` is done.
///
/// # Errors
///
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    accounts: Arc<Accounts>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .with_state(accounts);
    // Requests under way are dropped at the end rather than waited for: a slow reader must not keep
    // the probes attached.
    tokio::select! {
        result = async { axum::serve(listener, router).await } => result,
        () = stop => Ok(()),
    }
}

async fn metrics(State(accounts): State<Arc<Accounts>>) -> Response {
    let text = tokio::task::spawn_blocking(move || prometheus::scrape(&accounts)).await;
    match text.map_err(anyhow::Error::from).flatten() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            log::error!("/metrics: {error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
        }
    }
}
