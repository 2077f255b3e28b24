"""Entry points import only what their service needs; what was held back meanwhile is there afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Megabytes each, and none is used by a service as it is configured by default.
UNWANTED = (
    "rich",
    "pygments",
    "google.protobuf",
    "cryptography",
    "jwt",
    "bcrypt",
    "importlib.metadata",
    "tomllib",
    "prometheus_client",
)
LOOK = """
import os, ssl, sys
os.environ["SSL_CERT_DIR"] = "/somewhere"
import bulkhead.{service}.__main__
print(*(name for name in {unwanted} if name in sys.modules))
assert os.environ["SSL_CERT_DIR"] == "/somewhere" and "SSL_CERT_FILE" not in os.environ
del os.environ["SSL_CERT_DIR"]
import gc
assert gc.isenabled()
assert ssl.create_default_context().get_ca_certs() or not os.path.exists(ssl.get_default_verify_paths().cafile or "")
"""


@pytest.mark.parametrize("service", ["api", "manager", "supervisor", "registry"])
def test_an_entry_point_imports_nothing_for_nothing(service: str) -> None:
    command = [sys.executable, "-P", "-c", LOOK.format(service=service, unwanted=UNWANTED)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT_")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


VERSIONS = """
import sys
from bulkhead import lean
with lean.imports("versions"):
    import importlib.metadata
    stand_in = sys.modules["importlib.metadata"]
    told = stand_in.version("betterproto2")
    assert "email.message" not in sys.modules
    try:
        stand_in.version("no-such-distribution")
    except stand_in.PackageNotFoundError as error:
        print(type(error).__module__)
import importlib.metadata
assert sys.modules["importlib.metadata"] is not stand_in
print(told == importlib.metadata.version("betterproto2"))
"""


def test_versions_are_told_without_the_parsers_of_their_files() -> None:
    """Whoever wants more than those, then or later, has the module itself."""
    command = [sys.executable, "-B", "-P", "-c", VERSIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["importlib.metadata", "True"]
