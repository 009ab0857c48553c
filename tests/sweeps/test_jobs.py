"""Sweeps from the command line: what they train, record and report."""

import itertools
import json

import pytest

from research.records.runs import Run


@pytest.fixture
def sweep(fathom, small, workplace):
    """Sweeps the small run; gives the runs by name, and how the command ended."""

    def start(*overrides):
        words = []
        for word in small:
            path, _, _ = word.partition("=")
            if path not in " ".join(overrides):
                words.append(word)
        if "tracker=none" not in overrides:
            words.append(f"tracker.dir={workplace}/w")
        said = fathom("train", "-m", *words, "name=study", *overrides)
        runs = {}
        for file in sorted(workplace.glob("outputs/study/*/run.json")):
            runs[file.parent.name] = Run(file.parent)
        return runs, said

    return start


def lines_about_runs(err):
    """The lines that list failures; they are indented."""
    return [line for line in err.splitlines() if line.startswith("  ")]


GRID = ["model.depth=2,3", "skip=none,identity", "seed=0,1"]
RUNS_OF_GRID = {
    (2, "none", 0),
    (2, "none", 1),
    (2, "identity", 0),
    (2, "identity", 1),
    (3, "none", 0),
    (3, "none", 1),
    (3, "identity", 0),
    (3, "identity", 1),
}


@pytest.mark.usefixtures("quickly_compiled")
def test_a_grid_makes_one_folder_of_runs_one_group_and_one_table(sweep, workplace, wandb_records):
    runs, (code, out, err) = sweep(*GRID, "measure=off")  # four programs, the smallest ones
    assert code == 0, err
    settings = set()
    ids = set()
    for run in runs.values():
        settings.add((run["model.depth"], run["skip.kind"], run["seed"]))
        ids.add(run.info["id"])
        assert run.info["status"] == "done"
    assert settings == RUNS_OF_GRID
    assert len(ids) == len(runs) == 8
    assert "depth=3,skip=identity,seed=1" in runs

    lines = out.splitlines()
    assert len(lines) == 9
    for line in lines:
        assert len(line) <= 150
        assert "…" not in line
    columns = set(lines[0].split())
    assert {"depth", "skip", "seed"} <= columns
    assert "width" not in lines[0]
    for number in range(1, 9):
        assert f"[{number}/8]" in err

    assert len(list(workplace.glob("w/wandb/offline-run-*/*.wandb"))) == 8
    names = list(runs)
    for run in (runs[names[0]], runs[names[-1]]):
        description = wandb_records(workplace / run.info["wandb"])[1]["run"]
        assert description["run_group"] == "study"
        assert description["run_id"] == run.info["id"]


def test_the_seeds_of_a_grid_differ_only_in_the_seed(sweep):
    runs, _ = sweep("seed=0,1", "tracker=none")
    one, other = runs.values()
    assert one["seed"] != other["seed"]
    assert one.config | {"seed": None} == other.config | {"seed": None}


def test_a_diverging_run_is_listed_and_the_others_finish(sweep):
    runs, (code, out, err) = sweep("optimizer.learning_rate=0.01,1e30,0.02", "tracker=none")
    assert code == 1
    status = {}
    for run in runs.values():
        status[run["optimizer.learning_rate"]] = run.info["status"]
    assert status == {0.01: "done", 1e30: "diverged", 0.02: "done"}
    assert "fathom: 1 of 3 runs did not end well:" in err
    (line,) = lines_about_runs(err)
    assert "learning_rate=1e" in line
    assert "diverged" in line.lower()
    assert "step" in line
    for word in ("0.01", "1e+30", "0.02", "diverged"):
        assert word in out


@pytest.fixture
def fail_seed_1(monkeypatch):
    """Makes the run with seed 1 raise an error, or none; gives the seeds of the runs that start."""
    from research.runner import loop

    make_run_setup = loop.make_run_setup

    def install(error):
        seeds = []

        def make_or_fail(config, *others, **settings):
            seeds.append(config.seed)
            if config.seed == 1 and error is not None:
                raise error
            return make_run_setup(config, *others, **settings)

        monkeypatch.setattr(loop, "make_run_setup", make_or_fail)
        return seeds

    return install


def seeds_of(runs):
    return [run["seed"] for run in runs.values()]


