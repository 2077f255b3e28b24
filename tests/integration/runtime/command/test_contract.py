"""What callers parse: exit statuses, log lines, version, features, the default config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.runtime_command import Runtime


@pytest.mark.parametrize(
    "words", [("--nope",), ("frobnicate",), ("state",), ("state", "a", "b"), ("create", "--nope", "x"), ("kill",)]
)
def test_misuse_is_an_error(runtime: Runtime, words: tuple[str, ...]) -> None:
    assert runtime(*words).status != 0


def test_the_last_line_of_the_log_is_the_error(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = runtime("--log", log, "--log-format", "json", "state", "nobody")
    line = json.loads(log.read_text().splitlines()[-1])
    assert (line["level"], line["msg"]) == ("error", "container does not exist")
    assert "time" in line
    assert said.errors == "container does not exist\n"
    runtime("--log", log, "state", "nobody")
    assert log.read_text().splitlines()[-1].endswith('level=error msg="container does not exist"')


def test_version_names_the_program_and_the_specification(runtime: Runtime) -> None:
    first, commit, spec, *_ = runtime("--version").output.splitlines()
    assert first.split()[1] == "version"
    assert commit.startswith("commit: ")
    assert spec.startswith("spec: 1.")


def test_checkpoint_and_restore_say_that_they_are_not_there(runtime: Runtime) -> None:
    assert "restore is not supported" in runtime("restore", "box").errors


def test_the_default_config_runs(runtime: Runtime, tmp_path: Path) -> None:
    bundle = tmp_path / "fresh"
    bundle.mkdir()
    assert runtime("spec", "--bundle", bundle).status == 0
    assert "File config.json exists. Remove it first" in runtime("spec", "--bundle", bundle).errors
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sh", "-c", "hostname"]}
    config["root"]["path"] = str(runtime.image)
    said = runtime("run", "--bundle", runtime.bundle("box", config), "box")
    assert (said.status, said.output) == (0, f"{config['hostname']}\n")
