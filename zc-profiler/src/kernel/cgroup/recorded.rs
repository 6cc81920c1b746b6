//! Contents of /proc/PID/cgroup as real machines had them, some without lines that say the same again.

use super::Service;

/// Whose it is and where it was recorded; the content; then unit, container and pod, `-` for none.
const RECORDED: &[(&str, &str, [&str; 3])] = &[
    (
        "Docker 20.10 with cgroupfs, Linux 6.1, v2: recorded in the lab machine",
        "0::/docker/daeb3e62d27502737c398c430ec04885faaee4e90370309feba0e1a5f1077183\n",
        [
            "-",
            "daeb3e62d27502737c398c430ec04885faaee4e90370309feba0e1a5f1077183",
            "-",
        ],
    ),
    (
        "the same, v1 and v2 side by side: recorded in the lab machine",
        "9:name=systemd:/docker/2b98ec56d5f559efa349ea57acc101a479eddf3442dcd5c8962c4b62ac0362f5\n\
         8:pids:/docker/2b98ec56d5f559efa349ea57acc101a479eddf3442dcd5c8962c4b62ac0362f5\n\
         1:cpuset:/docker/2b98ec56d5f559efa349ea57acc101a479eddf3442dcd5c8962c4b62ac0362f5\n\
         0::/docker/2b98ec56d5f559efa349ea57acc101a479eddf3442dcd5c8962c4b62ac0362f5\n",
        [
            "-",
            "2b98ec56d5f559efa349ea57acc101a479eddf3442dcd5c8962c4b62ac0362f5",
            "-",
        ],
    ),
    (
        "Podman 4.3 with cgroupfs: recorded in the lab machine",
        "0::/libpod_parent/libpod-57263f791e723812a710880eaaaf2457418f4bbcb83fd183160f524541fe9562\n",
        [
            "-",
            "57263f791e723812a710880eaaaf2457418f4bbcb83fd183160f524541fe9562",
            "-",
        ],
    ),
    (
        "containerd, a container named by hand: recorded in the lab machine",
        "0::/default/byhand\n",
        ["-", "-", "-"],
    ),
    (
        "Docker, hybrid, containerd a unit: https://github.com/ctrsploit/ctrsploit/issues/280",
        "12:net_cls,net_prio:/docker/2403ccfe427f1dc7b6120dccb9ac58c2f8456950380d587a9f33ea7f00dd303d\n\
         10:rdma:/\n\
         1:name=systemd:/docker/2403ccfe427f1dc7b6120dccb9ac58c2f8456950380d587a9f33ea7f00dd303d\n\
         0::/system.slice/containerd.service\n",
        [
            "-",
            "2403ccfe427f1dc7b6120dccb9ac58c2f8456950380d587a9f33ea7f00dd303d",
            "-",
        ],
    ),
    (
        "Docker that leaves systemd's hierarchy alone: https://github.com/moby/moby/issues/33352",
        "13:pids:/\n12:hugetlb:/\n11:net_prio:/\n\
         10:perf_event:/docker/5dace3de0735f73d2b5048f12d41a71741a02e49668de921fdae62f7e65dc498\n\
         9:net_cls:/\n\
         2:cpuset:/docker/5dace3de0735f73d2b5048f12d41a71741a02e49668de921fdae62f7e65dc498\n\
         1:name=systemd:/\n",
        [
            "-",
            "5dace3de0735f73d2b5048f12d41a71741a02e49668de921fdae62f7e65dc498",
            "-",
        ],
    ),
    (
        "inside a container's own namespace: https://github.com/coder/clistat/issues/25",
        "1:net_cls:/\n0::/\n",
        ["-", "-", "-"],
    ),
    (
        "Kubernetes, Docker with cgroupfs: https://github.com/genuinetools/amicontained/issues/7",
        "11:memory:/kubepods/besteffort/pod6c85216c-82ad-11e7-9fb0-061c2985ea4a/\
         162a25c865d3117f158a598f94b1a14436519ba18c8c1969727b9d3f7bdee25e\n\
         10:pids:/kubepods/besteffort/pod6c85216c-82ad-11e7-9fb0-061c2985ea4a/\
         162a25c865d3117f158a598f94b1a14436519ba18c8c1969727b9d3f7bdee25e\n",
        [
            "-",
            "162a25c865d3117f158a598f94b1a14436519ba18c8c1969727b9d3f7bdee25e",
            "6c85216c-82ad-11e7-9fb0-061c2985ea4a",
        ],
    ),
    (
        "Kubernetes, Docker with systemd: https://github.com/lxc/lxc/issues/3890",
        "12:rdma:/\n\
         11:freezer:/kubepods.slice/kubepods-burstable.slice/\
         kubepods-burstable-pod7d4424e6_bb13_42f4_a47a_45a4828bf54d.slice/\
         docker-d0b3604b67ac7930dd34ba3a796627e3e4717d12309e90a4afe3f38b6816ac98.scope\n",
        [
            "-",
            "d0b3604b67ac7930dd34ba3a796627e3e4717d12309e90a4afe3f38b6816ac98",
            "7d4424e6-bb13-42f4-a47a-45a4828bf54d",
        ],
    ),
    (
        "Kubernetes, containerd without systemd's driver: \
         https://github.com/open-telemetry/opentelemetry-java/issues/4507",
        "11:perf_event:/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:\
         ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459\n\
         10:blkio:/system.slice/containerd.service/\
         kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:\
         ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459\n",
        [
            "containerd.service",
            "ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459",
            "0125ec2f-b64a-4868-8f5b-94b56cbab864",
        ],
    ),
    (
        "Kubernetes, containerd with systemd, a pod of the guaranteed class: \
         https://github.com/kata-containers/kata-containers/pull/11598",
        "0::/kubepods.slice/kubepods-poddc430cd3_34b7_4ea6_be26_ddfd88d7ddff.slice/\
         cri-containerd-8564224395a4fbf7f2792baa22ee16dfc8f8e862e20342d3b2bcc211a3939af6.scope\n",
        [
            "-",
            "8564224395a4fbf7f2792baa22ee16dfc8f8e862e20342d3b2bcc211a3939af6",
            "dc430cd3-34b7-4ea6-be26-ddfd88d7ddff",
        ],
    ),
    (
        "Kubernetes, a static pod: https://github.com/netdata/netdata/issues/4868",
        "0::/kubepods.slice/kubepods-burstable.slice/\
         kubepods-burstable-pod8daa50c3a64c9ff60bb9eab7b44b56fd.slice/\
         cri-containerd-2884d57c0e100d7a9a2f9487ce0bc2986bca3430e988af7a4865aff061f51ac5.scope\n",
        [
            "-",
            "2884d57c0e100d7a9a2f9487ce0bc2986bca3430e988af7a4865aff061f51ac5",
            "8daa50c3a64c9ff60bb9eab7b44b56fd",
        ],
    ),
    (
        "Kubernetes in Docker: https://github.com/containerd/nri/pull/227",
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
         kubelet-kubepods-besteffort-pod1e597579_417e_482f_bf65_5fe170c3aebd.slice/\
         cri-containerd-d7dfb4a21fe1703a8537e60d5af248af729315d187b24a538102d14874c8117d.scope\n",
        [
            "-",
            "d7dfb4a21fe1703a8537e60d5af248af729315d187b24a538102d14874c8117d",
            "1e597579-417e-482f-bf65-5fe170c3aebd",
        ],
    ),
    (
        "CRI-O, v1: https://github.com/opencontainers/runc/issues/4620",
        "13:freezer:/kubepods.slice/kubepods-burstable.slice/\
         kubepods-burstable-poda5c1f8d5_1919_434d_add7_4afaafdaef89.slice/\
         crio-5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c.scope\n\
         11:files:/\n",
        [
            "-",
            "5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c",
            "a5c1f8d5-1919-434d-add7-4afaafdaef89",
        ],
    ),
    (
        "CRI-O's monitor: https://github.com/opencontainers/runc/issues/4620",
        "0::/kubepods.slice/kubepods-burstable.slice/\
         kubepods-burstable-pod207aaad1_659f_4db8_88e0_46e0cdcc3004.slice/\
         crio-conmon-32da98c8522068be05a7510a3eddb09cad6ed2f03286180d0e931d0d0b6224a6.scope\n",
        [
            "crio-conmon-32da98c8522068be05a7510a3eddb09cad6ed2f03286180d0e931d0d0b6224a6.scope",
            "-",
            "207aaad1-659f-4db8-88e0-46e0cdcc3004",
        ],
    ),
    (
        "CRI-O's container of a pod on OpenShift: https://github.com/containerd/nri/pull/227",
        "0::/kubepods.slice/kubepods-burstable.slice/\
         kubepods-burstable-pod35550f44_f691_427e_b57d_ab6127d2cb65.slice/\
         crio-468f848e2ebec7203ed55748d08337851af589ac42eb551c572446a5c68fe631\n",
        [
            "-",
            "468f848e2ebec7203ed55748d08337851af589ac42eb551c572446a5c68fe631",
            "35550f44-f691-427e-b57d-ab6127d2cb65",
        ],
    ),
    (
        "CRI-O inside Docker: https://github.com/kubernetes/minikube/issues/11280",
        "0::/docker/d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22/kubepods.slice/\
         kubepods-besteffort.slice/kubepods-besteffort-podae7a96fb_2bdc_46b0_96e2_78e4af94847b.slice/\
         crio-89e8f450417b56acf3089925dfd8f050dd50e950e18cfe83ea923269df601102.scope\n",
        [
            "-",
            "89e8f450417b56acf3089925dfd8f050dd50e950e18cfe83ea923269df601102",
            "ae7a96fb-2bdc-46b0-96e2-78e4af94847b",
        ],
    ),
    (
        "a user's scope: https://github.com/containers/crun/issues/376",
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/podman-6696.scope\n",
        ["podman-6696.scope", "-", "-"],
    ),
    (
        "a daemon that left its unit's cgroup: https://github.com/kontena/pharos-cluster/issues/440",
        "11:cpuacct,cpu:/system.slice\n10:perf_event:/system.slice\n1:name=systemd:/system.slice\n",
        ["-", "-", "-"],
    ),
];

#[test]
fn recorded_machines_are_understood() {
    for (machine, content, expected) in RECORDED {
        let [unit, container, pod] = expected.map(|part| (part != "-").then(|| part.to_owned()));
        let service = Service {
            unit,
            container,
            pod,
        };
        assert_eq!(
            Service::of_process(content.as_bytes()),
            service,
            "{machine}"
        );
    }
}
