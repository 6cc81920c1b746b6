//! The names of containers, from the files in which their runtimes keep them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// How many names are remembered at most.
const MOST: usize = 8192;

/// Files are read up to here; real ones have some ten kilobytes.
const LARGEST: u64 = 1 << 20;

/// Docker's, one a container.
const DOCKER: &str = "var/lib/docker/containers";

/// The OCI bundles of containerd, by namespace and container.
const CONTAINERD: &str = "run/containerd/io.containerd.runtime.v2.task";

/// Those of CRI-O and Podman, one a container.
const STORAGE: &str = "run/containers/storage/overlay-containers";

/// Podman's list of all.
const PODMAN: &str = "var/lib/containers/storage/overlay-containers/containers.json";

/// Where a pod's namespace and name are, and the container's name in it: by containerd; by CRI-O and the
/// kubelet's labels in Docker.
const KUBERNETES: [[&str; 3]; 2] = [
    [
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.container-name",
    ],
    [
        "io.kubernetes.pod.namespace",
        "io.kubernetes.pod.name",
        "io.kubernetes.container.name",
    ],
];

/// What is known of this machine's containers.
pub struct Names {
    /// What the paths begin at.
    root: PathBuf,
    known: HashMap<String, String>,
}

impl Names {
    /// None yet.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            known: HashMap::new(),
        }
    }

    /// A container's name: in a pod `NAMESPACE/POD/CONTAINER`, which the container that takes its place
    /// after a restart has too; else the runtime's own. `None` if no file tells that may be read.
    pub fn of(&mut self, id: &str) -> Option<String> {
        if let Some(name) = self.known.get(id) {
            return Some(name.clone());
        }
        let name = self.read(id)?;
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(id.into(), name.clone());
        Some(name)
    }

    fn read(&self, id: &str) -> Option<String> {
        let docker = || {
            let config = json(&self.root.join(DOCKER).join(id).join("config.v2.json"))?;
            let own = config.get("Name").and_then(Value::as_str);
            in_pod(config.pointer("/Config/Labels"))
                .or_else(|| own.map(|name| name.trim_start_matches('/').to_owned()))
        };
        let containerd = || {
            let namespaces = fs::read_dir(self.root.join(CONTAINERD)).ok()?.flatten();
            namespaces
                .map(|namespace| namespace.path().join(id).join("config.json"))
                .find_map(|path| in_bundle(&json(&path)?))
        };
        let storage = || {
            let path = self.root.join(STORAGE).join(id);
            in_bundle(&json(&path.join("userdata/config.json"))?)
        };
        let podman = || {
            let list = json(&self.root.join(PODMAN))?;
            let own = |one: &&Value| one.get("id").and_then(Value::as_str) == Some(id);
            let one = list.as_array()?.iter().find(own)?;
            Some(one.pointer("/names/0")?.as_str()?.to_owned())
        };
        docker()
            .or_else(containerd)
            .or_else(storage)
            .or_else(podman)
            .filter(|name| !name.is_empty())
    }
}

/// By an OCI bundle's configuration.
fn in_bundle(config: &Value) -> Option<String> {
    let annotations = config.get("annotations")?;
    let own = || Some(annotations.get("nerdctl/name")?.as_str()?.to_owned());
    in_pod(Some(annotations)).or_else(own)
}

/// By labels or annotations. The container that holds the pod together has no name of its own.
fn in_pod(labels: Option<&Value>) -> Option<String> {
    let labels = labels?;
    KUBERNETES.iter().find_map(|[namespace, pod, container]| {
        let text = |key: &str| labels.get(key).and_then(Value::as_str);
        let pod = format!("{}/{}", text(namespace)?, text(pod)?);
        Some(match text(container) {
            Some(container) => format!("{pod}/{container}"),
            None => pod,
        })
    })
}

