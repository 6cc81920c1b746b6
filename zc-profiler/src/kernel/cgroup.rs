//! The names of cgroups, as systemd, the container runtimes and Kubernetes give them.

#[cfg(test)]
mod recorded;

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What the path of a cgroup says of the processes in it. Every part is plain ASCII: what is not
/// spelled as its maker spells it is not taken for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The systemd unit; of a container, the unit that runs inside it, or else the one that holds it.
    /// A scope that was made for a container only is not named.
    pub unit: Option<String>,
    /// The innermost container: its name if its runtime tells, else its id.
    pub container: Option<String>,
    /// The UID of the Kubernetes pod.
    pub pod: Option<String>,
}

/// What the runtimes put before a container's id: Docker, containerd for Kubernetes and for nerdctl,
/// CRI-O, Podman on its own and inside a unit.
const RUNTIMES: [&str; 6] = [
    "docker-",
    "cri-containerd-",
    "nerdctl-",
    "crio-",
    "libpod-",
    "libpod-payload-",
];

/// The kinds of unit that have a cgroup of their own and are no mere branch of the tree.
const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// Where systemd itself lives; that of a user's manager would go by the name of the system's.
const MANAGER: &str = "init.scope";

/// `UNIT_NAME_MAX` of systemd.
const LONGEST_UNIT: usize = 255;

impl Service {
    /// From the content of /proc/PID/cgroup: a line for each hierarchy, one on cgroup v2, several on
    /// v1 and hybrid machines.
    #[must_use]
    pub fn of_process(content: &[u8]) -> Self {
        // Hierarchies disagree where a runtime, or a user's manager, uses but some of them.
        let services = content.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let service = Self::of_path(path);
            let knows = (
                service.container.is_some(),
                service.pod.is_some(),
                service.unit.is_some(),
                controllers.is_empty() || controllers == b"name=systemd",
            );
            Some((knows, service))
        });
        services
            .max_by(|(left, _), (right, _)| left.cmp(right))
            .map(|(_, service)| service)
            .unwrap_or_default()
    }

    /// From the path of a cgroup.
    #[must_use]
    pub fn of_path(path: &[u8]) -> Self {
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let mut service = Self::default();
        let mut in_pods = false;
        // What lies below a unit belongs to it, but a user's manager has units of its own.
        let mut settled = false;
        for segment in path.split(|byte| *byte == b'/') {
            let Ok(segment) = str::from_utf8(segment) else {
                continue;
            };
            in_pods |= segment.contains("kubepods");
            if in_pods && let Some(pod) = pod(segment) {
                service.pod = Some(pod);
            }
            if let Some(container) = container(segment) {
                service.container = Some(container.into());
                settled = false;
            } else if let Some(unit) = unit(segment)
                .filter(|unit| !settled && (*unit != MANAGER || service.unit.is_none()))
            {
                settled = !unit.starts_with("user@");
                service.unit = Some(unit.into());
            }
        }
        service
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

fn container(segment: &str) -> Option<&str> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    // containerd without systemd's driver under a kubelet with it: SLICE:RUNTIME:ID.
    let name = name.rsplit_once(':').map_or(name, |(_, id)| id);
    let id = RUNTIMES
        .iter()
        .find_map(|runtime| name.strip_prefix(runtime).filter(|id| is_container_id(id)));
    id.or(Some(name).filter(|name| is_container_id(name)))
}

fn is_container_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(is_hex)
}

/// `podUID` of cgroupfs's driver, `kubepods-burstable-podUID.slice` of systemd's, which writes `_`
/// for `-`, or the latter as the first part of SLICE:RUNTIME:ID.
fn pod(segment: &str) -> Option<String> {
    let name = segment.split(':').next().unwrap_or_default();
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.rsplit_once("-pod")?.1,
    };
    let uid = uid.replace('_', "-");
    is_pod_uid(&uid).then_some(uid)
}

