#!/bin/sh
# Makes a machine able to run Bulkhead: system packages that are missing, the virtual environment,
# the engine in it (this compiles the C core). Run by the Makefile when something changed.
#
#   bootstrap.sh VENV run    what `make up` needs
#   bootstrap.sh VENV dev    what `make check` and `make test` need too
#   bootstrap.sh VENV which  only say which Python it would be
set -eu

venv=$1 kind=$2
root=$(cd "$(dirname "$0")/../../.." && pwd)
apt='' dnf='' apk=''

say() { echo "bootstrap: $*"; }

# need CHECK APT DNF APK: note the packages of each family unless CHECK succeeds.
need() {
    if ! "$1" >/dev/null 2>&1; then
        apt="$apt $2" dnf="$dnf $3" apk="$apk $4"
    fi
}

has_python() { "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }
has_venv() { "$python" -c 'import ensurepip, venv'; }
has_headers() { "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'; }
# Without PYTHON it is the distribution's: it stays when a user's own goes, and distributions build theirs with
# profile-guided optimisation, which pyenv and its like do not by default (1.5 times slower, measured).
choose_python() {
    python=${PYTHON:-}
    [ -z "$python" ] || return 0
    for python in /usr/bin/python3 python3; do
        has_python && { [ "$(id -u)" = 0 ] || { has_venv && has_headers; }; } && return 0
    done
    return 0
}
has_static_cc() { echo 'int main(void) { return 0; }' | cc -static -x c - -o /dev/null; }
has_busybox() {
    for path in /bin/busybox /usr/bin/busybox /bin/busybox.static; do
        [ -x "$path" ] && ! head -c 4096 "$path" | grep -q -e /ld-linux -e /ld-musl && return 0
    done
    return 1
}
has_libnftables() { find /usr/lib /usr/lib64 /lib -name 'libnftables.so.1*' | grep -q .; }
has_certificates() { [ -s /etc/ssl/certs/ca-certificates.crt ] || [ -s /etc/pki/tls/certs/ca-bundle.crt ]; }
has_ip() { command -v ip; }
has_nft() { command -v nft; }
has_skopeo() { command -v skopeo; }
has_docker() { command -v docker; }

install_missing() {
    [ -n "$apt" ] || return 0
    if command -v apt-get >/dev/null; then
        set -- "$apt" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends
    elif command -v dnf >/dev/null; then
        set -- "$dnf" dnf install -y -q
    elif command -v apk >/dev/null; then
        set -- "$apk" apk add --no-cache
    else
        say "missing, in Debian's names:$apt. No apt-get, dnf or apk here: install their like by hand"
        exit 1
    fi
    packages=$1
    shift
    if [ "$(id -u)" != 0 ]; then
        say "missing:$packages. Install them, or run this as root"
        exit 1
    fi
    say "installing$packages"
    command -v apt-get >/dev/null && apt-get update -q >/dev/null
    # shellcheck disable=SC2086  # a list of names
    "$@" $packages >/dev/null
}

choose_python >/dev/null 2>&1
[ "$kind" = which ] && { echo "$python"; exit; }
need has_python python3 python3 python3
need has_venv python3-venv python3 python3
need has_headers python3-dev python3-devel python3-dev
need has_static_cc 'gcc libc6-dev' 'gcc glibc-static' 'gcc musl-dev linux-headers'
need has_busybox busybox-static busybox busybox-static
need has_libnftables libnftables1 nftables nftables
need has_certificates ca-certificates ca-certificates ca-certificates
if [ "$kind" = dev ]; then
    need has_ip iproute2 iproute iproute2
    need has_nft nftables nftables nftables
    need has_skopeo skopeo skopeo skopeo
    # Debian 12 has the client inside docker.io; later ones have it alone.
    if command -v apt-cache >/dev/null && apt-cache show docker-cli >/dev/null 2>&1; then
        need has_docker docker-cli docker-cli docker-cli
    else
        need has_docker docker.io docker-cli docker-cli
    fi
fi
install_missing
choose_python >/dev/null 2>&1
has_python || { say "needs Python 3.11 or newer as $python (set PYTHON)"; exit 1; }

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
extra=''
[ "$kind" = dev ] && extra='[dev]'
say "installing Bulkhead$extra into $venv"
cd "$root"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e ".$extra"
# Where PYTHONDONTWRITEBYTECODE is set, each start of each service would compile all it imports: half of its time.
"$venv/bin/python" -m compileall -q services/bulkhead
# The same for what `class_cache` and `module_image` keep.
for service in api manager registry supervisor; do
    env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -P -c "import bulkhead.$service.__main__"
done

# What pip makes of this entry point begins with `site`, which is a third of a bare interpreter's start and which a
# container runtime has no need of.
bin=$(cd "$venv/bin" && pwd)
{
    echo "#!$bin/python -IS"
    echo "import sys"
    echo "sys.path[:0] = ['$root/services']"
    echo "sys.path.append('$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')"
    echo "from bulkhead.runtime.command.entry import main"
    echo "main()"
} >"$bin/.bulkhead-runtime"
chmod 755 "$bin/.bulkhead-runtime"
mv "$bin/.bulkhead-runtime" "$bin/bulkhead-runtime"
# Its modules in one file.
sed '/^from/,$d' "$bin/bulkhead-runtime" | {
    cat
    echo "from bulkhead.runtime.command.entry import install"
    echo "install()"
} | env -u PYTHONDONTWRITEBYTECODE "$bin/python" -IS - || say "the runtime starts slowly: its modules could not be kept"
