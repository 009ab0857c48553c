"""Compiled programs are released before the process has too many memory maps."""

import jax
import pytest

from research.runner import memory


@pytest.fixture
def released(monkeypatch):
    """Which caches of programs were cleared."""
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append("jax"))
    monkeypatch.setattr(memory.make_program, "cache_clear", lambda: cleared.append("programs"))
    return cleared


@pytest.mark.parametrize(
    ("max_maps", "is_released"), [("1", True), ("1000000000", False), (None, False)]
)
def test_programs_are_released_where_memory_maps_run_out(
    tmp_path, monkeypatch, released, max_maps, is_released
):
    maps = tmp_path / "maps"
    maps.write_text("one\ntwo\n")
    limit = tmp_path / "max_map_count"
    if max_maps:
        limit.write_text(max_maps)
    monkeypatch.setattr(memory, "MAPS", maps)
    monkeypatch.setattr(memory, "MAX_MAPS", limit)

    memory.release_programs()

    assert sorted(released) == (["jax", "programs"] if is_released else [])
