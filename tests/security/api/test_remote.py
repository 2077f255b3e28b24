"""C16, C17: TCP with certificates or not at all; requests that a web page made a browser send."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bulkhead import settings as settings_module
from tests.security.api.conftest import Remote
from tests.support.engine import Engine, private_engine
from tests.support.ports import free_port


def docker(remote: Remote, *arguments: str, certificates: Path, input: str = "") -> subprocess.CompletedProcess[str]:
    command = ["docker", "--tlsverify", f"--tlscacert={certificates}/ca.pem"]
    command += [f"--tlscert={certificates}/cert.pem", f"--tlskey={certificates}/key.pem", "-H", remote.address]
    return subprocess.run(
        [*command, *arguments], input=input, capture_output=True, text=True, timeout=60, env=remote.engine.environ
    )


def test_the_cli_with_a_certificate(remote: Remote) -> None:
    done = docker(remote, "run", "--rm", "busybox", "echo", "over tls", certificates=remote.certificates)
    assert (done.returncode, done.stdout) == (0, "over tls\n"), done.stderr


def test_input_ends_before_output_does(remote: Remote) -> None:
    done = docker(
        remote, "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end",
        certificates=remote.certificates, input="hello\n",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "hello\nend\n"), done.stderr


def test_a_certificate_of_somebody_else_is_refused(remote: Remote) -> None:
    done = docker(remote, "ps", certificates=remote.strangers)
    assert done.returncode != 0


@pytest.mark.parametrize("certificate", [False, True])
def test_no_certificate_no_answer(remote: Remote, certificate: bool) -> None:
    """The control is the same client with a certificate."""
    context = ssl.create_default_context(cafile=str(remote.certificates / "ca.pem"))
    if certificate:
        context.load_cert_chain(remote.certificates / "cert.pem", remote.certificates / "key.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", remote.port, context=context, timeout=30)
    with contextlib.closing(connection):
        if certificate:
            connection.request("GET", "/_ping")
            assert connection.getresponse().status == 200
        else:
            with pytest.raises((OSError, http.client.HTTPException)):
                connection.request("GET", "/_ping")
                connection.getresponse()


def test_plain_http_is_no_answer(remote: Remote) -> None:
    with socket.create_connection(("127.0.0.1", remote.port), timeout=30) as plain:
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"OK" not in plain.recv(4096)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Host": "engine.test"}, 404),
        ({"Host": "localhost"}, 404),
        ({"Host": "evil.example"}, 403),
        ({"Host": "engine.test.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Referer": "https://evil.example/page"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
    ],
)
def test_where_a_request_comes_from(remote: Remote, headers: dict[str, str], status: int) -> None:
    context = ssl.create_default_context(cafile=str(remote.certificates / "ca.pem"))
    context.load_cert_chain(remote.certificates / "cert.pem", remote.certificates / "key.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", remote.port, context=context, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/containers/nobody/start", headers=headers)
        answer = connection.getresponse()
        assert answer.status == status
        assert not any(name.lower().startswith("access-control-") for name in answer.headers)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('listen = "tcp://127.0.0.1:{port}"', "set tlscacert, tlscert, tlskey"),
        ('listen = "tcp://0.0.0.0:{port}"\ntlscert = "/x"\ntlskey = "/y"', "set tlscacert"),
        ('listen = "http://127.0.0.1:{port}"', "not tcp://host:port"),
        ('listen = "tcp://127.0.0.1:{port}"\ntlscacert="/n"\ntlscert="/n"\ntlskey="/n"', "No such file"),
    ],
)
def test_tcp_without_client_certificates_is_refused(tmp_path: Path, lines: str, reason: str) -> None:
    port = free_port()
    config = tmp_path / "config.toml"
    config.write_text("[api]\n" + lines.replace("{port}", str(port)) + "\n")
    names = {"BULKHEAD_RUN": str(tmp_path / "run"), "BULKHEAD_DATA": str(tmp_path / "data")}
    settings = settings_module.load({**names, "BULKHEAD_CONFIG": str(config)})
    done = subprocess.run(
        [sys.executable, "-m", "bulkhead.api"],
        env=settings_module.environment(settings.instance, settings.path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert reason in done.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_a_container_reaches_no_api(remote: Remote) -> None:
    """From a bridge, by its gateway: the daemon listens where it was told, and asks for a certificate there."""
    gateway = "$(ip route | awk '/default/ {print $3}')"
    ask = f"wget -q -T 3 -O - http://$host:{remote.port}/_ping && echo REACHED"
    script = f"for host in {gateway} 127.0.0.1; do {ask}; done; echo done"
    done = docker(remote, "run", "--rm", "busybox", "sh", "-c", script, certificates=remote.certificates)
    assert "done" in done.stdout, done.stderr
    assert "REACHED" not in done.stdout


def test_sockets_and_their_directories(remote: Remote) -> None:
    engine = remote.engine
    assert stat.S_IMODE(engine.instance.docker_socket.stat().st_mode) == 0o660
    assert engine.instance.docker_socket.stat().st_uid == 0
    assert not stat.S_IMODE(engine.instance.run.stat().st_mode) & 0o022
    assert stat.S_IMODE(engine.instance.manager_socket.stat().st_mode) == 0o600


def test_a_socket_given_by_a_service_manager_is_used() -> None:
    with private_engine() as engine:
        engine.instance.run.mkdir(parents=True)
        path = engine.base / "given.sock"
        _serve_given(engine, path)


def _serve_given(engine: Engine, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        given.listen()
        start = (
            f"import os; os.dup2({given.fileno()}, 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); "
        )
        start += "from bulkhead.api.__main__ import main; main()"
        with subprocess.Popen(
            [sys.executable, "-c", start], env=engine.environ, pass_fds=[given.fileno()], stderr=subprocess.PIPE
        ) as api:
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(30)
                    client.connect(str(path))
                    client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
                assert not engine.instance.docker_socket.exists()
            finally:
                api.terminate()
        assert path.exists()  # it is not ours to remove
