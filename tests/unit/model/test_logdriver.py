"""What dockerd refuses of log options, in its words: scripts and compose files meet these texts."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model import logdriver


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("nosuch", {}, 'plugin "nosuch" not found'),
        ("json-file", {"x": "1"}, "unknown log opt 'x' for json-file log driver"),
        ("local", {"tag": "1"}, "unknown log opt 'tag' for log driver local"),
        ("syslog", {"max-size": "1"}, "unknown log opt 'max-size' for syslog log driver"),
        ("json-file", {"mode": "x"}, "logger: logging mode not supported: x"),
        ("local", {"max-buffer-size": "1m"}, "max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("local", {"mode": "non-blocking", "max-buffer-size": "x"}, "error parsing option max-buffer-size"),
        ("syslog", {"syslog-address": "127.0.0.1"}, "syslog-address should be in form proto://address, got 127.0.0.1"),
        ("syslog", {"syslog-address": "ftp://h"}, "syslog-address should be in form"),
        ("syslog", {"syslog-address": "tcp://h:99999"}, "invalid syslog-address"),
        ("syslog", {"syslog-facility": "x"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "x"}, "Invalid syslog format"),
        ("json-file", {"labels-regex": "("}, "error parsing regexp: "),
        ("journald", {"env-regex": "a{99999999999}"}, "invalid pattern: "),
        ("json-file", {"env-regex": "(" * 2000}, "error parsing regexp: "),
    ],
)
def test_refusals(driver: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        logdriver.check(driver, options)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("none", {"whatever": "1"}),
        ("journald", {"tag": "x", "labels": "a", "cache-disabled": "true"}),
        ("json-file", {"mode": "non-blocking", "max-buffer-size": "4m", "compress": "true"}),
        ("syslog", {"syslog-address": "tcp+tls://h:1", "syslog-facility": "local7", "syslog-format": "rfc5424micro"}),
    ],
)
def test_what_is_taken(driver: str, options: dict[str, str]) -> None:
    logdriver.check(driver, options)


def test_addresses() -> None:
    assert logdriver.address("udp://[::1]") == logdriver.Address(transport="udp", host="::1", port=514)
    assert logdriver.address("unixgram:///dev/x") == logdriver.Address(transport="unixgram", path="/dev/x")
    assert (logdriver.facility(""), logdriver.facility("local0"), logdriver.facility("23")) == (3, 16, 23)


def test_a_pattern_that_never_ends_is_refused() -> None:
    """At the start: which labels it meets is known then."""
    with pytest.raises(InvalidArgument, match="takes too long"):
        logdriver.extra({"labels-regex": "(?:a|a)" * 40 + "$"}, {"a" * 60 + "_": "x"}, {})
