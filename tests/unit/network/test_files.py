"""/etc/hosts, /etc/hostname and /etc/resolv.conf as programs inside containers know them from Docker."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.manager.networks import files
from bulkhead.manager.networks.files import hostname_file, hosts_file, resolv_conf

LOCAL = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def test_hosts_names_the_container_last() -> None:
    assert hosts_file(hostname="web", addresses=["172.17.0.2"]) == LOCAL + "172.17.0.2\tweb\n"


def test_hosts_with_a_domain_gives_the_full_name_first() -> None:
    text = hosts_file(hostname="web", domainname="example.org", addresses=["172.17.0.2"])
    assert text == LOCAL + "172.17.0.2\tweb.example.org web\n"


def test_hosts_without_an_address_has_the_local_names_only() -> None:
    assert hosts_file(hostname="web") == LOCAL


def test_extra_hosts_come_before_the_container() -> None:
    extra = ["db:10.0.0.9", "six:[fd00::1]", "seven:fd00::7", "eq=10.0.0.8", "outside:host-gateway"]
    text = hosts_file(hostname="web", addresses=["172.17.0.2"], extra_hosts=extra, host_gateway="172.17.0.1")
    assert text == LOCAL + (
        "10.0.0.9\tdb\nfd00::1\tsix\nfd00::7\tseven\n10.0.0.8\teq\n172.17.0.1\toutside\n172.17.0.2\tweb\n"
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("db", "bad format for add-host"),
        (":10.0.0.1", "bad format for add-host"),
        ("a b:10.0.0.1", "bad format for add-host"),
        ("db:elsewhere", "invalid IP address in add-host"),
        ("db:", "invalid IP address in add-host"),
        ("db:10.0.0.1\n6.6.6.6 bank.example", "invalid IP address in add-host"),
        ("db\n6.6.6.6 bank:10.0.0.1", "bad format for add-host"),
        ("gw:host-gateway", "unable to derive the IP value for host-gateway"),
    ],
)
def test_an_extra_host_that_is_none_is_refused(entry: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        hosts_file(hostname="web", extra_hosts=[entry])


def test_hostname_is_one_line() -> None:
    assert hostname_file("web") == "web\n"
    assert hostname_file("a b") == "a b\n"  # as Docker has it
    for wrong in ("", "a\nb", "a\rb", "a\0b"):
        with pytest.raises(InvalidArgument):
            hostname_file(wrong)


def test_the_hosts_resolvers_are_used() -> None:
    host = (
        "# comment\n; another\nnameserver 10.0.0.53\nnameserver fd00::53\nsearch a.example b.example\noptions ndots:2\n"
    )
    assert resolv_conf(host) == (
        "nameserver 10.0.0.53\nnameserver fd00::53\nsearch a.example b.example\noptions ndots:2\n"
    )


@pytest.mark.parametrize("host", ["", "nameserver 127.0.0.53\nnameserver ::1\n", "nameserver\nnameserver nonsense\n"])
def test_a_host_without_a_resolver_that_can_be_reached_gets_public_ones(host: str) -> None:
    assert resolv_conf(host) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_given_servers_search_and_options_replace_the_hosts() -> None:
    host = "nameserver 10.0.0.53\nsearch a.example\noptions ndots:2\n"
    text = resolv_conf(host, servers=["127.0.0.1"], search=["x.example"], options=["timeout:1", "rotate"])
    assert text == "nameserver 127.0.0.1\nsearch x.example\noptions timeout:1 rotate\n"


def test_a_dot_alone_means_no_search_domain() -> None:
    assert "search" not in resolv_conf("nameserver 10.0.0.53\nsearch a.example\n", search=["."])


def test_the_last_search_list_wins() -> None:
    assert "search b.example\n" in resolv_conf("search a.example\ndomain b.example\n")


def test_what_would_break_out_of_its_line_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        resolv_conf("", servers=["10.0.0.1\nnameserver 6.6.6.6"])
    with pytest.raises(InvalidArgument):
        resolv_conf("", search=["a.example\nnameserver 6.6.6.6"])
    with pytest.raises(InvalidArgument):
        resolv_conf("", options=["ndots:1\nnameserver 6.6.6.6"])


@pytest.mark.parametrize(
    ("host", "chosen", "options", "keeps"),
    [
        ("", [], ["ndots:0"], False),
        ("options timeout:1\n", [], ["timeout:1", "ndots:0"], False),
        ("options ndots:2\n", [], ["ndots:2"], True),
        ("options ndots:2\n", ["ndots:0"], ["ndots:0"], False),
        ("options ndots:2\n", ["rotate"], ["rotate", "ndots:0"], False),
    ],
)
def test_options_beside_our_own_server(host: str, chosen: list[str], options: list[str], keeps: bool) -> None:
    assert files.options_beside_own_server(host, chosen) == options
    assert files.keeps_dotless(options) is keeps
