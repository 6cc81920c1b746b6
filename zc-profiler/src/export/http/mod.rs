//! The HTTP endpoint: the ledger as metrics and as JSON, and whether all is well.
//!
//! Made for networks where not everybody is a friend: see [`Limits`]. Each connection carries one
//! request. That costs a scrape a handshake, and leaves nobody a connection to hold.

mod auth;
mod connections;
mod fresh;
mod tls;
mod web;
pub(crate) mod web_config;

use std::{future::Future, io, net::TcpListener, sync::Arc, time::Duration};

use anyhow::ensure;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::compression::CompressionLayer;

use super::{json, prometheus};
use crate::Agent;
use fresh::Fresh;
pub use web::Web;

/// What the endpoint shows. Each call reads the ledger.
pub trait Source: Send + Sync + 'static {
    /// The text of `/metrics`.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    fn metrics(&self) -> anyhow::Result<String>;

    /// The document of `/api/v1/ledger`.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    fn ledger(&self) -> anyhow::Result<String>;

    /// # Errors
    ///
    /// Why nothing is counted.
    fn ready(&self) -> anyhow::Result<()>;
}

impl Source for Agent {
    fn metrics(&self) -> anyhow::Result<String> {
        prometheus::scrape(self)
    }

    fn ledger(&self) -> anyhow::Result<String> {
        json::ledger(self)
    }

    fn ready(&self) -> anyhow::Result<()> {
        let statuses = self.profiler().statuses();
        ensure!(
            statuses.iter().any(|status| status.variant().is_some()),
            "no probe is attached"
        );
        Ok(self.show(|_, _, _| ())?)
    }
}

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections are open at once. One more takes the place of the oldest that has not asked
    /// for anything yet, of the address that has the most.
    pub connections: usize,
    /// For the TLS handshake, and again for the head of the request.
    pub head: Duration,
    /// For the whole connection, until the client has taken the answer.
    pub whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            head: Duration::from_secs(5),
            whole: Duration::from_secs(30),
        }
    }
}

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
/// If the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    source: Arc<impl Source>,
    web: Web,
    limits: Limits,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // Requests under way are dropped at the end rather than waited for: a slow reader must not keep
    // the probes attached.
    tokio::select! {
        () = connections::accept(listener, router(source), Arc::new(web), limits) => Ok(()),
        () = stop => Ok(()),
    }
}

/// Two clients who ask at the same time get the same answer.
struct Pages<S> {
    source: Arc<S>,
    metrics: Arc<Fresh<Bytes>>,
    ledger: Arc<Fresh<Bytes>>,
    ready: Arc<Fresh<()>>,
}

fn router(source: Arc<impl Source>) -> Router {
    let pages = Pages {
        source,
        metrics: Arc::default(),
        ledger: Arc::default(),
        ready: Arc::default(),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/ledger", get(ledger))
        .route("/readyz", get(ready))
        .route("/healthz", get(async || "ok\n"))
        .with_state(Arc::new(pages))
        .layer(CompressionLayer::new())
}

type Shared<S> = State<Arc<Pages<S>>>;

async fn metrics<S: Source>(State(pages): Shared<S>) -> Response {
    let source = Arc::clone(&pages.source);
    let text = pages.metrics.get(move || Ok(source.metrics()?.into()));
    answer(text.await, prometheus::CONTENT_TYPE)
}

async fn ledger<S: Source>(State(pages): Shared<S>) -> Response {
    let source = Arc::clone(&pages.source);
    let text = pages.ledger.get(move || Ok(source.ledger()?.into()));
    answer(text.await, "application/json")
}

fn answer(text: anyhow::Result<Bytes>, content: &'static str) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, content)], text).into_response(),
        Err(error) => {
            log::error!("reading the ledger: {error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
        }
    }
}

async fn ready<S: Source>(State(pages): Shared<S>) -> Response {
    let source = Arc::clone(&pages.source);
    match pages.ready.get(move || source.ready()).await {
        Ok(()) => "counting\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
