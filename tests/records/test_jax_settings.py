"""Which settings of JAX and XLA count as those that the numbers of a run depend on."""

import jax
import pytest

from research.records.jax_settings import (
    JAX_FLAGS,
    describe_changed_settings,
    read_jax_settings,
)


def test_the_settings_are_those_of_this_process():
    before = read_jax_settings()
    assert before["JAX_DEFAULT_PRNG_IMPL"] == "threefry2x32"
    assert before["EAGER_CONSTANT_FOLDING"] is False
    assert describe_changed_settings(before, before) == ""
    with jax.default_prng_impl("rbg"):
        changed = read_jax_settings()
    words = "JAX_DEFAULT_PRNG_IMPL was threefry2x32, is rbg"
    assert describe_changed_settings(before, changed) == words


def test_most_flags_are_known_to_this_version_of_jax():
    """Each version of JAX has some that others do not have."""
    known = [flag for flag in JAX_FLAGS if hasattr(jax.config, flag)]
    assert len(known) > 0.6 * len(JAX_FLAGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("--xla_dump_to=x --xla_force_host_platform_device_count=4", ""),
        ("--xla_b=1  --xla_a=2 --xla_dump_to=x", "--xla_a=2 --xla_b=1"),
        ("--xla_b=1 --xla_a=2 --xla_b=3", "--xla_a=2 --xla_b=1 --xla_b=3"),
        ("no_such_file", "no_such_file"),
    ],
)
def test_flags_without_an_effect_and_their_order_do_not_count(monkeypatch, text, expected):
    monkeypatch.setenv("XLA_FLAGS", text)
    assert read_jax_settings()["XLA_FLAGS"] == expected


def test_flags_in_a_file_count(monkeypatch, tmp_path):
    """XLA takes a value without a dash for the name of a file."""
    file = tmp_path / "flags"
    file.write_text("--xla_a=2\n--xla_dump_to=x\n")
    monkeypatch.setenv("XLA_FLAGS", str(file))
    assert read_jax_settings()["XLA_FLAGS"] == "--xla_a=2"


def test_a_setting_that_one_version_of_jax_lacks_is_no_change():
    assert describe_changed_settings({"JAX_OLD": 1}, {"JAX_NEW": 2}) == ""
    assert describe_changed_settings({"A": None}, {"A": "x"}) == "A was not set, is x"
