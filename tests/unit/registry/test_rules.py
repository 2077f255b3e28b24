"""Rights, scopes, rates and sessions, without a registry."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.registry import limits, rights, scopes
from bulkhead.registry.callers import ALL, READ, Action
from bulkhead.registry.errors import Refusal
from bulkhead.registry.limits import Rates, Sessions


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("**", ["a", "a/b/c"], []),
        ("team/*", ["team/a"], ["team", "team/a/b", "teams/a", "x/team/a"]),
        ("team/**", ["team/a", "team/a/b"], ["team", "teams/a"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a/bz", "az"]),
        ("app-*", ["app-", "app-x"], ["app", "app-x/y"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    found = rights.parse(f'[[rules]]\nrepositories = ["{pattern}"]\nusers = ["u"]\nactions = ["pull"]'.encode())
    assert all(found.of("u", name) == READ for name in matching)
    assert not any(found.of("u", name) for name in others)
    assert not any(found.of("v", name) or found.of("", name) for name in matching)


@pytest.mark.parametrize(
    "text",
    [
        '[[rules]]\nrepositories = ["*"]\nactions = ["fly"]',
        '[[rules]]\nrepositories = ["a*b*c"]\nactions = ["pull"]',
        '[[rules]]\nrepositories = ["**/**/**"]\nactions = ["pull"]',
        '[[rules]]\nrepositories = ["(a+)+"]\nactions = ["pull"]',
        '[[rules]]\nrepositories = ["*"]\ngroups = ["none"]\nactions = ["pull"]',
        '[groups]\ng = ["*"]\n[[rules]]\nrepositories = ["*"]\ngroups = ["g"]\nactions = ["pull"]',
        '[[rules]]\nrepositories = ["*"]\nactions = ["pull"]\nextra = 1',
        "[[rules]]",
        "\xff",
    ],
)
def test_rules_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        rights.parse(text.encode("latin-1"))


def test_scopes_as_clients_write_them() -> None:
    asked = scopes.parse(
        ["repository:a/b:pull,push registry:catalog:*", "repository(plugin):host:5000/x:pull", "", "repository:a", "x"]
    )
    assert [(scope.type, scope.name, scope.actions) for scope in asked] == [
        ("repository", "a/b", ["pull", "push"]),
        ("registry", "catalog", ["*"]),
        ("repository", "host:5000/x", ["pull"]),
    ]
    assert len(scopes.parse(["repository:a:pull " * 1000])) == scopes.MAX_SCOPES


def test_no_more_is_granted_than_the_rights_are() -> None:
    asked = scopes.parse(["repository:a:* repository:b:pull,fly repository:c:push registry:catalog:*"])
    have = {"a": ALL, "b": READ, "c": READ}
    granted = scopes.granted(asked, lambda name: have.get(name, frozenset()), catalog=False)
    assert [str(entry) for entry in granted] == ["repository:a:delete,pull,push", "repository:b:pull"]
    allowed = scopes.rights_of(granted)
    assert [allowed(name) for name in "abc"] == [ALL, frozenset({Action.PULL}), frozenset()]


def test_a_bucket_empties_and_fills() -> None:
    now = [100.0]
    rates = Rates(2.0, 3, clock=lambda: now[0])
    for _ in range(3):
        rates.take("a")
    with pytest.raises(Refusal):
        rates.take("a")
    rates.take("b")
    now[0] += 0.5
    rates.take("a")
    with pytest.raises(Refusal) as refused:
        rates.take("a")
    assert refused.value.headers == {"Retry-After": "1"}
    now[0] += 1000
    assert rates.wait("a") == 0


def test_the_memory_of_callers_is_bounded() -> None:
    rates = Rates(0.001, 1, clock=lambda: 1.0)
    for number in range(limits.MAX_CALLERS + 10):
        rates.take(str(number))
    assert len(rates._buckets) == limits.MAX_CALLERS


def test_idle_sessions_are_not_counted() -> None:
    now = [0.0]
    sessions = Sessions(2, 60.0, clock=lambda: now[0])
    for name in ("one", "two"):
        sessions.check("u")
        sessions.touch("u", name)
    now[0] = 30.0
    sessions.touch("u", "two")
    with pytest.raises(Refusal) as refused:
        sessions.check("u")
    assert refused.value.headers == {"Retry-After": "30"}
    now[0] = 60.0
    sessions.check("u")
    sessions.end("u", "two")
    sessions.end("u", "unknown")
    sessions.check("u")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_who_is_counted_as_one(address: str, counted: str) -> None:
    assert limits.network(address) == counted
