//! The connections: how many there may be, who must go when there are too many, and their time limits.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::{Limits, Web, auth};

/// What a head may take; hyper's own choice would be 400 KiB for each connection.
const BUFFER: usize = 16 * 1024;

/// After a connection could not be accepted, mostly since this process has no more file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for ever.
pub async fn accept(listener: TcpListener, router: Router, web: Arc<Web>, limits: Limits) {
    let mut places = Places {
        taken: Vec::new(),
        most: limits.connections,
    };
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::debug!("accepting a connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let served = Arc::new(AtomicBool::new(false));
        let one = Connection {
            router: router.clone(),
            web: Arc::clone(&web),
            limits,
            served: Arc::clone(&served),
        };
        places.make_room();
        let task = tokio::spawn(timeout(limits.whole, one.carry(stream)));
        places.taken.push(Place {
            address: peer.ip(),
            served,
            task: task.abort_handle(),
        });
    }
}

struct Place {
    address: IpAddr,
    /// Whether it has asked for something, and may.
    served: Arc<AtomicBool>,
    task: AbortHandle,
}

struct Places {
    /// The oldest first.
    taken: Vec<Place>,
    most: usize,
}

impl Places {
    /// Ends a connection if there is no place for another.
    fn make_room(&mut self) {
        if self.taken.len() >= self.most {
            self.taken.retain(|place| !place.task.is_finished());
        }
        if self.taken.len() >= self.most {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let of = |address| {
            self.taken
                .iter()
                .filter(move |place| place.address == address)
        };
        let worth = |place: &Place| {
            let others = of(place.address).count();
            (
                place.served.load(Ordering::Relaxed),
                std::cmp::Reverse(others),
            )
        };
        // The first of several equals, so the oldest.
        let victim = self
            .taken
            .iter()
            .enumerate()
            .min_by_key(|(_, place)| worth(place));
        if let Some((victim, _)) = victim {
            self.taken.remove(victim).task.abort();
        }
    }
}

struct Connection {
    router: Router,
    web: Arc<Web>,
    limits: Limits,
    served: Arc<AtomicBool>,
}

impl Connection {
    async fn carry(self, stream: TcpStream) {
        match self.web.now().tls.clone() {
            None => self.http(stream).await,
            Some(config) => {
                let handshake = TlsAcceptor::from(config).accept(stream);
                match timeout(self.limits.head, handshake).await {
                    Ok(Ok(stream)) => self.http(stream).await,
                    Ok(Err(error)) => log::debug!("TLS: {error}"),
                    Err(_) => log::debug!("TLS: the handshake took too long"),
                }
            }
        }
    }

    async fn http(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let head = self.limits.head;
        let this = Arc::new(self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let result = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_buf_size(BUFFER)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = result {
            log::debug!("a connection: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let web = self.web.now();
        let user = request.headers().get(header::AUTHORIZATION);
        let mut response = if web.users.admit(user).await {
            self.served.store(true, Ordering::Relaxed);
            let Ok(response) = self.router.clone().oneshot(request).await;
            response
        } else {
            auth::refusal()
        };
        response.headers_mut().extend(web.headers.clone());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_idle_one_of_the_busiest_address_goes_first() {
        let mut places = Places {
            taken: Vec::new(),
            most: 5,
        };
        let mut tasks = Vec::new();
        let [crowd, scraper] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        for (address, served) in [
            (scraper, false),
            (crowd, true),
            (crowd, false),
            (crowd, false),
            (scraper, true),
        ] {
            let task = tokio::spawn(std::future::pending::<()>());
            places.taken.push(Place {
                address,
                served: Arc::new(AtomicBool::new(served)),
                task: task.abort_handle(),
            });
            tasks.push(task);
        }
        let order = [2, 0, 3, 1, 4];
        for (round, expected) in order.into_iter().enumerate() {
            places.make_room();
            assert!((&mut tasks[expected]).await.is_err(), "round {round}");
            assert_eq!(places.taken.len(), 4 - round);
            places.most = places.taken.len();
        }
    }

    #[tokio::test]
    async fn what_has_ended_makes_room_by_itself() {
        let mut places = Places {
            taken: Vec::new(),
            most: 2,
        };
        let ended = tokio::spawn(async {});
        let goes_on = tokio::spawn(std::future::pending::<()>());
        for task in [&goes_on, &ended] {
            places.taken.push(Place {
                address: [127, 0, 0, 1].into(),
                served: Arc::default(),
                task: task.abort_handle(),
            });
        }
        ended.await.expect("a task");
        places.make_room();
        assert_eq!(places.taken.len(), 1);
        assert!(!goes_on.is_finished());
    }
}
