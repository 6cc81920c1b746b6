//! The web configuration as it is used: files are read again as soon as they change.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::HeaderMap;
use tokio_rustls::rustls::ServerConfig;

use super::{auth::Users, tls, web_config::WebConfig};

/// A web configuration file, or none.
#[derive(Default)]
pub struct Web {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    loaded: Arc<Loaded>,
    files: Files,
}

/// What holds for a connection.
pub struct Loaded {
    pub tls: Option<Arc<ServerConfig>>,
    pub users: Arc<Users>,
    pub headers: HeaderMap,
}

impl Default for Loaded {
    fn default() -> Self {
        Self {
            tls: None,
            users: Arc::new(Users::new(std::collections::BTreeMap::default())),
            headers: HeaderMap::new(),
        }
    }
}

/// Files, and by what it is seen that they have changed.
#[derive(Default)]
struct Files(Vec<(PathBuf, Option<Stamp>)>);

/// Modification time, inode, and length.
type Stamp = (i64, i64, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ino(),
        metadata.len(),
    ))
}

impl Files {
    fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        Self(paths.map(|path| (path.to_owned(), stamp(path))).collect())
    }

    /// Whether any has changed since this was asked last.
    fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, before) in &mut self.0 {
            let now = stamp(path);
            changed |= now != *before;
            *before = now;
        }
        changed
    }
}

/// What the file says, and the files to watch, also if it cannot be used yet.
fn load(path: &Path) -> (Files, anyhow::Result<Loaded>) {
    // Before each is read: what changes meanwhile is seen.
    let mut files = Files::of([path].into_iter());
    let config = match WebConfig::read(path) {
        Ok(config) => config,
        Err(error) => return (files, Err(error)),
    };
    let named = config.tls.iter().flat_map(tls::Settings::files);
    files.0.extend(Files::of(named).0);
    let loaded = Loaded::of(config).map_err(|error| error.context(path.display().to_string()));
    (files, loaded)
}

impl Loaded {
    fn of(config: WebConfig) -> anyhow::Result<Self> {
        let tls = config.tls.as_ref().map(|tls| tls.load().map(Arc::new));
        Ok(Self {
            tls: tls.transpose()?,
            users: Arc::new(Users::new(config.users)),
            headers: config.headers,
        })
    }
}

impl Web {
    /// Reads the file and those that it names.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let (files, loaded) = load(path);
        let loaded = Arc::new(loaded?);
        Ok(Self {
            path: Some(path.to_owned()),
            state: Mutex::new(State { loaded, files }),
        })
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.now().tls.is_some() {
            "https"
        } else {
            "http"
        }
    }

    /// What holds now. Files with mistakes change nothing; it is told once for each change of theirs.
    pub fn now(&self) -> Arc<Loaded> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path
            && state.files.changed()
        {
            let (files, loaded) = load(path);
            state.files = files;
            match loaded {
                Ok(new) => {
                    state.loaded = Arc::new(new);
                    log::info!("{} read again", path.display());
                }
                Err(error) => log::error!("the web configuration stays as it was: {error:#}"),
            }
        }
        Arc::clone(&state.loaded)
    }
}
