"""H10: root of a remapped container is somebody on the host, and may write nowhere that is the engine's."""

from __future__ import annotations

import os
from pathlib import Path

from tests.security.runtime.test_remapped import writable_for
from tests.support.engine import Engine
from tests.support.remapping import FIRST


def test_mapped_root_writes_nowhere_in_the_state(remapping_engine: Engine) -> None:
    """Layers, volumes and the engine's files have the container's ids on disk, none of which is the mapped one."""
    engine = remapping_engine
    engine.base.chmod(0o755)  # made by mkdtemp for root alone: what is below must hold by itself
    engine.docker_ok("run", "-d", "--name", "box", "-v", "/v", "busybox", "sh", "-c", "touch /v/x /new; sleep 600")
    places = (engine.instance.data, engine.instance.run)
    assert [writable_for(FIRST, place) for place in places] == [[], []]
    assert not [path for place in places for path in place.rglob("*") if path.lstat().st_uid >= FIRST]
    pid = int(engine.docker_ok("inspect", "-f", "{{.State.Pid}}", "box"))
    assert Path(f"/proc/{pid}").stat().st_uid == FIRST
    careless = engine.instance.run / "careless"  # the control: it is found once it is there
    careless.touch()
    os.chown(careless, FIRST, FIRST)
    try:
        assert writable_for(FIRST, engine.instance.run) == ["careless"]
    finally:
        careless.unlink()


def test_a_set_id_file_made_inside_helps_nobody_outside(remapping_engine: Engine) -> None:
    """On disk it is the host's root's: so nobody may reach it there."""
    engine = remapping_engine
    engine.base.chmod(0o755)
    make = "cp /bin/busybox /v/su; cp /bin/busybox /su; chmod 4755 /v/su /su; stat -c %a:%u /v/su /su"
    told = engine.docker_ok("run", "--name", "box", "-v", "/v", "busybox", "sh", "-c", make)
    assert told.split() == ["4755:0"] * 2
    made = [path for path in engine.instance.data.rglob("su") if path.stat().st_mode & 0o4000]
    assert len(made) == 2
    for path in made:
        above = [place for place in path.parents if engine.instance.data in (place, *place.parents)]
        assert any(place.stat().st_mode & 0o001 == 0 for place in above), path