/// A UUID, or the digest of a static pod's manifest.
fn is_pod_uid(uid: &str) -> bool {
    let parts: Vec<_> = uid.split('-').map(str::len).collect();
    matches!(*parts, [8, 4, 4, 4, 12] | [32])
        && uid.bytes().all(|byte| is_hex(byte) || byte == b'-')
}

const fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn unit(segment: &str) -> Option<&str> {
    // systemd escapes names that the kernel has uses for.
    let name = segment.strip_prefix('_').unwrap_or(segment);
    let kind = UNITS.iter().find(|kind| name.ends_with(**kind))?;
    let spelled = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte));
    (spelled && name.len() > kind.len() && name.len() <= LONGEST_UNIT).then_some(name)
}

/// Where the default (v2) hierarchy of cgroups is mounted, if it is.
#[must_use]
pub fn default_hierarchy() -> Option<PathBuf> {
    mounted(&fs::read("/proc/self/mountinfo").unwrap_or_default())
}

/// The same, by the content of /proc/PID/mountinfo.
pub(crate) fn mounted(mounts: &[u8]) -> Option<PathBuf> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let words = || line.split(|byte| *byte == b' ');
        let kind = words().skip_while(|word| *word != b"-").nth(1)?;
        let point = words().nth(4)?;
        (kind == b"cgroup2").then(|| Path::new(std::ffi::OsStr::from_bytes(point)).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const ID: &str = "7eb263389e5eea068ad3d0c208ea4dd02ba86fa0b2ebd44f63adc391351fba6d";
    const INNER: &str = "09bc3d7ade839efec32b6bec4ec79d099027a668ddba043083ec21d3c3b8f1e6";
    const POD: &str = "72f7f152-440c-66ac-9084-e0fc1d8a910c";

    /// Paths by system; `{id}`, `{inner}`, `{pod}` and `{pod_}` stand for the names above, the last
    /// for the pod's with `_`. Then unit, container and pod, `-` for none.
    const PATHS: &[(&str, &str, [&str; 3])] = &[
        ("v2 root", "/", ["-", "-", "-"]),
        ("init", "/init.scope", ["init.scope", "-", "-"]),
        (
            "service",
            "/system.slice/nginx.service",
            ["nginx.service", "-", "-"],
        ),
        (
            "instance in a slice of its template",
            r"/system.slice/system-postgresql.slice/postgresql@15-main.service",
            ["postgresql@15-main.service", "-", "-"],
        ),
        (
            "escaped unit",
            r"/system.slice/system-getty.slice/dev-disk-by\x2duuid.swap",
            [r"dev-disk-by\x2duuid.swap", "-", "-"],
        ),
        (
            "name that systemd escapes for the kernel",
            "/system.slice/_cpu.service",
            ["cpu.service", "-", "-"],
        ),
        (
            "delegated",
            "/system.slice/runner.service/payload/job.service",
            ["runner.service", "-", "-"],
        ),
        (
            "session",
            "/user.slice/user-1000.slice/session-3.scope",
            ["session-3.scope", "-", "-"],
        ),
        (
            "user's manager",
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            ["user@1000.service", "-", "-"],
        ),
        (
            "user's unit",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service",
            ["syncthing.service", "-", "-"],
        ),
        (
            "gone",
            "/system.slice/apt-daily.service (deleted)",
            ["apt-daily.service", "-", "-"],
        ),
        (
            "from inside another namespace",
            "/../../system.slice/ssh.service",
            ["ssh.service", "-", "-"],
        ),
        ("Docker, cgroupfs", "/docker/{id}", ["-", "{id}", "-"]),
        (
            "Docker, systemd",
            "/system.slice/docker-{id}.scope",
            ["-", "{id}", "-"],
        ),
        (
            "systemd inside Docker",
            "/system.slice/docker-{id}.scope/system.slice/redis-server.service",
            ["redis-server.service", "{id}", "-"],
        ),
        (
            "Docker inside Docker",
            "/docker/{id}/docker/{inner}",
            ["-", "{inner}", "-"],
        ),
        (
            "containerd, nerdctl",
            "/system.slice/nerdctl-{id}.scope",
            ["-", "{id}", "-"],
        ),
        ("containerd, cgroupfs", "/k8s.io/{id}", ["-", "{id}", "-"]),
        (
            "Kubernetes, cgroupfs, burstable",
            "/kubepods/burstable/pod{pod}/{id}",
            ["-", "{id}", "{pod}"],
        ),
        (
            "Kubernetes, cgroupfs, guaranteed",
            "/kubepods/pod{pod}/{id}",
            ["-", "{id}", "{pod}"],
        ),
        (
            "Kubernetes, containerd, systemd",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod_}.slice/cri-containerd-{id}.scope",
            ["-", "{id}", "{pod}"],
        ),
        (
            "Kubernetes, Docker, systemd",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{pod_}.slice/docker-{id}.scope",
            ["-", "{id}", "{pod}"],
        ),
        (
            "Kubernetes, containerd without systemd's driver",
            "/system.slice/containerd.service/kubepods-pod{pod_}.slice:cri-containerd:{id}",
            ["containerd.service", "{id}", "{pod}"],
        ),
        (
            "Kubernetes, static pod",
            "/kubepods/burstable/pod0f1ee0d10e4e6c1d5a2b3c4d5e6f7a8b/{id}",
            ["-", "{id}", "0f1ee0d10e4e6c1d5a2b3c4d5e6f7a8b"],
        ),
        (
            "Kubernetes in Docker",
            "/docker/{inner}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{pod_}.slice/cri-containerd-{id}.scope",
            ["-", "{id}", "{pod}"],
        ),
        (
            "CRI-O",
            "/kubepods.slice/kubepods-pod{pod_}.slice/crio-{id}.scope/container",
            ["-", "{id}", "{pod}"],
        ),
        (
            "CRI-O, cgroupfs",
            "/kubepods/besteffort/pod{pod}/crio-{id}",
            ["-", "{id}", "{pod}"],
        ),
        (
            "CRI-O's monitor",
            "/kubepods.slice/kubepods-pod{pod_}.slice/crio-conmon-{id}.scope",
            ["crio-conmon-{id}.scope", "-", "{pod}"],
        ),
        (
            "Podman",
            "/machine.slice/libpod-{id}.scope/container",
            ["-", "{id}", "-"],
        ),
        (
            "Podman of a user",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container",
            ["user@1000.service", "{id}", "-"],
        ),
        (
            "Podman in a unit",
            "/system.slice/web.service/libpod-payload-{id}",
            ["web.service", "{id}", "-"],
        ),
        (
            "Podman, cgroupfs",
            "/libpod_parent/libpod-{id}",
            ["-", "{id}", "-"],
        ),
        (
            "Podman's monitor",
            "/machine.slice/libpod-conmon-{id}.scope",
            ["libpod-conmon-{id}.scope", "-", "-"],
        ),
        ("half an id", "/docker/7eb263389e5eea06", ["-", "-", "-"]),
        (
            "a kind without a name",
            "/system.slice/.service",
            ["-", "-", "-"],
        ),
        ("a pod elsewhere", "/pods/pod{pod}", ["-", "-", "-"]),
        (
            "spaces in a unit",
            "/system.slice/a b.service",
            ["-", "-", "-"],
        ),
    ];

    fn fill(text: &str) -> String {
        text.replace("{id}", ID)
            .replace("{inner}", INNER)
            .replace("{pod}", POD)
            .replace("{pod_}", &POD.replace('-', "_"))
    }

    fn service([unit, container, pod]: [&str; 3]) -> Service {
        let part = |text: &str| (text != "-").then(|| fill(text));
        Service {
            unit: part(unit),
            container: part(container),
            pod: part(pod),
        }
    }

    #[test]
    fn paths_are_read_as_their_makers_wrote_them() {
        for (system, path, expected) in PATHS {
            let path = fill(path);
            assert_eq!(
                Service::of_path(path.as_bytes()),
                service(*expected),
                "{system}"
            );
            let content = format!("0::{path}\n");
            assert_eq!(
                Service::of_process(content.as_bytes()),
                service(*expected),
                "{system}"
            );
        }
    }

    #[test]
    fn the_hierarchy_that_knows_most_is_believed() {
        let cases = [
            (
                "v1",
                "12:pids:/system.slice/nginx.service\n4:cpu,cpuacct:/system.slice\n\
                 1:name=systemd:/system.slice/nginx.service\n",
                ["nginx.service", "-", "-"],
            ),
            (
                "v1 where only systemd's hierarchy tells the user's units",
                "12:pids:/user.slice/user-1000.slice/user@1000.service\n\
                 1:name=systemd:/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n",
                ["a.service", "-", "-"],
            ),
            (
                "hybrid, Docker with cgroupfs: the container is in v1 only",
                "3:rdma:/\n2:cpuset:/docker/{id}\n1:name=systemd:/docker/{id}\n\
                 0::/system.slice/containerd.service\n",
                ["-", "{id}", "-"],
            ),
            (
                "hybrid, Kubernetes with cgroupfs",
                "6:memory:/kubepods/burstable/pod{pod}/{id}\n2:rdma:/\n\
                 1:name=systemd:/kubepods/burstable/pod{pod}/{id}\n0::/system.slice/k3s-agent.service\n",
                ["-", "{id}", "{pod}"],
            ),
            (
                "hybrid, without systemd's line",
                "4:memory:/docker/{id}\n1:cpu:/\n0::/\n",
                ["-", "{id}", "-"],
            ),
            (
                "a colon in the path",
                "0::/system.slice/dbus:1.service\n",
                ["dbus:1.service", "-", "-"],
            ),
            ("nothing", "", ["-", "-", "-"]),
            ("garbage", "::\n:\n\n0:x\n", ["-", "-", "-"]),
        ];
        for (system, content, expected) in cases {
            let content = fill(content);
            assert_eq!(
                Service::of_process(content.as_bytes()),
                service(expected),
                "{system}"
            );
        }
    }

    #[test]
    fn what_is_not_utf_8_hides_nothing_beside_it() {
        let path = b"/\xff\xfe.service/system.slice/nginx.service";
        let unit = Service::of_path(path).unit;
        assert_eq!(unit.as_deref(), Some("nginx.service"));
        assert!(Service::of_path(b"/system.slice/\xff.service").is_unknown());
    }

    /// Bytes of which many look like the real thing.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            vec(any::<u8>(), 0..8),
            prop::sample::select(
                &[
                    "/",
                    ":",
                    "\n",
                    ".service",
                    ".scope",
                    ".slice",
                    "kubepods",
                    "pod",
                    "-",
                    "_",
                    "docker-",
                    "libpod-",
                    "user@1",
                    " (deleted)",
                    "0::/",
                    "1:name=systemd:/",
                    ID,
                    POD,
                    "\u{e9}",
                    ".."
                ][..]
            )
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_give_names_of_known_shape(content in hostile()) {
            for service in [Service::of_process(&content), Service::of_path(&content)] {
                if let Some(unit) = service.unit {
                    prop_assert!(unit.len() <= LONGEST_UNIT && unit.is_ascii() && !unit.contains(['/', '\n', ' ']));
                }
                if let Some(container) = service.container {
                    prop_assert!(is_container_id(&container));
                }
                if let Some(pod) = service.pod {
                    prop_assert!(is_pod_uid(&pod));
                }
            }
        }
    }

    #[test]
    fn the_default_hierarchy_is_found_among_others() {
        let hybrid = b"25 21 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - tmpfs tmpfs rw,mode=755\n\
            26 25 0:23 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,name=systemd\n\
            27 25 0:24 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mounted(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted(b""), None);
        assert_eq!(mounted(b"1 2 3\n- cgroup2\n"), None);
    }
}
