"""What the README says is so: its commands compose, its error is the one a user gets, its options are all there are."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from research.cli.parser import COMMANDS
from research.cli.train import main
from research.config import schema as config
from research.config.hydra_config import register, resource_dir, to_config
from research.reproduce.experiments import experiment_names

from .described import own_data as own_data

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.S | re.M)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMAND_LINES = [
    line for line in LINES if re.search(r"(^|/|\s)fathom [a-z]+", line) and not line.startswith("$")
]


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if "fathom train" in line])
@pytest.mark.usefixtures("own_data")
def test_training_commands_compose(line):
    register()
    words = [word for word in shlex.split(line.split("fathom train", 1)[1]) if word != "-m"]
    singles = [word.split(",")[0].replace("range(0", "0").rstrip(")") for word in words]
    with initialize_config_dir(str(resource_dir("conf").absolute()), version_base="1.3"):
        assert isinstance(to_config(compose("config", singles)), config.Config)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_exists(line):
    command = re.search(r"fathom ([a-z]+)", line)
    assert command and command.group(1) in COMMANDS


def test_reproductions_named_are_the_ones_there_are():
    assert set(re.findall(r"fathom reproduce ([a-z_]+)", README)) <= set(experiment_names())
    assert all(f"`{name}`" in README for name in experiment_names())


def test_the_error_shown_is_the_error_said(capsys, tmp_path, monkeypatch):
    command, said = re.search(r"^\$ fathom train (.*)\n(fathom: .*)$", README, re.M).groups()  # type: ignore[union-attr]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([command])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize(
    "group, kind",
    [
        ("skip", config.SkipKind),
        ("norm", config.NormKind),
        ("activation", config.ActivationKind),
        ("init", config.InitKind),
        ("optimizer", config.OptimizerKind),
        ("precision", config.PrecisionKind),
        ("loss", config.LossKind),
        ("measure", config.Level),
        ("mesh", config.MeshKind),
    ],
)
def test_the_table_names_every_option(group, kind):
    row = re.search(rf"^\| `{group}` \| ([^;|]*)", README, re.M)
    assert row and re.findall(r"`([a-z0-9_]+)`", row.group(1)) == [option.name for option in kind]


@pytest.mark.parametrize(
    "group, schema", [("train", config.Train), ("checkpoint", config.Checkpoint)]
)
def test_the_table_names_every_setting_of_a_group_without_options(group, schema):
    row = re.search(rf"^\| `{group}` \| (.*)", README, re.M)
    settings = [item.name for item in dataclasses.fields(schema)]
    assert row and re.findall(rf"`(?:{group})?\.([a-z_]+)`", row.group(1)) == settings
    for name, default in re.findall(r"\.([a-z_]+)`[^;`]*\((\d+)", row.group(1)):
        assert getattr(schema(), name) == float(default)
