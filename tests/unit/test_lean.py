"""Entry points import only what their service needs; what was held back meanwhile is there afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Megabytes each, and none is used by a service as it is configured by default.
UNWANTED = ("rich", "pygments", "google.protobuf", "cryptography", "jwt")
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
