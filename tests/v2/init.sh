#!/bin/busybox sh
# First process of the machine: this host's own root, read-only over 9p, below a tmpfs that takes every write.
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in $($bb cat /modules/order); do $bb insmod /modules/$module || echo "no module $module"; done
share=trans=virtio,version=9p2000.L,msize=524288,cache=loose
$bb mount -t 9p -o ro,$share host /host || exec $bb poweroff -f
$bb mount -t tmpfs -o size=75% scratch /scratch
$bb mkdir -p /scratch/upper /scratch/work
$bb mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work root /root
for name in proc dev sys tmp run; do $bb mkdir -p /root/$name; done
$bb mount --move /dev /root/dev
$bb mount -t proc proc /root/proc
$bb mount -t sysfs sys /root/sys
for name in tmp run; do $bb mount -t tmpfs $name /root/$name; done
$bb cp /inside.sh /root/run/inside.sh
if $bb grep -q bulkhead.systemd /proc/cmdline; then
    # Only our unit: the services of the host are none of this machine's business.
    $bb mkdir -p /root/run/systemd/system
    printf '%s\n' '[Unit]' 'DefaultDependencies=no' '[Service]' 'Type=oneshot' 'StandardOutput=tty' 'StandardError=tty' \
        'TTYPath=/dev/ttyS0' 'ExecStart=/bin/sh /run/inside.sh' 'ExecStopPost=/bin/busybox poweroff -f' \
        > /root/run/systemd/system/bulkhead-tests.service
    $bb umount /proc
    exec $bb switch_root /root /lib/systemd/systemd --unit=bulkhead-tests.service
fi
$bb mkdir -p /root/dev/pts /root/dev/shm
$bb mount -t devpts -o ptmxmode=0666,gid=5 devpts /root/dev/pts
$bb mount -t tmpfs shm /root/dev/shm
$bb mount -t cgroup2 -o nsdelegate cgroup2 /root/sys/fs/cgroup
$bb umount /proc
exec $bb switch_root /root /bin/sh -c 'sh /run/inside.sh; exec /bin/busybox poweroff -f'
