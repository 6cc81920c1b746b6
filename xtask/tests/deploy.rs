//! Checks the files for containers and Kubernetes: they agree with each other, and Kubernetes knows every field.

use std::{collections::BTreeSet, fs, path::Path};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Container, PodSpec},
};
use serde_json::Value;

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../zc-profiler/deploy")
        .join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn written() -> Value {
    serde_yaml_ng::from_str(&text("kubernetes/daemonset.yaml")).expect("YAML")
}

/// The file as Kubernetes parses it. The error names a field that Kubernetes does not know.
fn typed(written: &Value) -> Result<DaemonSet, String> {
    let typed: DaemonSet =
        serde_json::from_value(written.clone()).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    match difference(written, &known, String::new()) {
        Some(path) => Err(format!("{path} is unknown")),
        None => Ok(typed),
    }
}

/// The path of the first value that differs.
fn difference(written: &Value, known: &Value, path: String) -> Option<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            written.iter().find_map(|(key, value)| {
                difference(
                    value,
                    known.get(key).unwrap_or(&Value::Null),
                    format!("{path}.{key}"),
                )
            })
        }
        (Value::Array(written), Value::Array(known)) if written.len() == known.len() => {
            let mut pairs = written.iter().zip(known).enumerate();
            pairs.find_map(|(index, (written, known))| {
                difference(written, known, format!("{path}[{index}]"))
            })
        }
        _ => (written != known).then_some(path),
    }
}

fn pod(set: &DaemonSet) -> (&PodSpec, &Container) {
    let pod = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .expect("a pod");
    (pod, &pod.containers[0])
}

#[test]
fn kubernetes_knows_every_field() {
    let mut written = written();
    typed(&written).expect("valid");
    written["spec"]["template"]["spec"]["hostPid"] = true.into();
    assert_eq!(
        typed(&written).err().as_deref(),
        Some(".spec.template.spec.hostPid is unknown")
    );
    written["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] =
        "9464".into();
    typed(&written).expect_err("a port that is text");
}

#[test]
fn the_parts_of_the_daemon_set_fit_together() {
    let set = typed(&written()).expect("valid");
    let (pod, container) = pod(&set);
    let spec = set.spec.as_ref().expect("a specification");
    let labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.as_ref());
    assert_eq!(spec.selector.match_labels.as_ref(), labels);

    let mounted: Vec<_> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| &mount.name)
        .collect();
    let volumes: Vec<_> = pod
        .volumes
        .iter()
        .flatten()
        .map(|volume| &volume.name)
        .collect();
    assert_eq!(mounted, volumes);
    for (mount, volume) in container
        .volume_mounts
        .iter()
        .flatten()
        .zip(pod.volumes.iter().flatten())
    {
        // The profiler expects the host's files at the same paths as on the host.
        if let Some(host) = &volume.host_path {
            assert_eq!(
                (&host.path, mount.read_only),
                (&mount.mount_path, Some(true))
            );
        }
    }

    let ports = container
        .ports
        .iter()
        .flatten()
        .map(|port| port.container_port);
    let ports: Vec<_> = ports.collect();
    let annotations = spec
        .template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.annotations.as_ref());
    let annotations = annotations.expect("annotations");
    assert_eq!(annotations["prometheus.io/port"], ports[0].to_string());
    let listen = container.args.iter().flatten().last().expect("arguments");
    assert!(listen.ends_with(&format!(":{}", ports[0])), "{listen}");
    let image = container.image.as_deref();
    assert_eq!(
        image,
        Some(concat!("zc-profiler:", env!("CARGO_PKG_VERSION")))
    );
}

/// The words that follow each `before`.
fn words(text: &str, before: &str) -> BTreeSet<String> {
    let parts = text.split(before).skip(1);
    let words = parts.filter_map(|part| part.split_whitespace().next());
    words.map(str::to_owned).collect()
}

#[test]
fn everywhere_the_same_capabilities_are_given() {
    let unit = text("systemd/zc-profiler.service");
    let line = |name: &str| {
        let mut lines = unit.lines();
        let line = lines
            .find_map(|line| line.strip_prefix(name))
            .expect("a line");
        words(line, "CAP_")
    };
    let bounding = line("CapabilityBoundingSet=");
    assert!(!bounding.is_empty());
    assert_eq!(bounding, line("AmbientCapabilities="));
    assert_eq!(bounding, words(&text("docker/Dockerfile"), "--cap-add "));
    let set = typed(&written()).expect("valid");
    let security = pod(&set).1.security_context.as_ref().expect("a context");
    let capabilities = security.capabilities.as_ref().expect("capabilities");
    assert_eq!(
        bounding,
        capabilities.add.iter().flatten().cloned().collect()
    );
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
}
