"""Registries as processes: ours by a configuration of its own, and Debian's `docker-registry`."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from tests.support.ports import free_port

SECONDS = 30
# Any certificate is taken: these are self-signed and on loopback.
_TRUSTING = ssl.create_default_context()
_TRUSTING.check_hostname, _TRUSTING.verify_mode = False, ssl.CERT_NONE


def write_htpasswd(path: Path, **passwords: str) -> Path:
    """An htpasswd file with bcrypt hashes as cheap as they get (docker-registry asks for at least 4)."""
    lines = [
        f"{user}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4, b'2a')).decode()}" for user, word in passwords.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key, by openssl(1)."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    about = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*new, *about, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def our_registry(directory: Path, toml: str, *, port: int = 0, scheme: str = "http") -> Iterator[str]:
    """Our registry with `toml` as its configuration; yields 127.0.0.1:port."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(toml)
    address = f"127.0.0.1:{port or free_port()}"
    command = [
        sys.executable,
        "-m",
        "bulkhead.registry",
        "--config",
        str(directory / "config.toml"),
        "--listen",
        address,
    ]
    environ = {**os.environ, "BULKHEAD_RUN": str(directory / "run"), "BULKHEAD_DATA": str(directory / "data")}
    with _running(command, directory / "log", f"{scheme}://{address}/healthz", environ):
        yield address


@contextlib.contextmanager
def debian_registry(directory: Path, auth: str) -> Iterator[str]:
    """Debian's docker-registry with `auth` (YAML) as its access control; skips where it is not installed."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry on this machine")
    directory.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    (directory / "config.yml").write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n"
        f"auth: {auth}\n"
    )
    command = [program, "serve", str(directory / "config.yml")]
    with _running(command, directory / "log", f"http://{address}/v2/", dict(os.environ)):
        yield address


@contextlib.contextmanager
def _running(command: list[str], log: Path, url: str, environ: dict[str, str]) -> Iterator[None]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + SECONDS
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5, context=_TRUSTING).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
