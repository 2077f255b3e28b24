"""`--change` takes Dockerfile instructions, whose quoting and variables are the builder's."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.manager.images.instructions import apply_changes
from bulkhead.model.container import Healthcheck
from bulkhead.model.image import ImageConfig

BASE = ImageConfig(env=("PATH=/bin", "K=v"), cmd=("sh",), working_dir="/w")


def changed(*changes: str) -> ImageConfig:
    return apply_changes(BASE, changes)


@pytest.mark.parametrize(
    ("change", "env"),
    [
        ("ENV A=1 B=2", ("A=1", "B=2")),
        ("ENV A one  two", ("A=one  two",)),
        ('ENV A="x y" B=a\\ b', ("A=x y", "B=a b")),
        ("ENV A='$K' B=\"$K\" C=${K}w D=$NONE. E=\\$K", ("A=$K", "B=v", "C=vw", "D=.", "E=$K")),
        ("ENV A=${X:-d} B=${K:+p}", ("A=d", "B=p")),
        ("env K=${K}2", ("K=v2",)),
        ("ENV A=1 \\\n B=2", ("A=1", "B=2")),
    ],
)
def test_env(change: str, env: tuple[str, ...]) -> None:
    assert set(env) <= set(changed(change).env)


def test_commands() -> None:
    assert changed('CMD ["a", "b c"]').cmd == ("a", "b c")
    assert changed("CMD a b").cmd == ("/bin/sh", "-c", "a b")
    assert changed("CMD [not json]").cmd == ("/bin/sh", "-c", "[not json]")
    assert changed('ENTRYPOINT ["e"]').cmd is None
    assert changed('CMD ["c"]', 'ENTRYPOINT ["e"]').cmd == ("c",)


def test_the_rest() -> None:
    made = changed(
        "EXPOSE 80 7000-7001/UDP", "VOLUME /a /b", 'VOLUME ["/c d"]', "WORKDIR x/../y", "USER $K", "STOPSIGNAL 9",
        "LABEL 'a b'=c", "ONBUILD RUN x", "HEALTHCHECK --interval=1m30s --start-interval=2s CMD [\"x\"]",
    )  # fmt: skip
    assert made.exposed_ports == ("80/tcp", "7000/udp", "7001/udp")
    assert made.volumes == ("/a", "/b", "/c d") and made.working_dir == "/w/y" and made.user == "v"
    assert (made.stop_signal, made.labels, made.on_build) == ("9", {"a b": "c"}, ("RUN x",))
    assert made.healthcheck == Healthcheck(test=("CMD", "x"), interval=90 * 10**9, start_interval=2 * 10**9)
    assert changed("HEALTHCHECK NONE").healthcheck == Healthcheck(test=("NONE",))


@pytest.mark.parametrize(
    "change",
    [
        "RUN x", "x", "ENV", "ENV a", "ENV =b", "ENV a=1 b", "EXPOSE 70000", "EXPOSE 9-8", "USER a b", "STOPSIGNAL FOO",
        "VOLUME [\"\"]", "ONBUILD FROM x", "ONBUILD ONBUILD RUN x", "HEALTHCHECK foo", "HEALTHCHECK CMD",
        "HEALTHCHECK --interval=5 CMD x", "HEALTHCHECK --foo=5s CMD x", "ENV a=${", "ENV a=\0", "ENV a=" + "x" * 70_000,
    ],
)  # fmt: skip
def test_bad_ones_are_refused(change: str) -> None:
    with pytest.raises(InvalidArgument):
        changed(change)
