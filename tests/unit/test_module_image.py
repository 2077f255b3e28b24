"""A program's modules in one file: what is taken from it, and when it is written anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from bulkhead import module_image
image = module_image.ModuleImage({place!r}, lambda name: name.startswith("bulkhead"), mapped={mapped})
sys.path.insert(0, {source!r})
import bulkhead
bulkhead.__path__.insert(0, {source!r})
with image:
    import bulkhead.sample, bulkhead.sample.part
print(bulkhead.sample.part.VALUE, *sorted(image._used))
assert image not in sys.meta_path
import inspect, pkgutil, importlib.resources
assert inspect.getsource(bulkhead.sample.part).startswith("VALUE")
assert importlib.resources.files("bulkhead.sample").joinpath("text").read_text() == "text"
assert pkgutil.get_data("bulkhead.sample", "text") == b"text"
"""
BOTH = "bulkhead.sample bulkhead.sample.part"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package of ours to be imported, with a module in it."""
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "__init__.py").touch()
    (tmp_path / "sample" / "text").write_text("text")
    (tmp_path / "sample" / "part.py").write_text("VALUE = 1\n")
    return tmp_path


def imported(source: Path, place: Path, *, mapped: bool = False, **environ: str) -> str:
    """What a fresh interpreter finds in `sample.part`, and which modules it took from the image."""
    script = SCRIPT.format(place=str(place), source=str(source), mapped=mapped)
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", f"import sys; sys.path = {sys.path!r}\n{script}"],
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("mapped", [False, True])
def test_what_was_imported_once_comes_from_the_image(source: Path, mapped: bool) -> None:
    place = source / "image"
    assert imported(source, place, mapped=mapped) == "1"
    before = place.stat().st_mtime_ns
    assert imported(source, place, mapped=mapped) == f"1 {BOTH}"
    assert place.stat().st_mtime_ns == before, "nothing new, nothing written"


def test_a_source_that_changed_is_read_again(source: Path) -> None:
    place = source / "image"
    imported(source, place)
    (source / "sample" / "part.py").write_text("VALUE = 22\n")
    assert imported(source, place) == "22 bulkhead.sample"
    assert imported(source, place) == f"22 {BOTH}"
    # As long as before, but newer.
    (source / "sample" / "part.py").write_text("VALUE = 33\n")
    os.utime(source / "sample" / "part.py", ns=(1, 1 << 60))
    assert imported(source, place) == "33 bulkhead.sample"


def test_a_source_that_has_gone_is_not_found(source: Path) -> None:
    place = source / "image"
    imported(source, place)
    (source / "sample" / "part.py").unlink()
    with pytest.raises(AssertionError, match=r"No module named 'bulkhead\.sample\.part'"):
        imported(source, place)


@pytest.mark.parametrize("keep", [0, 3, 10, 200, -1], ids=str)
def test_an_image_of_no_use_is_replaced(source: Path, keep: int) -> None:
    place = source / "image"
    imported(source, place)
    whole = place.read_bytes()
    for content in (whole[:keep], whole[:keep] + bytes(len(whole) - len(whole[:keep])), b"\0" * 4 + whole[4:]):
        place.write_bytes(content)
        assert imported(source, place).startswith("1")
        assert imported(source, place) == f"1 {BOTH}"


def test_without_a_place_all_is_as_ever(source: Path) -> None:
    assert imported(source, source / "sample") == "1"
    assert imported(source, Path("/proc/none")) == "1"


def test_another_installation_does_not_use_it(source: Path) -> None:
    place = source / "image"
    imported(source, place)
    assert imported(source, place, PYTHONPATH=str(source)) == "1"
    assert imported(source, place, PYTHONPATH=str(source)) == f"1 {BOTH}"


def test_nothing_is_written_where_python_may_not(source: Path) -> None:
    assert imported(source, source / "image", PYTHONDONTWRITEBYTECODE="1") == "1"
    assert not (source / "image").exists()


def test_optimized_code_is_for_optimized_programs(source: Path) -> None:
    """As Python tells .opt-2.pyc files apart."""
    place = source / "image"
    imported(source, place, PYTHONOPTIMIZE="2")
    assert imported(source, place) == "1"


def test_a_source_that_is_being_written_harms_no_program(source: Path) -> None:
    place = source / "image"
    (source / "sample" / "part.py").write_text(
        "VALUE = 1\nwith open(__file__, 'a') as itself:\n    itself.write('def half(')\n"
    )
    script = SCRIPT.format(place=str(place), source=str(source), mapped=False).partition("import inspect")[0]
    command = [
        sys.executable,
        "-S",
        "-P",
        "-B",
        "-c",
        f"import sys; sys.path = {sys.path!r}\nsys.dont_write_bytecode = False\n{script}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
