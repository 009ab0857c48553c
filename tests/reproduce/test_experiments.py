import json
import shutil
from pathlib import Path

import pytest
import yaml

from research.cli import main as cli
from research.cli import train
from research.config.errors import UsageError
from research.reproduce import experiments, results, tables

NAME = "relu_growth"


@pytest.fixture(scope="module")
def expected():
    return experiments.expected_runs(NAME)


@pytest.fixture
def records(expected, tmp_path):
    """A folder in which every run of the experiment has finished."""
    for run, settings in expected.items():
        hydra = tmp_path / NAME / run / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "config.yaml").write_text(yaml.safe_dump(settings))
        set_status(hydra.parent, "done")
    return tmp_path / NAME


def set_status(run, status):
    (run / "run.json").write_text(json.dumps({"status": status}))


def change_settings(run, settings):
    file = run / ".hydra" / "config.yaml"
    changed = yaml.safe_load(file.read_text()) | settings
    file.write_text(yaml.safe_dump(changed))


def truncate_info(run):
    (run / "run.json").write_text('{"id"')


def remove_config(run):
    shutil.rmtree(run / ".hydra")


def copy_run(run):
    shutil.copytree(run, run.parent / "copy")


def test_the_runs_of_a_whole_sweep_are_returned_in_its_order(expected, records):
    runs = experiments.finished_runs(NAME, records)
    assert [run.directory.name for run in runs] == list(expected)
    assert len(runs) == 30


def test_a_record_that_does_not_know_a_newer_setting_has_its_default(records):
    run = next(records.iterdir())
    file = run / ".hydra" / "config.yaml"
    older = yaml.safe_load(file.read_text())
    del older["data.label_noise"]
    file.write_text(yaml.safe_dump(older))
    change_settings(run, {"name": "another", "tracker.wandb": False})
    assert len(experiments.finished_runs(NAME, records)) == 30


