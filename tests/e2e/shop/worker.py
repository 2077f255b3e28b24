"""The shop's worker: asks the api by its name, again and again; counts answers in /tmp/count, tells failures."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

count = 0
while True:
    try:
        with urllib.request.urlopen("http://api:8000/", timeout=30) as reply:
            body = reply.read()
        if body != b"anchor":
            print("failed", body, flush=True)
        count += 1
        Path("/tmp/count").write_text(str(count))
    except OSError as error:
        print("failed", error, flush=True)
    time.sleep(0.05)
