"""Tags and notes: recorded as texts, and in both places where a command gives them anew."""

import json
import shutil

import pytest
import yaml

from research.config.schema import Config
from research.diagnosis.prediction import config_from_settings
from research.records.runs import Run
from research.records.trackers.wandb import make_tags
from research.runner.remarks import EndedRun, record_remarks
from research.runner.run_spec import RunSpec


@pytest.fixture
def ended(tmp_path):
    """The folder of a run that has ended, with a tag and notes, and its ``run.json``."""
    directory = tmp_path / "study" / "run"
    (directory / ".hydra").mkdir(parents=True)
    info = {"status": "done", "tags": ["a"], "notes": "first"}
    (directory / "run.json").write_text(json.dumps(info))
    write_config(directory, {"seed": 0, "tags": ["a"], "notes": "first"})
    return directory


def write_config(directory, settings):
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings))


@pytest.mark.parametrize(
    ("given", "expected", "line"),
    [
        ({"tags": ()}, {"tags": [], "notes": "first"}, "recorded the tags that were"),
        ({"tags": (), "notes": ""}, {"tags": [], "notes": ""}, "recorded the tags and notes"),
        ({"tags": ("b",)}, {"tags": ["b"], "notes": "first"}, "recorded the tags that were"),
        (
            {"tags": ("b",), "notes": "second"},
            {"tags": ["b"], "notes": "second"},
            "recorded the tags and notes that were given anew",
        ),
        ({}, {"tags": ["a"], "notes": "first"}, ""),
    ],
)
def test_remarks_that_are_given_anew_are_recorded_in_both_places(
    ended, capsys, given, expected, line
):
    config = Config(**given)
    hydra_writes = {"seed": 0, "tags": list(config.tags), "notes": config.notes}
    write_config(ended, hydra_writes)
    before = Run(ended).info

    run = EndedRun(RunSpec(config, ended, given_remarks=tuple(given)), before)
    record_remarks([run])

    recorded = Run(ended)
    for name, value in expected.items():
        assert run.info[name] == recorded.info[name] == recorded.config[name] == value
    assert recorded.config["seed"] == 0
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == bool(line)


@pytest.mark.parametrize(
    ("mirrored", "ways"),
    [
        ({"wandb": {"state": "local"}}, "; `fathom sync` sends them to W&B"),
        (
            {"tensorboard": {"state": "local"}},
            "; the same command with tracker=tensorboard sends them there",
        ),
    ],
)
def test_how_dashboards_get_new_remarks_is_said(ended, capsys, mirrored, ways):
    run = EndedRun(RunSpec(Config(tags=("b",)), ended), Run(ended).info | {"mirrored": mirrored})
    record_remarks([run])
    assert capsys.readouterr().err.endswith(f"given anew{ways}\n")
    (state,) = run.info["mirrored"].values()
    assert state.get("new_remarks") == ["tags"] or state["state"] == "pending"


def test_remarks_of_several_runs_are_one_line(ended, capsys, tmp_path):
    other = shutil.copytree(ended, tmp_path / "study" / "other")
    config = Config(tags=("b",))
    record_remarks(
        [EndedRun(RunSpec(config, folder), Run(folder).info) for folder in (ended, other)]
    )
    assert capsys.readouterr().err == "fathom: 2 runs: recorded the tags that were given anew\n"


def test_tags_that_an_earlier_version_recorded_as_numbers_are_texts():
    settings = {"tags": [1, 2], "model.depth": 2}

    assert config_from_settings(settings).tags == ("1", "2")
    assert make_tags({"watch": {"tags": [1]}}) == ["1"]
