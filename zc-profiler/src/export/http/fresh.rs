//! One reading of the ledger for all who ask at the same time.

use std::{sync::Arc, time::Instant};

use tokio::{sync::Mutex, task};

/// What was read last. Whoever asks gets what was read after that, so nothing is ever stale; those who
/// ask while somebody else is served share the next reading, so that a crowd costs two.
pub struct Fresh<T> {
    last: Mutex<Option<(Instant, T)>>,
}

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
        }
    }
}

impl<T: Clone + Send + 'static> Fresh<T> {
    pub async fn get(
        self: &Arc<Self>,
        read: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let asked = Instant::now();
        let this = Arc::clone(self);
        // A task of its own: a client who hangs up must not leave a reading that nobody waits for.
        let reading = tokio::spawn(async move {
            let mut last = this.last.lock().await;
            if let Some((begun, value)) = &*last
                && *begun >= asked
            {
                return Ok(value.clone());
            }
            let begun = Instant::now();
            let value = task::spawn_blocking(read).await??;
            *last = Some((begun, value.clone()));
            Ok(value)
        });
        reading.await?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn a_crowd_shares_a_reading_that_begins_after_it_asked() {
        let fresh = Arc::new(Fresh::default());
        let count = Arc::new(AtomicU32::new(0));
        let (go, wait) = mpsc::channel::<()>();
        let counting = Arc::clone(&count);
        let first = tokio::spawn({
            let fresh = Arc::clone(&fresh);
            let read = move || {
                wait.recv()?;
                Ok(counting.fetch_add(1, Ordering::SeqCst) + 1)
            };
            async move { fresh.get(read).await }
        });
        // It is under way before anybody else asks.
        while fresh.last.try_lock().is_ok() {
            task::yield_now().await;
        }
        let crowd: Vec<_> = (0..50)
            .map(|_| {
                let (fresh, count) = (Arc::clone(&fresh), Arc::clone(&count));
                tokio::spawn(async move {
                    let read = move || Ok(count.fetch_add(1, Ordering::SeqCst) + 1);
                    fresh.get(read).await
                })
            })
            .collect();
        // Each of them has asked once this one has run after them.
        tokio::spawn(async {}).await.expect("a task");
        go.send(()).expect("it waits");
        assert_eq!(first.await.expect("a task").expect("a reading"), 1);
        for one in crowd {
            assert_eq!(one.await.expect("a task").expect("a reading"), 2);
        }
        let again = fresh.get(move || Ok(count.fetch_add(1, Ordering::SeqCst) + 1));
        assert_eq!(again.await.expect("a reading"), 3);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let fresh = Arc::new(Fresh::default());
        assert!(fresh.get(|| anyhow::bail!("no")).await.is_err());
        assert_eq!(fresh.get(|| Ok(7)).await.expect("a reading"), 7);
    }
}
