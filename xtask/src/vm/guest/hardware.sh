#!/run/zc-lab/bin/busybox sh
# Brings up the lab's hardware, which no boot waits for:
#
#   zc-hardware disks   two IDE disks, the first driven by PIO, the second by DMA
#   zc-hardware nics    an e1000 and a virtio NIC, wired to each other, in a network namespace each
#   zc-hardware xfs     an xfs with reflinks, on a loop device over a file of the scratch disk
#   zc-hardware lab COMMAND...   disks and NICs, and then COMMAND with the lab's options that name them;
#                   the xfs too if COMMAND names the lab's table of files, or all
#
# All but the last print what they brought up as NAME=VALUE, and do nothing where it is up already.

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

# In the order that their dependencies ask for; xfs takes its time and is loaded only if named.
load() {
    while read -r module; do
        [ -e "/sys/module/$module" ] && continue
        case $module in
        loop | xfs) [ "$1" = xfs ] || continue ;;
        esac
        case $module in
        libata) parameters="force=1:pio4" ;; # the first port's disk; the second keeps DMA
        *) parameters= ;;
        esac
        # shellcheck disable=SC2086 # none is no parameter
        insmod "/run/zc-lab/drivers/$module.ko" $parameters || fail "cannot load the module $module"
    done </run/zc-lab/drivers/order
}

# Disks and links come up after their driver has been loaded.
wait_for() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "waited in vain for $*"
        sleep 0.05
    done
}

# The disk at an ATA port, as DISK.
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

# The interface with an address, as NIC.
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

# Moves the NIC with an address into a namespace of its own, and gives it its IP address.
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

has_carrier() {
    nsenter --net="$1" ip link show nic | grep -q LOWER_UP
}

nics() {
    load
    move 52:54:00:00:01:01 zc-e1000 10.99.0.1
    move 52:54:00:00:01:02 zc-virtio 10.99.0.2
    for namespace in zc-e1000 zc-virtio; do
        wait_for has_carrier /run/netns/$namespace
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
        # Only what all kernels of the lab know.
        PATH=$path mkfs.xfs -q -f -m crc=1,reflink=1,bigtime=0,inobtcount=0 -i nrext64=0 $image ||
            fail "cannot make an xfs"
        # By direct I/O, so that no thread of the kernel copies pages from file to file.
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
