#!/bin/busybox sh
# The guest's first program. Its root is the initial RAM disk, in which the host has written /request for this boot.
# It mounts a writable overlay over the host's root and executes xtask there. Its output goes to the console, which
# the host shows if the boot fails.

export PATH=/bin
busybox mount -t proc proc /proc
busybox --install -s /bin

fail() {
    echo "zc-lab: $*"
    poweroff -f
    sleep 60
}

mount -t devtmpfs dev /dev 2>/dev/null # the kernel may have mounted it already
mount -t sysfs sysfs /sys
while read -r module; do
    insmod "/modules/$module.ko" || fail "cannot load the module $module"
done </modules/order

mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /host ||
    fail "cannot mount the host's root"
mount -t tmpfs layers /layers
mkdir /layers/upper /layers/work
mount -t overlay -o lowerdir=/host,upperdir=/layers/upper,workdir=/layers/work overlay /root ||
    fail "cannot mount a writable overlay over the host's root"

mkdir -p /root/proc /root/sys /root/dev /root/run /root/lab
# No background initialisation of the new file system: it would disturb the measurements.
mount -t ext4 -o noinit_itable /dev/vda /root/lab || fail "cannot mount the scratch disk"
rmdir /root/lab/lost+found

umount /sys
mount --move /proc /root/proc
mount -t sysfs sysfs /root/sys
mount --move /dev /root/dev
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
ln -s /proc/self/fd /root/dev/fd
for n in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${n%:*}" "/root/dev/${n#*:}"
done
mount -t tracefs tracefs /root/sys/kernel/tracing
mount -t debugfs debugfs /root/sys/kernel/debug
mount -t bpf bpf /root/sys/fs/bpf
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup

modules=$(cat /request/modules)
if [ -n "$modules" ]; then
    mkdir -p "/root/lib/modules/$(uname -r)"
    mount --bind "/host$modules" "/root/lib/modules/$(uname -r)"
fi

share=$(cat /request/share)
if [ -n "$share" ]; then
    mkdir -p "/root$share"
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share "/root$share" ||
        fail "cannot mount the shared directory $share"
fi

hostname zc-lab
ifconfig lo 127.0.0.1 up
for nic in /root/sys/class/net/eth*; do
    # Only the NIC that leads to the host. zc-hardware sets the lab's own NICs up.
    [ "$(cat "$nic/address")" = 52:54:00:00:00:01 ] || continue
    ifconfig "${nic##*/}" 10.0.2.15 netmask 255.255.255.0 up
    route add default gw 10.0.2.2
done

mkdir -p /root/run/zc-lab/bin
cp /request/json /root/run/zc-lab/request.json
cp /bin/busybox /request/zc-hardware /root/run/zc-lab/bin
ln -s busybox /root/run/zc-lab/bin/insmod
ln -s busybox /root/run/zc-lab/bin/rmmod
ln -s "$(cat /request/drivers)" /root/run/zc-lab/drivers
exec switch_root /root "$(cat /request/agent)" guest
