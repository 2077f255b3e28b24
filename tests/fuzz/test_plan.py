"""The kept corpus of the plan decoder's fuzzer, and a second of fuzzing beyond it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fuzz import plan

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def test_the_corpus_finds_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(plan.CORPUS, corpus)
    done = plan.run(plan.build(tmp_path), 1, corpus)
    assert done.returncode == 0, done.stderr
    assert "nothing found" in done.stdout


def test_a_broken_decoder_is_found(tmp_path: Path) -> None:
    """The control: a decoder that believes a length is caught, and the input is kept."""
    source = (plan.CSRC / "plan.c").read_text()
    check = " || (size_t)(c->end - c->at) <= length"
    assert check in source
    (tmp_path / "plan.c").write_text(source.replace(check, ""))
    shutil.copy(plan.CSRC / "plan.h", tmp_path)
    done = plan.run(plan.build(tmp_path, decoder=tmp_path / "plan.c"), 20, tmp_path / "corpus")
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr
    assert (tmp_path / "corpus" / "finding").stat().st_size > 0
