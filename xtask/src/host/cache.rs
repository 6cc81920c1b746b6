//! The cache directory, which all clones of the project and concurrent calls share.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

const UNFINISHED: &str = "unfinished-";

#[derive(Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$XDG_CACHE_HOME/zc-profiler`, or `~/.cache/zc-profiler`, and creates it if it is missing.
    pub fn open() -> Result<Self> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set: set one of them")?;
        Self::at(base.join("zc-profiler"))
    }

    fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| {
            format!(
                "cannot create {}: set XDG_CACHE_HOME to a writable directory",
                root.display()
            )
        })?;
        Ok(Self { root })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Locks the cache until the file is dropped. Waits for other setups that hold the lock.
    pub fn lock(&self) -> Result<File> {
        let path = self.path("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("setup: waiting for another setup to finish…");
            file.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        self.remove_unfinished();
        Ok(file)
    }

    /// Removes the directories of setups that were killed. Only the holder of the lock may call this function.
    fn remove_unfinished(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Creates a temporary directory in the cache, so that its content can be renamed to a final path.
    pub fn scratch(&self) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.root)
            .with_context(|| format!("cannot create a directory in {}", self.root.display()))
    }

    /// Moves a finished directory to `target`, and removes what was there.
    pub fn publish(finished: &Path, target: &Path) -> Result<()> {
        if target.exists() {
            fs::remove_dir_all(target)
                .with_context(|| format!("cannot remove {}", target.display()))?;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        fs::rename(finished, target)
            .with_context(|| format!("cannot move a finished directory to {}", target.display()))
    }
}

/// Replaces a file atomically. A file that holds `content` already keeps its time stamp, which builds depend on.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(content)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        write_if_changed(&file, b"one").unwrap();
        let stamp = fs::metadata(&file).unwrap().modified().unwrap();
        write_if_changed(&file, b"one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), stamp);
        write_if_changed(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn publishing_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        for content in ["old", "new"] {
            let scratch = cache.scratch().unwrap();
            let made = scratch.path().join("made");
            fs::create_dir(&made).unwrap();
            fs::write(made.join("file"), content).unwrap();
            Cache::publish(&made, &cache.path("kernels/x")).unwrap();
        }
        assert_eq!(fs::read(cache.path("kernels/x/file")).unwrap(), b"new");
    }
}
