"""What a W&B run is called, also where the environment says so."""

import pytest

from research.records.trackers import identity

VARIABLES = ("PROJECT", "ENTITY", "TAGS", "RUN_GROUP", "NAME", "JOB_TYPE")
DEFAULTS = {"project": "fathom", "entity": None}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


def test_without_variables_the_settings_count():
    assert identity.with_environment(DEFAULTS) == DEFAULTS
    assert identity.run_group("study") == "study"
    assert identity.run_name("seed=0") == "seed=0"
    assert identity.job_type() == "train"
    assert identity.all_tags(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("run_id", ["*", "a[b]", "my-run", "?", "../x", ""])
def test_the_folders_of_a_run_are_those_with_its_id(tmp_path, run_id):
    """An id in a record may be anything; what matches it is removed."""
    for other in ("aaaa", "run", "b", "x"):
        (tmp_path / f"offline-run-20260101_000000-{other}").mkdir()
    assert identity.find_folders(tmp_path, run_id) == []
    if run_id and "/" not in run_id:
        folder = tmp_path / f"run-20260101_000000-{run_id}"
        folder.mkdir()
        assert identity.find_folders(tmp_path, run_id) == [folder]
        assert identity.find_folders(tmp_path, run_id, "offline-run-*") == []


def test_variables_count_where_nothing_is_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(f"WANDB_{name}", f"my {name}")
    chosen = identity.with_environment(DEFAULTS | {"every": 10})
    assert chosen == {"project": "my PROJECT", "entity": "my ENTITY", "every": 10}
    assert identity.run_group("study") == "my RUN_GROUP"
    assert identity.run_name("seed=0") == "my NAME"
    assert identity.job_type() == "my JOB_TYPE"


def test_a_setting_takes_precedence(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "theirs")
    settings = {"project": "mine", "entity": "me"}
    assert identity.with_environment(settings) == settings


def test_tags_of_the_environment_are_added(monkeypatch):
    monkeypatch.setenv("WANDB_TAGS", "paper, b,,paper")
    assert identity.all_tags(["a", "b"]) == ["a", "b", "paper"]


@pytest.mark.parametrize("length", [1, 128, 129, 255, 1000])
@pytest.mark.parametrize("character", ["n", "ü", "深"])
def test_names_are_no_longer_than_wandb_takes(length, character):
    name = length * character
    for shortened in (identity.run_group(name), identity.run_name(name)):
        assert len(shortened) == min(length, 128)
        assert shortened.startswith(character)
    (tag,) = identity.all_tags([name])
    assert len(tag) == min(length, 64)


def test_names_that_differ_at_their_end_stay_apart():
    first = identity.run_group(200 * "n" + "1")
    second = identity.run_group(200 * "n" + "2")
    assert first != second
