"""Users without a home directory, homes that do not exist, and links that lead nowhere."""

import pwd
from pathlib import Path

import jax
import pytest

from research.config.paths import expand_home, find_home, real_path
from research.data.tfds_directory import data_dir, describe_offline_datasets
from research.runner.session import prepare_jax


@pytest.fixture
def homeless(monkeypatch):
    """The user of this process has no home directory."""

    def find_nobody(_):
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", find_nobody)


def test_the_home_directory_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert find_home() == Path("/home/me")
    assert expand_home("~/images") == Path("/home/me/images")


def test_a_path_in_a_home_that_does_not_exist_stays_as_it_is():
    assert expand_home("~no-such-user/images") == Path("~no-such-user/images")


def test_links_are_followed_and_those_that_lead_to_themselves_stay(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert real_path(tmp_path / "link" / "x") == real_path(tmp_path) / "x"
    assert real_path(tmp_path / "loop" / "x").is_absolute()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_compiled_programs_are_not_cached():
    cache = getattr(jax.config, "jax_compilation_cache_dir", None)
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        prepare_jax()
        assert getattr(jax.config, "jax_compilation_cache_dir", None) is None
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_datasets_of_the_catalogue_need_a_folder():
    assert find_home() is None
    with pytest.raises(ValueError, match="no home directory .* set TFDS_DATA_DIR"):
        data_dir()
    assert describe_offline_datasets().startswith("offline there are digits")
