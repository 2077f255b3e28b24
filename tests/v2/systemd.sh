#!/bin/bash
# systemd.sh unified|legacy COMMAND [ARGUMENT...]
#
# Runs COMMAND, in this directory, below a systemd that is process 1 of namespaces of its own: its root is this host's
# with a tmpfs above it, its cgroups are in one group of this host's. Exits as COMMAND does; nothing is left.
set -euo pipefail

mode=$1
shift
base=$(mktemp -d /tmp/bh-sd-XXXXXX)
name=${base##*/}
hierarchies=(cpu cpuacct cpuset memory devices freezer blkio pids)

# Also in the v1 layout: a systemd that finds itself in the root of cgroup2 clears every empty group of the machine away.
groups=()
mounted=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
[ -z "$mounted" ] || groups+=("$mounted/$name")
if [ "$mode" != unified ]; then
    for each in "${hierarchies[@]}" systemd; do groups+=("/sys/fs/cgroup/$each/$name"); done
fi

machine=
leave() {
    [ -z "$machine" ] || { kill -KILL "$machine" && wait "$machine"; } 2>/dev/null || true
    for group in "${groups[@]}"; do
        # The last of the machine's processes may still be on their way out.
        for _ in {1..100}; do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.05
        done
    done
    rm -rf "$base"
}
trap leave EXIT
trap 'exit 143' INT TERM

for group in "${groups[@]}"; do
    mkdir "$group"
    if [ -e "$group/cpuset.cpus" ]; then
        for file in cpuset.cpus cpuset.mems; do cat "$group/../$file" >"$group/$file"; done
    fi
done
{
    printf 'cd %q\n' "$PWD"
    printf '%q ' "$@"
    printf '\n'
} >"$base/command"

inside() {
    local root=$base/machine/root device each
    mount --make-rprivate /
    mkdir "$base/machine"
    mount -t tmpfs tmpfs "$base/machine"
    mkdir "$base/machine"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$base/machine/upper,workdir=$base/machine/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/verdict"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mount --bind "$base" "$root/verdict"
    if [ "$mode" = unified ]; then
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    else
        mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
        for each in "${hierarchies[@]}" systemd; do
            mkdir "$root/sys/fs/cgroup/$each"
            mount -t cgroup -o "${each/#systemd/none,name=systemd}" cgroup "$root/sys/fs/cgroup/$each"
        done
    fi
    mkdir -p "$root/etc/systemd/system"
    cat >"$root/etc/systemd/system/bulkhead-command.service" <<UNIT
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=HOME=/root PATH=$PATH PYTHONDONTWRITEBYTECODE=1
ExecStart=/bin/bash -c '. /verdict/command >/verdict/output 2>&1; echo \$? >/verdict/status'
ExecStopPost=/bin/systemctl exit --force
UNIT
    echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
    mkdir "$root/.old"
    cd "$root"
    pivot_root . .old
    umount -l /.old
    exec env -i container=bulkhead "PATH=$PATH" /lib/systemd/systemd --unit=bulkhead-command.service \
        --log-target=console --log-level="${SYSTEMD_LEVEL:-warning}" --show-status=no
}

(
    for group in "${groups[@]}"; do echo "$BASHPID" >"$group/cgroup.procs"; done
    export -f inside
    export base mode
    hierarchies="${hierarchies[*]}" exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net \
        bash -euc 'read -ra hierarchies <<<"$hierarchies"; inside'
) </dev/null >"$base/console" 2>&1 &
machine=$!
wait "$machine" || true
if [ -e "$base/status" ]; then
    cat "$base/output"
    exit "$(cat "$base/status")"
fi
cat "$base/console" >&2
echo "systemd.sh: the command did not end" >&2
exit 125