@pytest.mark.parametrize(
    ("directory", "command"),
    [
        ("outputs/relu_growth", "fathom reproduce relu_growth"),
        ("outputs/mine", "fathom reproduce relu_growth name=mine"),
        ("my runs", "fathom reproduce relu_growth 'hydra.sweep.dir=my runs'"),
    ],
)
def test_the_command_that_completes_the_runs_names_their_folder(directory, command):
    with pytest.raises(ValueError, match=f": {command}$"):
        experiments.finished_runs(NAME, Path(directory))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "lacks the run .*: fathom reproduce relu_growth"),
        (truncate_info, "lacks the run "),
        (
            lambda run: set_status(run, "running"),
            "is interrupted, not done: fathom reproduce relu_growth",
        ),
        (lambda run: set_status(run, "failed"), "is failed, not done"),
        (
            lambda run: change_settings(run, {"train.steps": 7}),
            "train.steps is 7 there and 1 in the experiment",
        ),
        (remove_config, "does not belong .*its configuration is missing"),
        (copy_run, "copy is no run of relu_growth"),
        (
            lambda run: change_settings(run, {"seed": 99}),
            "seed is 99 there and . in the experiment",
        ),
    ],
    ids=[
        "gone",
        "unreadable",
        "unfinished",
        "failed",
        "changed",
        "unknown",
        "stranger",
        "swapped",
    ],
)
def test_a_figure_of_anything_else_is_refused_in_one_line(
    records, monkeypatch, capsys, spoil, message
):
    spoil(sorted(records.iterdir())[3])
    monkeypatch.chdir(records.parent)
    with pytest.raises(ValueError, match=message):
        experiments.finished_runs(NAME, records)
    assert cli.run(["figure", NAME, f"hydra.sweep.dir={records}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (records / "figure.png").exists()


class Reproduction:
    """Stands in for training, testing claims and uploading, and records what was called.

    Attributes:
        code: the exit code of training; 2 if training is refused.
        finished: whether all runs have finished.
        holds: whether all claims hold.
    """

    def __init__(self, monkeypatch):
        self.code = 0
        self.finished = True
        self.holds = True
        self.trained = []
        self.tested = []
        self.uploaded = []
        monkeypatch.setattr(train, "main", self.train)
        monkeypatch.setattr(experiments, "finished_runs", self.finished_runs)
        monkeypatch.setattr(results, "draw_and_test", self.draw_and_test)
        monkeypatch.setattr(results, "upload_results", self.uploaded.append)

    def train(self, words, session):
        self.trained.append(words)
        if self.code == 2:
            raise UsageError(2)
        return self.code

    def finished_runs(self, key, directory):
        if not self.finished:
            raise ValueError(f"{directory} lacks a run of {key}")

    def draw_and_test(self, key, directory, **options):
        self.tested.append((key, directory))
        return self.holds


@pytest.fixture
def reproduction(monkeypatch):
    return Reproduction(monkeypatch)


@pytest.mark.parametrize(
    ("trained", "finished", "holds", "code"),
    [
        (0, True, True, 0),
        (0, True, False, 1),
        (1, True, True, 0),  # a run diverged: of a grid of learning rates that is a result
        (1, False, True, 1),  # a run failed
        (2, True, True, 2),  # refused
    ],
)
def test_claims_decide_once_every_run_has_finished(reproduction, trained, finished, holds, code):
    reproduction.code = trained
    reproduction.finished = finished
    reproduction.holds = holds
    has_results = finished and trained < 2

    assert cli.run(["reproduce", "relu_growth"]) == code
    assert bool(reproduction.tested) == has_results
    assert bool(reproduction.uploaded) == has_results

    reproduction.uploaded.clear()
    assert cli.run(["reproduce", "relu_growth", "tracker=none"]) == code
    assert not reproduction.uploaded


def test_several_experiments_end_with_a_table_of_what_does_not_hold(monkeypatch, workplace, capsys):
    def train_all_but_glorot(words, session):
        return "experiment=glorot_init" in words

    def write_one_claim(key, directory, keep_current):
        holds = key == "he_init"
        claim = {
            "statement": "factor a layer",
            "expected": "1 ± 0.1",
            "measured": 1.25,
            "holds": holds,
        }
        directory.mkdir(parents=True)
        (directory / "claims.json").write_text(json.dumps([claim]))
        return holds

    monkeypatch.setattr(train, "main", train_all_but_glorot)
    monkeypatch.setattr(results, "draw_and_test", write_one_claim)
    assert cli.run(["reproduce", "he_init", "relu_growth", "glorot_init", "tracker=none"]) == 1

    lines = capsys.readouterr().out.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert "he_init 1 of 1" in rows
    assert "glorot_init none: runs failed" in rows
    assert "relu_growth 0 of 1 factor a layer (1.25; 1 ± 0.1)" in rows


UNKNOWN = [
    (
        ["degradatoin"],
        "no experiment degradatoin; did you mean degradation?",
    ),
    (
        ["degradation", "--scale", "papre"],
        "there is no scale papre; did you mean paper? (valid: paper)",
    ),
    (
        ["relu_growth", "--scale", "paper"],
        "there is no experiment relu_growth at --scale paper",
    ),
]


def assert_refused(said, message):
    """One line, and nothing was written."""
    assert said.code == 2
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("words", "message"), UNKNOWN)
@pytest.mark.parametrize("command", ["reproduce", "figure"])
def test_an_experiment_or_scale_that_does_not_exist_is_one_line(
    fathom, workplace, command, words, message
):
    assert_refused(fathom(command, *words), message)


def test_a_setting_that_changes_the_numbers_is_refused(fathom, workplace):
    said = fathom("reproduce", "degradation", "--scale", "paper", "seed=1")
    assert_refused(said, "seed=1 would make it another experiment")


def test_a_scale_has_runs_and_a_folder_of_its_own(reproduction):
    assert cli.run(["reproduce", "degradation", "--scale", "paper", "tracker=none"]) == 0
    assert cli.run(["figure", "--scale=paper", "degradation"]) == 0
    overrides = ["experiment=paper/degradation", "hydra/launcher=grouped", "tracker=none"]
    assert reproduction.trained == [overrides]
    result = ("paper/degradation", Path("outputs/degradation-paper"))
    assert reproduction.tested == [result, result]


def test_an_interrupt_of_one_experiment_ends_the_following_ones(monkeypatch, workplace):
    trained = []

    def interrupt(words, session):
        trained.append(words[0])
        session.interrupted = True
        return 1

    monkeypatch.setattr(train, "main", interrupt)
    assert cli.run(["reproduce", "he_init", "relu_growth"]) == 1
    assert trained == ["experiment=he_init"]


def test_a_refused_experiment_leaves_the_others_alone(monkeypatch, workplace, capsys):
    def train_all_but_he_init(words, session):
        if "experiment=he_init" in words:
            raise UsageError(2)
        return 0

    tested = []
    monkeypatch.setattr(train, "main", train_all_but_he_init)
    monkeypatch.setattr(results, "draw_and_test", lambda key, *_, **__: tested.append(key))
    monkeypatch.setattr(tables, "summary_table", lambda tested: str(list(tested.values())))
    assert cli.run(["reproduce", "he_init", "relu_growth", "tracker=none"]) == 2
    assert tested == ["relu_growth"]
    assert "[False, True]" in capsys.readouterr().out


def test_one_folder_is_not_for_several_experiments(fathom, workplace):
    said = fathom("reproduce", "he_init", "relu_growth", "name=x")
    assert said.code == 2
    assert "name=x is the folder of one experiment, 2 are asked for" in said.err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (3, "about 10 seconds"),
        (62, "about 60 seconds"),
        (119, "about 2 minutes"),
        (206, "about 3.5 minutes"),
        (590, "about 10 minutes"),
    ],
)
def test_a_duration_is_said_in_round_numbers(seconds, words):
    assert experiments.about(seconds) == words


def test_the_command_says_at_its_start_how_long_it_takes(reproduction, capsys):
    duration = experiments.read_duration("relu_growth")
    assert cli.run(["reproduce", "relu_growth"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"relu_growth: training; all its runs take {duration}"
    assert last == "relu_growth: done after 0 s"


def test_several_experiments_say_how_long_they_take_together(reproduction, monkeypatch, capsys):
    monkeypatch.setattr(tables, "summary_table", str)
    assert cli.run(["reproduce", "relu_growth", "he_init"]) == 0
    seconds = 0.0
    for name in ("relu_growth", "he_init"):
        duration = experiments.read_duration(name)
        assert duration
        seconds += duration.seconds
    first_line = capsys.readouterr().out.splitlines()[0]
    assert first_line == f"2 experiments take {experiments.about(seconds)}"


def test_an_experiment_whose_duration_is_not_known_says_nothing_of_it(reproduction, capsys):
    assert cli.run(["reproduce", "degradation", "--scale", "paper"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "degradation-paper: training"
