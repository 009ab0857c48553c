"""Recorded runs for the subcommands that read them."""

import json
import shutil

import pytest
import yaml


def change_config(directory, settings):
    file = directory / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for path, value in settings.items():
        *groups, name = path.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[name] = value
    file.write_text(yaml.safe_dump(config))


def change_info(directory, changes):
    """Changes run.json: None removes a key, a dictionary is merged into the one that is there."""
    file = directory / "run.json"
    info = json.loads(file.read_text())
    for key, value in changes.items():
        if value is None:
            info.pop(key)
        elif value and isinstance(value, dict):
            info[key] |= value
        else:
            info[key] = value
    file.write_text(json.dumps(info))


@pytest.fixture
def make_run(finished, workplace):
    """Makes outputs/NAME, a run like the finished one except for its settings and its run.json."""
    finished_directory, _ = finished

    def make(name, settings=None, info=None):
        directory = workplace / "outputs" / name
        shutil.copytree(finished_directory, directory)
        change_config(directory, settings or {})
        change_info(directory, info or {})
        return directory

    return make


@pytest.fixture
def five_runs(make_run, workplace):
    """Five runs of two studies; gives the directory that holds outputs/."""
    vanishing = {"kind": "vanishing", "first_layer": 40}
    make_run("one/model.depth=2,skip=none")
    make_run("one/model.depth=2,skip=identity", {"skip.kind": "identity"})
    make_run("one/model.depth=64,skip=none", {"model.depth": 64}, {"verdict": vanishing})
    make_run(
        "two/optimizer.learning_rate=1e30",
        {"optimizer.learning_rate": 1e30},
        {"status": "diverged", "final": {}},
    )
    make_run(
        "two/killed",
        {"seed": 1},
        {"status": "running", "final": None, "verdict": None, "steps": None},
    )
    return workplace
