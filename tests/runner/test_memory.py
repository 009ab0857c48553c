"""Compiled programs are given back before the system ends a process that holds too many of their parts."""

import jax
import pytest

from research.runner import memory


@pytest.mark.parametrize(("most", "released"), [("1", True), ("1000000000", False), (None, False)])
def test_programs_are_released_where_memory_maps_run_out(tmp_path, monkeypatch, most, released):
    cleared = []
    file = tmp_path / "max_map_count"
    if most:
        file.write_text(most)
    monkeypatch.setattr(memory, "MAPS", tmp_path / "maps")
    memory.MAPS.write_text("one\ntwo\n")
    monkeypatch.setattr(memory, "MOST_MAPS", file)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append("jax"))
    monkeypatch.setattr(memory.make_program, "cache_clear", lambda: cleared.append("programs"))
    memory.release_programs()
    assert sorted(cleared) == ["jax", "programs"] * released
