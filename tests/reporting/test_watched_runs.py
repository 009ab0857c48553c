"""Runs that ``fathom.Monitor`` recorded, in tables and figures."""

import shutil
from typing import Any

import numpy as np
import pytest
import yaml

from research.records.record import Lock, RunRecord
from research.records.runs import SOURCE_WATCH, Run
from research.reporting.figures import label_short_log_axes, new_figure, set_log_scale
from research.reporting.plots.arrangement import PlotOptions
from research.reporting.plots.draw import draw_runs

from .recorded import make_rows

NAMES = [f"blocks/{number}" for number in range(6)]
DEAD_VERDICT: Any = {
    "kind": "dead",
    "sentence": "Dead: …",
    "first_layer": 2,
    "findings": [{"kind": "dead", "layers": [[0, 2]], "sentence": "Dead: …"}],
}
HEALTHY_VERDICT: Any = {"kind": "healthy", "sentence": "Healthy: …", "first_layer": 2}


def record_watched(directory, verdict, *, status="done", steps=40, settings=None):
    """Writes the record of a loop without settings, or with some."""
    directory.mkdir(parents=True)
    (directory / ".hydra").mkdir()
    config = {"watch": {"every": 4}, "tracker": {}} | (settings or {})
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    info = {"id": directory.name, "source": SOURCE_WATCH, "layers": 6, "layer_names": NAMES}
    lock = Lock(directory)
    record = RunRecord(lock, info)
    if steps:
        record.add(*make_rows(np.arange(steps), len(NAMES), seed=0))
    record.close(status=status, steps=steps, final={"train_loss": 0.5}, verdict=verdict)
    record.release()
    return Run(directory)


def test_beside_trained_runs_a_setting_of_one_kind_is_listed_where_it_differs_in_that_kind(
    finished, workplace, fathom
):
    source, _ = finished
    for depth in (2, 4):
        target = workplace / "outputs" / "sweep" / f"depth={depth}"
        shutil.copytree(source, target)
        file = target / ".hydra" / "config.yaml"
        file.write_text(file.read_text().replace("depth: 2\n", f"depth: {depth}\n"))
    for rate in (0.1, 0.3):
        settings = {"lr": rate, "model": "conv"}
        record_watched(workplace / "outputs" / "mine" / str(rate), None, settings=settings)

    said = fathom("runs")

    heading, *rows = said.out.splitlines()
    assert heading.split()[:4] == ["study", "lr", "depth", "status"]
    assert [row.split()[:3] for row in rows] == [
        ["mine", "0.1", "–"],
        ["mine", "0.3", "–"],
        ["sweep", "–", "2"],
        ["sweep", "–", "4"],
    ]


@pytest.fixture
def loops(workplace):
    """Two loops of one study that no setting tells apart."""
    study = workplace / "outputs" / "mine"
    return [
        record_watched(study / "conv", DEAD_VERDICT),
        record_watched(study / "rnn", HEALTHY_VERDICT),
    ]


def test_loops_that_no_setting_tells_apart_are_listed_by_their_names(loops, workplace, fathom):
    alone = fathom("runs")
    study = workplace / "outputs" / "mine"
    record_watched(study / "deep", HEALTHY_VERDICT, settings={"depth": 6})
    record_watched(study / "rare", HEALTHY_VERDICT, settings={"watch": {"every": 9}})
    with_another = fathom("runs")

    assert alone.code == with_another.code == 0
    for name in ("conv", "rnn"):
        assert name in alone.out
        assert name in with_another.out
    assert "depth" in with_another.out
    assert "rare" in with_another.out


def test_the_table_says_which_layers_are_dead_and_none_of_a_healthy_run(loops, fathom):
    said = fathom("runs")

    assert "dead in blocks/0 to blocks/2 " in said.out
    assert "healthy from" not in said.out


@pytest.mark.parametrize("layers", [None, 3, [3], [["a", "b"]], [[0, 99]], [[2, 1]]])
def test_layers_that_are_damaged_are_left_out(workplace, fathom, layers):
    finding = {"kind": "dead", "layers": layers}
    verdict = DEAD_VERDICT | {"first_layer": None, "findings": ["no finding", finding]}
    record_watched(workplace / "outputs" / "mine" / "conv", verdict)

    said = fathom("runs")

    assert said.code == 0
    assert "dead " in said.out


def legend_of(drawing):
    (legend,) = drawing.figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_loops_without_settings_are_curves_of_their_own(loops):
    drawing = draw_runs(loops, PlotOptions(kind="curves"))

    assert legend_of(drawing) == ["mine/conv", "mine/rnn"]
    assert "one run each" in drawing.notes


def test_a_loop_that_failed_before_its_first_step_is_left_out_and_counted(loops, workplace):
    failed = record_watched(workplace / "outputs" / "mine" / "bad", None, status="failed", steps=0)

    drawing = draw_runs([*loops, failed], PlotOptions(kind="heatmap"))

    panels = [axes.get_title() for axes in drawing.figure.axes[:-1]]
    assert panels == ["run mine/conv", "run mine/rnn"]
    assert drawing.notes[-1] == "left out: 1 run without a step"
    assert "left out: 1 run" in drawing.figure.get_supxlabel()


@pytest.mark.parametrize(("kind", "axis"), [("profile", "xaxis"), ("heatmap", "yaxis")])
def test_the_axis_of_layers_shows_their_names(loops, kind, axis):
    drawing = draw_runs(loops[:1], PlotOptions(kind=kind))

    layer_axis = getattr(drawing.figure.axes[0], axis)
    labels = [text.get_text() for text in layer_axis.get_ticklabels()]
    assert labels == ["input", "blocks/1", "blocks/3", "blocks/5"]


def test_a_logarithmic_axis_below_a_decade_has_plain_numbers():
    figure, panels = new_figure(3, 2)
    axes = panels.item()
    axes.plot([1, 2, 3], [0.0058, 0.0144, 0.009])
    set_log_scale(axes)
    label_short_log_axes(axes)
    figure.draw_without_rendering()

    labels = [text.get_text() for text in axes.yaxis.get_ticklabels(which="both")]
    assert labels == ["0.0075", "0.01", "0.0125", "0.015"]
