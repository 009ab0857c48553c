import json

import pytest

from research.records.runs import Run


@pytest.fixture
def sweep(fathom, small, workplace):
    """Sweeps the small run; its runs by name, and what was said."""

    def start(*overrides):
        arguments = [word for word in small if word.split("=")[0] not in " ".join(overrides)]
        said = fathom(
            "train", "-m", *arguments, "name=study", f"tracker.dir={workplace}/w", *overrides
        )
        files = sorted(workplace.glob("outputs/study/*/run.json"))
        return {file.parent.name: Run(file.parent) for file in files}, said

    return start


GRID = ["model.depth=2,3", "skip=none,identity", "seed=0,1"]


@pytest.mark.usefixtures("quickly_compiled")
def test_a_grid_makes_one_folder_of_runs_one_group_and_one_table(sweep, workplace, wandb_records):
    runs, (code, out, err) = sweep(*GRID, "measure=off")  # four programs, the smallest ones
    assert code == 0, err
    settings = {(run["model.depth"], run["skip.kind"], run["seed"]) for run in runs.values()}
    assert settings == {
        (depth, skip, seed) for depth in (2, 3) for skip in ("none", "identity") for seed in (0, 1)
    }
    assert {run.info["status"] for run in runs.values()} == {"done"}
    assert len({run.info["id"] for run in runs.values()}) == len(runs) == 8
    assert "measure=off,model.depth=3,model.width=8,seed=1,skip=identity,train.steps=25" in runs

    lines = out.splitlines()
    assert len(lines) == 9 and all(len(line) <= 150 and "…" not in line for line in lines), out
    assert {"depth", "skip", "seed"} <= set(lines[0].split()) and "width" not in lines[0]
    assert all(f"[{n}/8]" in err for n in range(1, 9)), err

    folders = {run.info["id"]: run.info["wandb"] for run in runs.values()}
    assert len(list(workplace.glob("w/wandb/offline-run-*/*.wandb"))) == 8
    ends = [next(iter(runs.values())), list(runs.values())[-1]]
    described = [wandb_records(workplace / folders[run.info["id"]])[1]["run"] for run in ends]
    assert {run["run_group"] for run in described} == {"study"}
    assert {run["run_id"] for run in described} == {run.info["id"] for run in ends}


def test_seeds_of_one_grid_differ_in_the_seed_alone(sweep):
    runs, _ = sweep("seed=0,1", "tracker=none")
    one, other = (run.config for run in runs.values())
    assert {path for path in one if one[path] != other[path]} == {"seed"}


RATES = "optimizer.learning_rate=0.01,1e30,0.02"


def test_a_diverging_run_is_listed_and_the_others_finish(sweep):
    runs, (code, out, err) = sweep(RATES, "tracker=none")
    assert code == 1
    status = {run["optimizer.learning_rate"]: run.info["status"] for run in runs.values()}
    assert status == {0.01: "done", 1e30: "diverged", 0.02: "done"}
    assert "fathom: 1 of 3 runs did not end well:" in err
    (line,) = [line for line in err.splitlines() if line.startswith("  ")]
    assert "learning_rate=1e" in line and "diverged" in line and "step" in line
    assert [word in out for word in ("0.01", "1e+30", "0.02", "diverged")] == [True] * 4


@pytest.fixture
def breaking(monkeypatch):
    """Makes the run with seed 1 raise; the seeds that were trained."""
    from research.runner import loop as run

    prepare = run.make_run_setup
    seeds = []

    def start(config, *others, raises, **settings):
        seeds.append(config.seed)
        if config.seed == 1 and raises:
            raise raises
        return prepare(config, *others, **settings)

    def breaks(error):
        monkeypatch.setattr(
            run,
            "make_run_setup",
            lambda *configs, **settings: start(*configs, raises=error, **settings),
        )
        return seeds

    return breaks