def test_a_run_that_raises_is_listed_and_the_others_finish(sweep, fail_seed_1):
    started_seeds = fail_seed_1(RuntimeError("out of luck"))
    runs, (code, out, err) = sweep("seed=0,1,2", "tracker=none")
    assert code == 1
    assert started_seeds == [0, 1, 2]
    assert seeds_of(runs) == [0, 2]
    assert "fathom: 1 of 3 runs did not end well:" in err
    (line,) = lines_about_runs(err)
    assert "seed=1" in line
    assert "RuntimeError: out of luck" in line
    assert len(out.splitlines()) == 3
    assert "Error executing job" not in err


def test_no_table_where_every_run_failed(sweep, fail_seed_1):
    fail_seed_1(RuntimeError("out of luck"))
    _, (code, out, err) = sweep("seed=1", "tracker=none")
    assert code == 1
    assert out == ""
    assert "1 of 1 runs" in err


def test_an_interruption_ends_the_whole_sweep(sweep, fail_seed_1):
    started_seeds = fail_seed_1(KeyboardInterrupt())
    runs, (code, _, err) = sweep("seed=0,1,2", "tracker=none")
    assert code == 1
    assert "interrupted" in err
    assert started_seeds == [0, 1]
    assert seeds_of(runs) == [0]


def modification_times(directory):
    """When the metrics of each run were written, by the run's name."""
    times = {}
    for file in directory.glob("outputs/study/*/metrics.parquet"):
        times[file.parent.name] = file.stat().st_mtime_ns
    return times


def test_a_sweep_that_is_started_again_trains_what_is_missing(sweep, fail_seed_1, workplace):
    fail_seed_1(RuntimeError("out of luck"))
    sweep("seed=0,1,2", "tracker=none")
    written = modification_times(workplace)
    fail_seed_1(None)
    runs, (code, out, err) = sweep("seed=0,1,2", "tracker=none")
    assert code == 0, err
    assert seeds_of(runs) == [0, 1, 2]
    lines = out.splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("2 of 3 runs had already finished")
    assert len(written) == 2
    assert written.items() <= modification_times(workplace).items()


def test_a_run_that_finished_in_a_sweep_is_finished_alone_too(sweep, fathom, small, workplace):
    """A run has the same directory and id whether it is trained alone or in a sweep."""
    sweep("seed=0,1", "tracker=none")
    written = modification_times(workplace)
    said = fathom("train", *small, "name=study", "seed=1", "tracker=none")
    assert said.code == 0
    assert modification_times(workplace) == written


def test_two_sweeps_of_one_process_count_their_runs_separately(listen, small, workplace):
    from research.cli import train

    def sweep_twice():
        first_code = train.main(["-m", *small, "name=one", "seed=0,1", "tracker=none"])
        second_code = train.main(["-m", *small, "name=two", "seed=0,1", "tracker=none"])
        return max(first_code, second_code)

    said = listen(sweep_twice)
    assert said.code == 0
    counts = []
    for line in said.err.splitlines():
        if line.startswith("["):
            count, _, _ = line.partition("]")
            counts.append(count)
    # A run that takes long has several lines.
    different = [count for count, _ in itertools.groupby(counts)]
    assert different == ["[1/2", "[2/2", "[1/2", "[2/2"], said.err


def test_the_last_override_of_a_setting_counts(sweep):
    runs, _ = sweep("seed=0,1", "seed=2", "tracker=none")
    assert seeds_of(runs) == [2]


def test_a_sweep_is_recorded_in_the_folder_that_was_given(sweep, workplace):
    _, (code, _, _) = sweep("seed=0,1", "tracker=none", "hydra.sweep.dir=elsewhere")
    assert code == 0
    assert not (workplace / "outputs").exists()
    files = list(workplace.glob("elsewhere/*/run.json"))
    assert len(files) == 2
    for file in files:
        assert json.loads(file.read_text())["status"] == "done"


@pytest.mark.parametrize(
    ("old_name", "new_name", "value"),
    [
        ("hydra.launcher.most", "hydra.launcher.max_group_size", "1"),
        pytest.param(
            "hydra.launcher.within", "hydra.launcher.map_mode", "vmap", marks=pytest.mark.slow
        ),
    ],
)
def test_the_old_name_of_a_launcher_setting_still_works(sweep, old_name, new_name, value):
    words = ["hydra/launcher=grouped", "seed=0,1", "tracker=none"]
    runs, (code, _, err) = sweep(*words, f"{old_name}={value}")
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if old_name in line]
    assert line.startswith(f"fathom: {old_name} is now called {new_name}")
    group_size = 1 if new_name.endswith("max_group_size") else 2
    for run in runs.values():
        assert run.info["group_size"] == group_size
