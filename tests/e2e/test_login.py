"""`docker login` all the way: the CLI, the API, the manager, a registry that wants a password."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.engine import Engine

REGISTRY = """
import base64, http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        right = "Basic " + base64.b64encode(b"user:right").decode()
        self.send_response(200 if self.headers.get("Authorization") == right else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="r"')
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def registry() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", REGISTRY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def test_login(engine: Engine, registry: str) -> None:
    right = {"username": "user", "password": "right", "serveraddress": registry}
    answer = engine.api("POST", "/auth", right)
    assert (answer.status, answer.json) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    refused = engine.api("POST", "/auth", {**right, "password": "wrong"})
    assert refused.status == 401 and "401 Unauthorized" in json.dumps(refused.json)
    assert "Login Succeeded" in engine.docker_ok("login", "-u", "user", "-p", "right", registry)
    assert engine.docker("login", "-u", "user", "-p", "wrong", registry).returncode == 1
    engine.docker_ok("logout", registry)