def test_a_run_that_raises_is_listed_and_the_others_finish(sweep, breaking):
    seeds = breaking(RuntimeError("out of luck"))
    runs, (code, out, err) = sweep("seed=0,1,2", "tracker=none")
    assert code == 1 and seeds == [0, 1, 2]
    assert [run["seed"] for run in runs.values()] == [0, 2]
    assert "fathom: 1 of 3 runs did not end well:" in err
    (line,) = [line for line in err.splitlines() if line.startswith("  ")]
    assert "seed=1" in line and "RuntimeError: out of luck" in line
    assert len(out.splitlines()) == 3
    assert "Error executing job" not in err


def test_no_table_where_every_run_failed(sweep, breaking):
    breaking(RuntimeError("out of luck"))
    _, (code, out, err) = sweep("seed=1", "tracker=none")
    assert code == 1 and out == "" and "1 of 1 runs" in err


def test_an_interruption_ends_the_whole_sweep(sweep, breaking):
    seeds = breaking(KeyboardInterrupt())
    runs, (code, _, err) = sweep("seed=0,1,2", "tracker=none")
    assert code == 1 and "interrupted" in err and seeds == [0, 1]
    assert [run["seed"] for run in runs.values()] == [0]


def test_a_sweep_started_again_trains_what_is_missing(sweep, breaking, monkeypatch):
    with monkeypatch.context():
        breaking(RuntimeError("out of luck"))
        before, _ = sweep("seed=0,1,2", "tracker=none")
    written = {
        name: (run.directory / "metrics.parquet").stat().st_mtime_ns for name, run in before.items()
    }
    breaking(None)
    after, (code, out, err) = sweep("seed=0,1,2", "tracker=none")
    assert code == 0, err
    assert [run["seed"] for run in after.values()] == [0, 1, 2]
    assert len(out.splitlines()) == 5 and out.splitlines()[-1].startswith(
        "2 of 3 runs were there already"
    )
    assert {
        name: (after[name].directory / "metrics.parquet").stat().st_mtime_ns for name in written
    } == written


def test_a_finished_run_in_a_sweep_is_one_that_is_finished_alone(sweep, fathom, small, workplace):
    """Alone or in a sweep, a setting lies in the same place under the same id."""
    runs, _ = sweep("seed=0,1", "tracker=none")
    written = {
        name: (run.directory / "metrics.parquet").stat().st_mtime_ns for name, run in runs.items()
    }
    assert (
        fathom("train", *small, "name=study", "seed=1", "tracker=none", "tracker.dir=w").code == 0
    )
    again = {
        file.parent.name: file.stat().st_mtime_ns
        for file in workplace.glob("outputs/study/*/metrics.parquet")
    }
    assert again == written


def test_two_sweeps_of_one_process_count_their_own_runs(listen, small, workplace):
    from research.cli.train import main

    def both():
        codes = [
            main(["-m", *small, f"name={name}", "seed=0,1", "tracker=none"])
            for name in ("one", "two")
        ]
        return max(codes)

    said = listen(both)
    assert said.code == 0
    counts = [line.split("]")[0] for line in said.err.splitlines() if line.startswith("[")]
    assert [counts.count(f"[{n}/2") for n in (1, 2)] == [2, 2] and set(counts) == {
        "[1/2",
        "[2/2",
    }, said.err


def test_the_last_word_about_a_setting_counts(sweep):
    runs, _ = sweep("seed=0,1", "seed=2", "tracker=none")
    assert [run["seed"] for run in runs.values()] == [2]


def test_the_folder_of_the_sweep_is_the_one_that_was_given(sweep, workplace):
    _, (code, _, _) = sweep("seed=0,1", "tracker=none", "hydra.sweep.dir=elsewhere")
    assert code == 0
    assert (
        len(list(workplace.glob("elsewhere/*/run.json"))) == 2
        and not (workplace / "outputs").exists()
    )
    assert {
        json.loads(file.read_text())["status"] for file in workplace.glob("elsewhere/*/run.json")
    } == {"done"}
