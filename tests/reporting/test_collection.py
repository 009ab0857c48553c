"""``research.load`` and what runs offer in Python: tables, arrays, figures, display."""

import builtins
import subprocess
import sys

import numpy as np
import pytest

import research
from research.interface.runs import RecordedRun
from research.reporting import tables

from .conftest import ACCURACIES, STEPS, write_run


def test_load_takes_a_folder_and_filters(sweep):
    runs = research.load("outputs/study", "skip=none", "depth>4")

    assert len(runs) == 6
    assert {run["skip.kind"] for run in runs} == {"none"}
    assert len(runs.select("depth=64")) == 3
    assert len(runs[:2]) == 2
    assert runs[0].directory.name == "depth=16,skip=none,seed=0"


def test_runs_are_read_after_the_program_has_changed_its_directory(sweep, tmp_path, monkeypatch):
    runs = research.load("outputs")
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)

    assert runs.metrics().num_rows == len(runs) * STEPS


def test_a_folder_without_runs_is_refused(outputs):
    with pytest.raises(ValueError, match="got outputs/nothing, which does not exist"):
        research.load("outputs/nothing")


def test_the_table_has_a_row_for_each_run(sweep):
    table = research.load().table()

    assert table.num_rows == 17
    names = ["run", "status", "verdict", "skip.kind", "model.depth", "seed"]
    assert table.column_names[: len(names)] == names
    rows = table.to_pylist()
    for row in rows:
        of_seeds = ACCURACIES[row["model.depth"], row["skip.kind"]]
        expected = None
        if row["status"] == "done":
            expected = of_seeds[row["seed"]]
        assert row["eval_accuracy"] == expected


def test_metrics_have_a_row_for_each_step(sweep):
    runs = research.load("outputs", "depth=4")

    table = runs.metrics("train_loss")

    assert table.num_rows == 6 * STEPS
    assert table.column_names == ["run", "skip.kind", "seed", "step", "train_loss"]
    losses = table.column("train_loss").to_numpy()
    recorded = runs[0].metrics["train_loss"]
    np.testing.assert_array_equal(losses[:STEPS], recorded)


def test_profiles_have_a_row_for_each_step_and_layer(sweep):
    runs = research.load("outputs", "depth=4")

    table = runs.profiles("signal_grad")

    assert table.num_rows == 6 * 2 * 5
    rows = table.slice(5, 5).to_pydict()
    assert rows["layer"] == [-1, 0, 1, 2, 3]
    assert rows["step"] == [1] * 5
    recorded = runs[0].profiles["signal_grad"]
    assert rows["signal_grad"] == recorded[1].tolist()


def test_an_array_has_named_axes_and_gaps_where_a_network_has_no_layer(sweep):
    runs = research.load("outputs", "skip=none", "seed=0")

    array = runs.array("signal_grad")

    assert array.axes == ("run", "step", "layer")
    assert array.shape == (3, 2, 65)
    shallow = array.select(step=1, run=str(runs[0].directory))
    assert shallow.axes == ("layer",)
    recorded = runs[0].profiles["signal_grad"]
    np.testing.assert_allclose(shallow.values[:5], recorded[1])
    assert np.all(np.isnan(shallow.values[5:]))
    assert np.asarray(array).shape == array.shape
    assert repr(array) == "NamedArray(signal_grad, run: 3, step: 2, layer: 65)"


def test_a_metric_is_an_array_over_runs_and_steps(sweep):
    runs = research.load("outputs", "depth=4")

    array = runs.array("train_loss")

    assert array.axes == ("run", "step")
    of_step = array.select(step=3)
    recorded = runs[1].metrics["train_loss"]
    assert of_step.values[1] == recorded[3]


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda runs: runs.metrics("train_los"), "did you mean train_loss"),
        (lambda runs: runs.profiles("signal_gard"), "did you mean signal_grad"),
        (lambda runs: runs.array("signal_grad").select(stepp=0), "did you mean step"),
        (lambda runs: runs.array("signal_grad").select(step=99), "has no entry 99"),
        (lambda runs: runs.select("skip=rezero"), "none of the 17 runs"),
        (lambda runs: runs.plot("lines"), "^kind must be .*; did you mean line"),
        (lambda runs: runs.summary("eval_acuracy"), "did you mean eval_accuracy"),
        (lambda runs: runs.plot(x="dpeth"), "^x: dpeth is not a setting; did you mean depth"),
        (lambda runs: runs[:0].plot(), "^there are no runs here"),
        (lambda runs: runs[:0].metrics(), "^there are no runs here"),
        (lambda runs: runs[:0].select("depth=4"), "^there are no runs here"),
        (lambda runs: runs.compare([]), "^other must be a run or runs, got none"),
    ],
)
def test_a_mistake_raises_with_the_nearest_name(sweep, call, part):
    runs = research.load()

    with pytest.raises(ValueError, match=part):
        call(runs)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_named(outputs, name):
    (outputs.parent / "file").write_text("")
    with pytest.raises(ValueError, match=f"^root must be a folder with runs, got {name}, which "):
        research.load(name)


