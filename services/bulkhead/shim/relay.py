"""Ports of the host that no rule of the kernel's leads into the container: taken here, carried over by hand.

That is [::1], to which the kernel takes no answers from a network, and IPv6 addresses of the host for a container that
has none. What crosses is bounded: so many connections, so many bytes of each on their way; who comes when all are taken
waits in the listener's backlog. Imported by the first container that needs it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Sequence

from bulkhead.errors import Unavailable
from bulkhead.loopback import Relay
