//! Basic authentication, with passwords hashed by bcrypt.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::digest::{SHA256, digest};
use tokio::{sync::Semaphore, task};

/// What an unknown user's password is compared with, so that the time does not tell who is known: of
/// nobody's password, with the cost that most hashes have.
const NOBODY: &str = "$2b$10$DoWtIvqODa3NsylDSyYwzO2iPW5OgnMpZDFfG00KBjtsqPXvq/eFi";

/// Users and the hashes of their passwords.
pub struct Users {
    hashes: BTreeMap<String, String>,
    /// Digests of passwords that were right: bcrypt is slow, and meant to be.
    proven: Mutex<HashMap<String, Vec<u8>>>,
    /// Guesses are looked at one after the other, so that they never take more than one CPU.
    turn: Semaphore,
}

impl Users {
    pub fn new(hashes: BTreeMap<String, String>) -> Self {
        Self {
            hashes,
            proven: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }

    /// Whether whoever sent this `Authorization` may ask; everybody, if there are no users.
    pub async fn admit(self: &Arc<Self>, header: Option<&HeaderValue>) -> bool {
        if self.hashes.is_empty() {
            return true;
        }
        let Some((user, password)) = header.and_then(credentials) else {
            return false;
        };
        let fingerprint = digest(&SHA256, password.as_bytes()).as_ref().to_vec();
        if self.proven().get(&user) == Some(&fingerprint) {
            return true;
        }
        let Ok(_turn) = self.turn.acquire().await else {
            return false;
        };
        let hash = self.hashes.get(&user);
        let known = hash.is_some();
        let hash = hash.map_or(NOBODY, |hash| hash).to_owned();
        let right = task::spawn_blocking(move || bcrypt::verify(password, &hash));
        let right = known && matches!(right.await, Ok(Ok(true)));
        if right {
            self.proven().insert(user, fingerprint);
        }
        right
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn credentials(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.into(), password.into()))
}

/// The answer to whoever may not ask.
pub fn refusal() -> Response<Body> {
    (
        StatusCode::UNAUTHORIZED,
        [(header::WWW_AUTHENTICATE, "Basic")],
        "unauthorized\n",
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(user_and_password: &str) -> HeaderValue {
        let encoded = BASE64_STANDARD.encode(user_and_password);
        HeaderValue::from_str(&format!("Basic {encoded}")).expect("ASCII")
    }

    #[tokio::test]
    async fn only_the_right_password_is_let_in() {
        let hash = bcrypt::hash("secret:with colon", 4).expect("a hash");
        let users = Arc::new(Users::new(BTreeMap::from([("alice".into(), hash)])));
        for _ in 0..2 {
            let right = header("alice:secret:with colon");
            assert!(users.admit(Some(&right)).await, "also from memory");
            for wrong in ["alice:secret", "bob:secret:with colon", "alice", "alice:"] {
                assert!(!users.admit(Some(&header(wrong))).await, "{wrong}");
            }
            for garbage in ["Basic", "Basic !", "Bearer YTpi", ""] {
                let garbage = HeaderValue::from_static(garbage);
                assert!(!users.admit(Some(&garbage)).await, "{garbage:?}");
            }
            assert!(!users.admit(None).await);
        }
        assert!(Arc::new(Users::new(BTreeMap::new())).admit(None).await);
        assert!(bcrypt::verify("", NOBODY).is_ok(), "it is a hash");
    }
}