def test_a_folder_may_be_in_the_home_directory(sweep, monkeypatch):
    monkeypatch.setenv("HOME", str(sweep.parent))
    assert len(research.load("~/outputs")) == 17


@pytest.mark.parametrize("rows", [None, 3])
def test_rows_that_are_no_names_are_named(sweep, rows):
    with pytest.raises(TypeError, match="^rows and columns must be texts, .*, got "):
        research.load().summary(rows=rows)


def test_the_steps_of_a_profile_may_be_numbers(sweep):
    runs = research.load("outputs", "depth=4")
    several = runs.plot("profile", steps=[0, 1])
    assert len(several.figure.axes) == 2 * len(runs.plot("profile", steps=1).figure.axes)


def test_runs_differ_from_the_others_as_the_command_says(sweep):
    runs = research.load("outputs", "depth=4")

    plain = runs.select("skip=none")
    residual = runs.select("skip=identity")

    comparison = plain.compare(residual)

    (difference,) = comparison.settings
    assert difference.path == "skip.kind"


def test_the_displays_of_a_notebook_escape_what_comes_from_runs(outputs):
    hostile = "<img src=x onerror=alert(1)>"
    write_run(
        outputs / "a" / hostile,
        {"data.name": hostile},
        verdict={"kind": "healthy", "sentence": hostile},
    )
    write_run(outputs / "a" / "other", final={"eval_accuracy": 0.5})
    runs = research.load()

    run = RecordedRun(runs[0].directory)
    for shown in (runs, run, runs.summary()):
        page = shown._repr_html_()
        assert "<img" not in page
        assert "&lt;img" in page


class ZMQInteractiveShell:
    """What Rich takes for the shell of a notebook, by its name."""


def test_in_a_notebook_text_goes_where_it_is_printed(sweep, monkeypatch, capsys):
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    runs = research.load("outputs", "depth=4", "seed=0")

    tables.console().print("a table")
    comparison = repr(runs.select("skip=none").compare(runs.select("skip=identity")))

    assert capsys.readouterr().out == "a table\n"
    assert "settings that differ: skip.kind" in comparison


def test_a_drawing_is_shown_and_saved(sweep, tmp_path):
    drawing = research.load("outputs", "depth=4").plot("profile", steps="first")

    assert drawing._repr_png_().startswith(b"\x89PNG")
    assert drawing.save(tmp_path / "b.png") == [tmp_path / "b.png"]
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_importing_and_loading_imports_nothing_heavy(sweep):
    program = (
        "import sys, research; research.load(); "
        "print(sorted({'jax', 'flax', 'wandb', 'matplotlib', 'hydra'} & set(sys.modules)))"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert said.stdout == "[]\n", said.stderr


def lose(file):
    file.unlink()


def damage(file):
    file.write_bytes(b"PAR1")


@pytest.mark.parametrize("spoil", [lose, damage])
@pytest.mark.parametrize(
    ("table", "use"),
    [
        ("metrics", lambda runs: runs.metrics("train_loss")),
        ("metrics", lambda runs: runs.array("train_loss")),
        ("metrics", lambda runs: runs.plot("curves")),
        ("profiles", lambda runs: runs.profiles("signal_grad")),
        ("profiles", lambda runs: runs.array("signal_grad")),
        ("profiles", lambda runs: runs.plot("profile")),
    ],
    ids=["metrics", "array", "curves", "profiles", "array of a gauge", "profile"],
)
def test_a_run_without_a_table_it_recorded_is_left_out(outputs, capsys, spoil, table, use):
    verdict = {"factor_per_layer": 0.5}
    for seed in (0, 1):
        settings = {"model.depth": 4, "seed": seed}
        write_run(outputs / f"{seed}", settings, verdict=verdict, signal=np.ones((2, 5)))
    spoil(outputs / "1" / f"{table}.parquet")

    use(research.load("outputs"))

    said = capsys.readouterr().err
    assert said.startswith("fathom: left out: ")
    assert said.count("\n") == 1
    with pytest.raises(ValueError, match="train the run again"):
        use(research.load("outputs")[1:])
