"""aiohttp comes with the first use, from any thread, and without the system's certificates."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import ssl, sys, threading
import bulkhead.content.client, bulkhead.content.hub, bulkhead.manager.images.importing
from bulkhead.content import later
assert "aiohttp" not in sys.modules
found = []
threads = [threading.Thread(target=lambda: found.append(later.aiohttp.ClientSession)) for _ in range(8)]
for each in threads: each.start()
mine = ssl.create_default_context().cert_store_stats()
for each in threads: each.join()
import aiohttp, aiohttp.connector
assert set(found) == {aiohttp.ClientSession} and len(found) == 8
for context in (aiohttp.connector._SSL_CONTEXT_VERIFIED, aiohttp.connector._SSL_CONTEXT_UNVERIFIED):
    assert context.cert_store_stats()["x509"] == 0
assert mine == ssl.create_default_context().cert_store_stats()
assert "load_default_certs" in vars(ssl.SSLContext) and "set_default_verify_paths" not in vars(ssl.SSLContext)
"""


def test_it_is_loaded_once_and_others_keep_their_trust() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", LOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
