"""A zygote whose shims keep what an exec needs for as long as a test takes, though the machine be busy."""

from __future__ import annotations

import sys
from pathlib import Path

from bulkhead.shim import ahead, app
from bulkhead.supervisor import zygote

if __name__ == "__main__":
    zygote.close_inherited(int(sys.argv[2]))
    ahead._SECONDS = 600.0
    place = Path(sys.argv[1])
    app.preload(place)
    sys.exit(zygote.main(int(sys.argv[2]), app.engine_shim(), place))