fn json(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(LARGEST)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7eb263389e5eea068ad3d0c208ea4dd02ba86fa0b2ebd44f63adc391351fba6d";

    /// A system, the file that its runtime keeps, what of its content matters, and the name.
    const FILES: &[[&str; 4]] = &[
        [
            "Docker 20.10, recorded",
            "var/lib/docker/containers/{id}/config.v2.json",
            r#"{"StreamConfig":{},"State":{"Running":true,"Paused":false,"Pid":447,"ExitCode":0,"Error":"",
                "StartedAt":"2026-11-23T18:24:46.755561303Z","Health":null},"ID":"{id}","Managed":false,
                "Path":"/bin/busybox","Args":["sleep","1002"],"Config":{"Hostname":"37faadbaafdd",
                "Cmd":["/bin/busybox","sleep","1002"],"Image":"tiny","Labels":{}},
                "Name":"/web-1","Driver":"vfs","OS":"linux","RestartCount":0}"#,
            "web-1",
        ],
        [
            "Docker under Kubernetes",
            "var/lib/docker/containers/{id}/config.v2.json",
            r#"{"ID":"{id}","Config":{"Labels":{"io.kubernetes.container.name":"app",
                "io.kubernetes.pod.name":"web-5d9c","io.kubernetes.pod.namespace":"shop"}},
                "Name":"/k8s_app_web-5d9c_shop_0b1c_2"}"#,
            "shop/web-5d9c/app",
        ],
        [
            "containerd under Kubernetes",
            "run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json",
            r#"{"ociVersion":"1.1.0","process":{"args":["nginx"]},"annotations":{
                "io.kubernetes.cri.container-name":"nginx","io.kubernetes.cri.container-type":"container",
                "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"default"}}"#,
            "default/web-0/nginx",
        ],
        [
            "containerd's own container of a pod",
            "run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json",
            r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox",
                "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"default"}}"#,
            "default/web-0",
        ],
        [
            "nerdctl",
            "run/containerd/io.containerd.runtime.v2.task/default/{id}/config.json",
            r#"{"annotations":{"nerdctl/name":"db","nerdctl/namespace":"default"}}"#,
            "db",
        ],
        [
            "CRI-O",
            "run/containers/storage/overlay-containers/{id}/userdata/config.json",
            r#"{"annotations":{"io.kubernetes.container.name":"sidecar","io.kubernetes.pod.name":"api-1",
                "io.kubernetes.pod.namespace":"prod","io.container.manager":"cri-o"}}"#,
            "prod/api-1/sidecar",
        ],
        [
            "Podman 4.3, recorded, and another one before it",
            "var/lib/containers/storage/overlay-containers/containers.json",
            r#"[{"id":"0000","names":["first"]},{"id":"{id}","names":["cache"],"image":"",
                "layer":"45ca893a45c18f18f3e4a22cc22b4bf849b711d51ce97ddd962fe2179608355e",
                "metadata":"{\"image-name\":\"\",\"image-id\":\"\",\"name\":\"cache\"}",
                "created":"2026-11-23T18:25:51.093930483Z","flags":{"MountLabel":"","ProcessLabel":""}}]"#,
            "cache",
        ],
    ];

    #[test]
    fn each_runtime_tells_its_containers_names() {
        for [system, file, content, name] in FILES {
            let root = tempfile::tempdir().expect("tempdir");
            let path = root.path().join(file.replace("{id}", ID));
            fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
            fs::write(&path, content.replace("{id}", ID)).expect("write");
            let mut names = Names::below(root.path());
            assert_eq!(names.of(ID).as_deref(), Some(*name), "{system}");
            fs::remove_file(path).expect("unlink");
            assert_eq!(names.of(ID).as_deref(), Some(*name), "{system}: known");
            assert_eq!(names.of(&ID.replace('7', "8")), None, "{system}: another");
        }
    }

    #[test]
    fn files_that_say_nothing_give_no_name() {
        for content in ["", "{", "[]", "{}", r#"{"Name":7}"#, r#"{"Name":"/"}"#] {
            let root = tempfile::tempdir().expect("tempdir");
            let directory = root.path().join(DOCKER).join(ID);
            fs::create_dir_all(&directory).expect("mkdir");
            fs::write(directory.join("config.v2.json"), content).expect("write");
            assert_eq!(Names::below(root.path()).of(ID), None, "{content}");
        }
    }
}
