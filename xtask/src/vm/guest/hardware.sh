#!/run/zc-lab/bin/busybox sh
# Sets up the lab's hardware. The boot does not wait for this hardware.
#
#   zc-hardware disks   two IDE disks, the first driven by PIO, the second by DMA
#   zc-hardware nics    an e1000 and a virtio NIC, wired to each other, in a network namespace each
#   zc-hardware xfs     an xfs with reflinks, on a loop device over a file of the scratch disk
#   zc-hardware lab COMMAND...   sets up disks and NICs, and runs COMMAND with the lab's options that name them;
#                   sets up the xfs too if COMMAND names the lab's table `files` or `all`
#
# All but the last print the hardware's names as NAME=VALUE. Hardware that is set up already stays as it is.

set -e
path=$PATH
applets=/run/zc-lab/applets
if [ ! -d $applets ]; then
    /run/zc-lab/bin/busybox mkdir $applets
    /run/zc-lab/bin/busybox --install -s $applets
fi
PATH=$applets

fail() {
    echo "zc-hardware: $*" >&2
    exit 1
}

# Loads the drivers in the order of their dependencies. xfs loads slowly, so only `load xfs` loads it.
load() {
    while read -r module; do
        [ -e "/sys/module/$module" ] && continue
        case $module in
        loop | xfs) [ "$1" = xfs ] || continue ;;
        esac
        case $module in
        libata) parameters="force=1:pio4" ;; # PIO for the first port's disk; the second port keeps DMA
        *) parameters= ;;
        esac
        # shellcheck disable=SC2086 # without parameters, insmod must get no argument
        insmod "/run/zc-lab/drivers/$module.ko" $parameters || fail "cannot load the module $module"
    done </run/zc-lab/drivers/order
}

# Waits until a command succeeds: disks and links appear some time after their driver is loaded.
wait_for() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "timed out waiting for: $*"
        sleep 0.05
    done
}

# Sets DISK to the disk at an ATA port.
find_disk() {
    for disk in /sys/block/sd*; do
        case $(readlink "$disk") in
        */ata"$1"/*)
            DISK=/dev/$(basename "$disk")
            [ -b "$DISK" ] && return
            ;;
        esac
    done
    return 1
}

disks() {
    load
    wait_for find_disk 1
    echo "PIO_DISK=$DISK"
    wait_for find_disk 2
    echo "DMA_DISK=$DISK"
}

# Sets NIC to the interface with an address.
find_nic() {
    for nic in /sys/class/net/*; do
        if [ "$(cat "$nic/address")" = "$1" ]; then
            NIC=$(basename "$nic")
            return
        fi
    done
    return 1
}

other_namespace() {
    [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

# Moves the NIC with MAC address $1 into a new network namespace $2, and sets its IP address $3.
move() {
    namespace=/run/netns/$2
    [ -e "$namespace" ] && return
    wait_for find_nic "$1"
    mkdir -p /run/netns
    unshare -n sleep 600 >/dev/null 2>&1 &
    holder=$!
    wait_for other_namespace $holder
    : >"$namespace"
    mount --bind "/proc/$holder/ns/net" "$namespace"
    ip link set "$NIC" netns $holder
    nsenter -t $holder -n ip link set "$NIC" name nic
    nsenter -t $holder -n ip link set nic up
    nsenter -t $holder -n ip addr add "$3/24" dev nic
    kill $holder
}

has_link() {
    nsenter --net="$1" ip link show nic | grep -q LOWER_UP
}

nics() {
    load
    move 52:54:00:00:01:01 zc-e1000 10.99.0.1
    move 52:54:00:00:01:02 zc-virtio 10.99.0.2
    for namespace in zc-e1000 zc-virtio; do
        wait_for has_link /run/netns/$namespace
    done
    echo "NIC_NETNS=/run/netns/zc-e1000"
    echo "PEER_NETNS=/run/netns/zc-virtio"
    echo "PEER_ADDRESS=10.99.0.2"
}

xfs() {
    place=/run/zc-lab/xfs
    if ! grep -q " $place xfs " /proc/mounts; then
        load xfs
        wait_for [ -b /dev/loop0 ]
        image=/lab/xfs-image
        truncate -s 512M $image
        # Only features that all kernels of the lab support.
        PATH=$path mkfs.xfs -q -f -m crc=1,reflink=1,bigtime=0,inobtcount=0 -i nrext64=0 $image ||
            fail "cannot make an xfs"
        # With direct I/O, so that no kernel thread copies pages from file to file.
        /sbin/losetup --direct-io=on /dev/loop0 $image
        mkdir -p $place
        mount -t xfs /dev/loop0 $place || fail "cannot mount the xfs"
    fi
    echo "XFS=$place"
}

case $1 in
disks | nics | xfs) "$1" ;;
lab)
    shift
    eval "$(disks)"
    eval "$(nics)"
    case " $* " in
    *" files "* | *" all "*)
        eval "$(xfs)"
        set -- "$@" --xfs-dir "$XFS"
        ;;
    esac
    PATH=$path
    exec "$@" --pio-disk "$PIO_DISK" --dma-disk "$DMA_DISK" --nic nic \
        --nic-netns "$NIC_NETNS" --peer-netns "$PEER_NETNS" --peer-address "$PEER_ADDRESS"
    ;;
*) fail "disks, nics, xfs or lab COMMAND..." ;;
esac
