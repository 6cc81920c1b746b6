//! Finding the service of a process that the kernel knows by the id of its cgroup.

use std::{
    collections::HashMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirEntryExt, MetadataExt},
    },
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use super::names::Names;
use crate::{
    kernel::{Service, default_hierarchy},
    ledger::{Process, ProcessKey},
};

/// How many cgroups are remembered at most.
const MOST: usize = 65_536;

/// The services of this machine's cgroups, found by walking their tree when an unknown one comes.
pub struct Services {
    /// Where the default (v2) hierarchy is mounted, if it is.
    root: Option<PathBuf>,
    by_cgroup: HashMap<u64, Arc<Service>>,
    names: Names,
    /// In which round the tree was walked last.
    walked: Option<Instant>,
    nothing: Arc<Service>,
}

impl Services {
    /// Of this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::below(default_hierarchy(), Names::below("/"))
    }

    fn below(root: Option<PathBuf>, names: Names) -> Self {
        Self {
            root,
            names,
            by_cgroup: HashMap::new(),
            walked: None,
            nothing: Arc::default(),
        }
    }

    /// The service of a process. The tree is walked once a round at most.
    pub fn of(&mut self, process: &Process, round: Instant) -> Arc<Service> {
        if matches!(process.key, ProcessKey::KERNEL | ProcessKey::OVERFLOW) {
            return Arc::clone(&self.nothing);
        }
        let found = self.of_cgroup(process.cgroup, round);
        if !found.is_unknown() {
            return found;
        }
        // Where services are in the hierarchies of v1, only the process can tell, while it lives.
        match of_process(process.key) {
            Some(service) if !service.is_unknown() => Arc::new(named(service, &mut self.names)),
            _ => found,
        }
    }

    fn of_cgroup(&mut self, cgroup: u64, round: Instant) -> Arc<Service> {
        if cgroup != 0 && !self.by_cgroup.contains_key(&cgroup) && self.walked != Some(round) {
            self.walk();
            self.walked = Some(round);
        }
        // One that is not there has been removed: its number is not given again.
        Arc::clone(self.by_cgroup.get(&cgroup).unwrap_or(&self.nothing))
    }

    /// Reads the tree anew: cgroups that are gone are forgotten.
    fn walk(&mut self) {
        self.by_cgroup.clear();
        let Some(root) = &self.root else {
            return;
        };
        if let Ok(metadata) = fs::metadata(root) {
            self.by_cgroup
                .insert(metadata.ino(), Arc::clone(&self.nothing));
        }
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            // One that cannot be read has just been removed.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if self.by_cgroup.len() >= MOST {
                    return;
                }
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let path = entry.path();
                let inside = path.strip_prefix(root).unwrap_or(&path);
                let service = Service::of_path(inside.as_os_str().as_bytes());
                let service = if service.is_unknown() {
                    Arc::clone(&self.nothing)
                } else {
                    Arc::new(named(service, &mut self.names))
                };
                self.by_cgroup.insert(entry.ino(), service);
                directories.push(path);
            }
        }
    }
}

/// With the container's name for its id, if the runtime tells.
fn named(mut service: Service, names: &mut Names) -> Service {
    if let Some(name) = service.container.as_deref().and_then(|id| names.of(id)) {
        service.container = Some(name);
    }
    service
}

impl Default for Services {
    fn default() -> Self {
        Self::new()
    }
}

/// By its own account, if it still lives.
fn of_process(key: ProcessKey) -> Option<Service> {
    let content = fs::read(format!("/proc/{}/cgroup", key.pid)).ok()?;
    // The pid may be another's by now.
    (crate::ledger::key_of(key.pid) == Some(key)).then(|| Service::of_process(&content))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ledger::Counters;

    fn process(cgroup: u64) -> Process {
        Process {
            // No process has this pid.
            key: ProcessKey {
                pid: u32::MAX - 1,
                start: 1,
            },
            pid: u32::MAX - 1,
            comm: "x".into(),
            exited: true,
            cgroup,
            followed: false,
            counters: Counters::default(),
        }
    }

    #[test]
    fn a_cgroup_is_known_by_its_inode_until_it_goes_and_walks_are_rare() {
        let root = tempfile::tempdir().expect("tempdir");
        let make = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(&path).expect("mkdir");
            fs::metadata(&path).expect("stat").ino()
        };
        let nginx = make("system.slice/nginx.service");
        let mut services = Services::below(Some(root.path().into()), Names::below("/nowhere"));
        let begin = Instant::now();
        let mut unit = |cgroup, round| {
            let round = begin + Duration::from_secs(round);
            services.of(&process(cgroup), round).unit.clone()
        };
        assert_eq!(unit(nginx, 0).as_deref(), Some("nginx.service"));
        let redis = make("system.slice/redis.service");
        assert_eq!(unit(redis, 0), None, "not walked again so soon");
        assert_eq!(unit(redis, 1).as_deref(), Some("redis.service"));
        fs::remove_dir(root.path().join("system.slice/nginx.service")).expect("rmdir");
        assert_eq!(unit(nginx, 2).as_deref(), Some("nginx.service"), "known");
        assert_eq!(unit(u64::MAX, 3), None);
        assert_eq!(unit(nginx, 3), None, "forgotten");
        assert_eq!(unit(0, 4), None, "the kernel does not tell");
    }

    #[test]
    fn a_container_goes_by_its_name_if_the_runtime_tells() {
        const IDS: [char; 2] = ['a', 'b'];
        let root = tempfile::tempdir().expect("tempdir");
        let [web, unknown] = IDS.map(|letter| letter.to_string().repeat(64));
        let inode = |id: &str| {
            let path = root.path().join(format!("system.slice/docker-{id}.scope"));
            fs::create_dir_all(&path).expect("mkdir");
            fs::metadata(&path).expect("stat").ino()
        };
        let cgroups = [inode(&web), inode(&unknown)];
        let files = root.path().join("var/lib/docker/containers").join(&web);
        fs::create_dir_all(&files).expect("mkdir");
        fs::write(files.join("config.v2.json"), r#"{"Name":"/web"}"#).expect("write");
        let names = Names::below(root.path());
        let mut services = Services::below(Some(root.path().into()), names);
        let now = Instant::now();
        let containers = cgroups.map(|cgroup| services.of(&process(cgroup), now).container.clone());
        assert_eq!(containers, [Some("web".to_owned()), Some(unknown)]);
    }
}
