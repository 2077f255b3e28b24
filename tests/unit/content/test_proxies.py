"""Which proxy a request goes through: the rules of curl and Go."""

from __future__ import annotations

import pytest
from yarl import URL

from bulkhead.content.proxies import Proxies, no_proxy, without_password
from bulkhead.errors import InvalidArgument

PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("url", "exempt", "goes"),
    [
        ("https://registry.test/v2/", "", True),
        ("https://registry.test/v2/", "*", False),
        ("https://registry.test/v2/", "other.test, registry.test", False),
        ("https://a.registry.test/v2/", "registry.test", False),
        ("https://a.registry.test/v2/", ".registry.test", False),
        ("https://a.registry.test/v2/", "*.registry.test", False),
        ("https://notregistry.test/v2/", "registry.test", True),
        ("https://registry.test:5000/v2/", "registry.test:5000", False),
        ("https://registry.test/v2/", "registry.test:5000", True),
        ("https://10.1.2.3/v2/", "10.0.0.0/8", False),
        ("https://11.1.2.3/v2/", "10.0.0.0/8", True),
        ("https://10.1.2.3/v2/", "10.1.2.3", False),
        ("https://10.1.2.3/v2/", "2.3", True),
        ("https://[fd00::1]/v2/", "fd00::/8", False),
        ("https://registry.test/v2/", "not/a/network", True),
        ("http://127.0.0.1:5000/v2/", "", False),
        ("http://localhost:5000/v2/", "", False),
    ],
)
def test_who_is_exempt(url: str, exempt: str, goes: bool) -> None:
    proxies = Proxies(http=PROXY, https=PROXY, exempt=no_proxy(exempt))
    assert proxies.through(URL(url)) == (URL(PROXY) if goes else None)


def test_each_scheme_has_its_own() -> None:
    proxies = Proxies.of({"HTTP_PROXY": "plain.test:80", "HTTPS_PROXY": "x", "https_proxy": "http://secret@tls.test"})
    assert proxies.through(URL("http://registry.test/")) == URL("http://plain.test:80")
    assert proxies.through(URL("https://registry.test/")) == URL("http://secret@tls.test")
    assert Proxies.of({}).through(URL("https://registry.test/")) is None


@pytest.mark.parametrize("text", ["socks5://user:secret@proxy.test", "http://", "http://[::1"])
def test_what_is_no_proxy_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot use proxy") as caught:
        Proxies(https=text)
    assert "secret" not in str(caught.value)


def test_users_are_shown_a_proxy_without_its_password() -> None:
    assert without_password("http://me:secret@proxy.test:3128") == "http://xxxxx:xxxxx@proxy.test:3128"
    assert without_password("proxy.test:80") == "proxy.test:80"
    assert without_password("") == ""
