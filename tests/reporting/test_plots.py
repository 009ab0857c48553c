"""``fathom plot``: what a figure shows without options and with them, and its numbers."""

import json

import numpy as np
import pytest
import yaml
from matplotlib.lines import Line2D
from scipy import stats

from research.diagnosis.prediction import factor_with, profile_with
from research.reporting.aggregation import group_runs, summarize
from research.reporting.layout import Layout, arm_titles, choose_layout, split_arms
from research.reporting.plots.arrangement import PlotOptions, is_geometric, is_logarithmic, thinned
from research.reporting.plots.draw import KINDS, choose_kind, draw_runs
from research.reporting.quantities import BY_NAME
from research.reporting.selection import select_runs

from .conftest import t_interval, write_run, write_table


def draw(runs, **options):
    return draw_runs(runs, PlotOptions(**options))


def solid_lines(axes):
    """The data of the lines with more than one point that are not predictions."""
    lines = []
    for line in axes.lines:
        x = np.asarray(line.get_xdata())
        y = np.asarray(line.get_ydata())
        if len(x) > 1 and line.get_linestyle() == "-":
            lines.append((x, y))
    return lines


def band_of(axes, position):
    """The heights [P] of the outline of a shaded interval."""
    (path,) = axes.collections[position].get_paths()
    return np.asarray(path.vertices)[:, 1]


def ends_of_intervals(axes):
    """The heights of the outlines of all shaded intervals and of all error bars of a panel."""
    heights = []
    for collection in axes.collections:
        for path in collection.get_paths():
            heights += np.asarray(path.vertices)[:, 1].tolist()
    return np.array(heights)


def cells_of(axes):
    """The values of the cells of a map [rows, columns]."""
    return np.asarray(axes.collections[0].get_array())


def dashed_lines(axes):
    return [line for line in axes.lines if line.get_linestyle() == "--"]


def legend_texts(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def titles_of(panels):
    return [axes.get_title() for axes in panels]


# What is chosen


def test_what_varies_most_is_x_and_what_has_few_values_is_colour(sweep):
    layout = choose_layout(select_runs([]))

    assert layout == Layout(x="model.depth", colors=("skip.kind",))


def test_the_third_setting_has_panels_and_the_rest_shares_the_colours(outputs):
    number = 0
    for depth in (2, 4, 8):
        for skip in ("none", "identity"):
            for activation in ("relu", "tanh", "sigmoid"):
                for rate in (0.1, 0.01, 0.2, 0.3):
                    settings = {
                        "model.depth": depth,
                        "skip.kind": skip,
                        "activation.kind": activation,
                        "optimizer.learning_rate": rate,
                    }
                    write_run(outputs / str(number), settings)
                    number += 1

    layout = choose_layout(select_runs([]))

    assert layout.x == "optimizer.learning_rate"
    assert layout.colors == ("skip.kind", "model.depth")
    assert layout.facet == "activation.kind"


def test_a_setting_that_follows_from_another_is_not_shown(outputs):
    for rate in (0.1, 0.2, 0.3):
        for skip, scale in (("none", None), ("scaled", 0.5)):
            settings = {"optimizer.learning_rate": rate, "skip.kind": skip}
            if scale is not None:
                settings["skip.branch_scale"] = scale
            write_run(outputs / f"{rate}{skip}", settings)

    layout = choose_layout(select_runs([]))

    assert layout == Layout(x="optimizer.learning_rate", colors=("skip.kind",))


@pytest.mark.parametrize(
    ("words", "options", "kind"),
    [
        ([], {}, "line"),
        (["depth=4"], {}, "curves"),
        (["depth=4", "skip=none"], {}, "curves"),
        (["depth=4", "skip=none", "seed=0"], {}, "profile"),
        ([], {"y": "signal_grad"}, "profile"),
        ([], {"y": "train_loss"}, "line"),
        ([], {"steps": "first"}, "profile"),
        (["depth=4"], {"x": "skip"}, "line"),
    ],
    ids=str,
)
def test_the_kind_follows_from_the_runs_and_from_what_is_asked(sweep, words, options, kind):
    assert choose_kind(select_runs(words), PlotOptions(**options)) == kind


def test_two_settings_of_many_numbers_are_a_phase_diagram(outputs):
    for depth in (2, 4, 8, 16):
        for sigma in (0.5, 1.0, 1.5, 2.0):
            settings = {"model.depth": depth, "init.sigma_w": sigma}
            final = {"eval_accuracy": sigma / 2}
            write_run(outputs / f"{depth} {sigma}", settings, final=final)

    assert choose_kind(select_runs([]), PlotOptions()) == "phase"


# Sweeps with arms


def write_arm(directory, words, settings, values, path, **record):
    """Runs of an arm, for which ``words`` were written, with several values of one setting."""
    for value in values:
        run_directory = directory / f"{words} {path}={value}"
        write_run(run_directory, {**settings, path: value}, **record)
        written = [*words, f"{path}={value}"]
        (run_directory / ".hydra" / "overrides.yaml").write_text(json.dumps(written))


@pytest.fixture
def arms(outputs):
    """Three arms that vary width, dropout and learning rate; the first one trained one step."""
    study = outputs / "study"
    initial = {"initial": {"factor_per_layer": 2.0}}
    write_arm(
        study,
        ["model.depth=50"],
        {"model.depth": 50},
        (8, 16, 32),
        "model.width",
        steps=1,
        verdict=initial,
    )
    trained = {"final": {"eval_accuracy": 0.5}}
    rates = (0.1, 0.2, 0.3, 0.4)
    deep = {"model.depth": 64, "skip.kind": "identity"}
    write_arm(
        study,
        ["model.depth=64", "skip=identity"],
        deep,
        (0.0, 0.1, 0.2),
        "model.dropout",
        **trained,
    )
    write_arm(study, ["model.depth=10"], {"model.depth": 10}, rates, "optimizer.learning_rate")
    return study


def test_the_arms_of_a_sweep_are_the_runs_with_the_same_written_settings(arms):
    found = split_arms(select_runs([]))

    assert sorted(len(arm) for arm in found) == [3, 3, 4]
    assert sorted(arm_titles(found)) == ["depth 10", "depth 50", "skip identity"]


def test_a_crowded_sweep_has_a_panel_with_its_own_axes_for_each_arm(arms, monkeypatch):
    monkeypatch.setattr("research.reporting.layout.MAX_COLORS", 2)

    drawing = draw(select_runs([]))

    labels = {axes.get_title(): axes.get_xlabel() for axes in drawing.figure.axes}
    assert labels == {
        "depth 50, 1\N{NO-BREAK SPACE}step": "width (units)",
        "skip identity, 20\N{NO-BREAK SPACE}steps": "dropout",
        "depth 10, 20\N{NO-BREAK SPACE}steps": "learning rate",
    }
    assert "a panel for each arm of the sweep" in drawing.notes


def test_what_is_asked_for_is_on_the_axis_of_every_panel(arms, monkeypatch):
    monkeypatch.setattr("research.reporting.layout.MAX_COLORS", 2)

    drawing = draw(select_runs([]), x="optimizer.learning_rate")

    labels = {axes.get_xlabel() for axes in drawing.figure.axes}
    assert labels == {"learning rate"}


# What is drawn


def test_a_line_goes_through_the_means_and_is_shaded_by_the_intervals(sweep):
    runs = select_runs([])

    drawing = draw(runs, kind="line")

    (axes,) = drawing.figure.axes
    groups = group_runs(runs, ["skip.kind", "model.depth"])
    lines = solid_lines(axes)
    for position, skip in enumerate(("none", "identity")):
        x, y = lines[position]
        assert x.tolist() == [4, 16, 64]
        ends = ends_of_intervals(axes)
        of_skip = [group for group in groups if group.settings["skip.kind"] == skip]
        for mean, group in zip(y, of_skip, strict=True):
            summary = summarize(group, BY_NAME["eval_accuracy"])
            assert mean == pytest.approx(summary.mean)
            if summary.high - summary.low < 0.5:
                assert np.any(np.isclose(ends, summary.low))
                assert np.any(np.isclose(ends, min(summary.high, 1.0)))
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "eval accuracy"
    assert axes.get_xlabel() == "depth (layers)"
    assert legend_texts(drawing.figure) == ["none", "identity"]
    (legend,) = drawing.figure.legends
    assert legend.get_title().get_text() == "skip"


def test_a_figure_says_what_is_not_averaged(sweep):
    drawing = draw(select_runs([]), kind="line")

    assert drawing.notes == [
        "digits, relu, 20 steps",
        "mean over 2 to 3 seeds, shaded: 95 % interval of the mean",
        "short bars: single seeds, where the interval says little",
        "not averaged: 1 diverged, 1 missing",
        "open markers: not all runs ended well",
    ]


def test_a_figure_says_how_its_intervals_are_drawn(sweep):
    runs = select_runs(["model.depth=4"])
    assert (
        "mean over 3 seeds, bars: 95 % interval of the mean"
        in draw(runs, kind="line", x="skip").notes
    )


def write_tanh_run(directory, depth):
    settings = {"model.depth": depth, "activation.kind": "tanh", "optimizer.learning_rate": 0.5}
    write_run(directory, settings, signal=np.ones((1, depth + 1)))
    words = [f"model.depth={depth}", "activation=tanh", "optimizer.learning_rate=0.5", "seed=0"]
    (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))


def test_a_figure_says_what_all_its_runs_have_in_common(outputs):
    for depth in (2, 4):
        write_tanh_run(outputs / str(depth), depth)

    both = draw(select_runs([]), kind="line", y="steps")
    one = draw(select_runs(["depth=2"]), kind="profile")

    assert both.notes[0] == "digits, tanh, learning rate 0.5, 20 steps"
    assert one.notes[0] == "digits, tanh, depth 2, learning rate 0.5, 20 steps"
    assert "verdicts and factors per layer are of the squared gradient, ‖∂L/∂h‖²" in one.notes


def test_a_place_where_every_run_diverged_has_a_cross(outputs):
    for depth in (2, 4, 8):
        status = "diverged" if depth == 8 else "done"
        write_run(
            outputs / str(depth),
            {"model.depth": depth},
            status=status,
            final={"eval_accuracy": 0.5},
        )

    drawing = draw(select_runs([]), kind="line", y="eval_accuracy")

    (axes,) = drawing.figure.axes
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_xdata() == [8]
    assert "×: no run has a value" in drawing.notes


def test_runs_that_did_not_measure_the_number_have_no_place_in_the_figure(outputs):
    for depth in (2, 4, 8):
        final = {"eval_accuracy": 0.5} if depth < 8 else {"eval_loss": 1.0}
        write_run(outputs / str(depth), {"model.depth": depth}, final=final)

    drawing = draw(select_runs([]), kind="line", y="eval_accuracy")

    (axes,) = drawing.figure.axes
    assert not [line for line in axes.lines if line.get_marker() == "x"]
    assert max(axes.get_xticks()) < 8
    assert "not drawn: 1 without a value" in drawing.notes


def test_theory_is_dashed_where_the_factor_at_initialisation_is_drawn(sweep):
    drawing = draw(select_runs([]), kind="line", y="initial_factor")

    (axes,) = drawing.figure.axes
    plain, residual = dashed_lines(axes)
    np.testing.assert_allclose(np.asarray(plain.get_ydata()), 0.5)
    np.testing.assert_allclose(np.asarray(residual.get_ydata()), 1.0)
    assert legend_texts(drawing.figure)[-1] == "mean-field theory"


def test_curves_are_means_over_the_seeds_and_those_that_diverged_are_thin(sweep):
    runs = select_runs(["depth=16", "skip=none"])

    drawing = draw(runs, kind="curves")

    (axes,) = drawing.figure.axes
    losses = np.stack([run.metrics["train_loss"] for run in runs[:2]])
    (mean, thin) = solid_lines(axes)
    np.testing.assert_allclose(mean[1], losses.mean(axis=0))
    np.testing.assert_allclose(thin[1], runs[2].metrics["train_loss"])
    low, _ = t_interval(losses[:, -1])
    band = band_of(axes, 0)
    assert np.any(np.isclose(band, low))
    assert "thin lines that end in ×: 1 diverged, not averaged" in drawing.notes
    assert axes.get_ylabel() == "train loss (nats)"


def test_a_long_curve_is_averaged_in_windows(outputs):
    loss = np.arange(600.0) + 1
    write_run(outputs / "a", loss=loss, steps=600)

    drawing = draw(select_runs([]), kind="curves")

    (axes,) = drawing.figure.axes
    ((x, y),) = solid_lines(axes)
    windows = loss.reshape(60, 10)
    np.testing.assert_allclose(y, windows.mean(axis=1))
    np.testing.assert_allclose(x, y - 1)
    assert axes.get_ylabel() == "train loss (nats, mean of 10 steps)"


def test_windows_of_a_metric_that_not_every_step_has_are_of_values(outputs):
    run = write_run(outputs / "a", loss=np.ones(1200), steps=1200)
    steps = np.arange(0, 1200, 10)
    columns = {"step": steps, "sharpness": np.arange(120.0) + 1}
    write_table(run.directory, "inspections", columns)

    drawing = draw(select_runs([]), kind="curves", y="sharpness")

    (axes,) = drawing.figure.axes
    ((x, y),) = solid_lines(axes)
    np.testing.assert_allclose(y, columns["sharpness"].reshape(60, 2).mean(axis=1))
    np.testing.assert_allclose(x, steps.reshape(60, 2).mean(axis=1))
    assert axes.get_ylabel() == "sharpness (mean of 2 values)"


def test_a_profile_is_the_geometric_mean_with_the_prediction_through_its_last_layer(sweep):
    runs = select_runs(["depth=16", "skip=none"])

    drawing = draw(runs, kind="profile", steps="first")

    (axes,) = drawing.figure.axes
    rows = np.stack([run.profiles["signal_grad"][0] for run in runs])
    *seeds, mean = [y for _, y in solid_lines(axes)]
    np.testing.assert_allclose(mean, stats.gmean(rows))
    np.testing.assert_allclose(seeds, rows)
    (prediction,) = dashed_lines(axes)
    predicted = np.asarray(prediction.get_ydata())
    np.testing.assert_allclose(predicted[-1], mean[-1])
    np.testing.assert_allclose(predicted[0], mean[-1] * 0.5**8)
    assert axes.get_title() == "step 0"
    assert axes.get_ylabel() == "gradient of the signal, ‖∂L/∂h‖"


@pytest.mark.parametrize(
    ("kind", "filters"),
    [("line", ["skip=none"]), ("curves", ["depth=4"]), ("profile", ["depth=4"])],
)
def test_a_colour_that_was_asked_for_is_named_also_where_all_runs_have_it(sweep, kind, filters):
    runs = select_runs([*filters, "skip=none"])

    asked = draw(runs, kind=kind, color="skip")
    chosen = draw(runs, kind=kind)

    (legend,) = asked.figure.legends
    assert legend.get_title().get_text() == "skip"
    assert legend_texts(asked.figure)[0] == "none"
    assert "none" not in [
        text.get_text() for each in chosen.figure.legends for text in each.get_texts()
    ]


def test_the_lines_of_a_profile_have_sparse_markers_that_the_legend_names(sweep):
    drawing = draw(select_runs(["depth=64"]), kind="profile", steps="first")

    (axes,) = drawing.figure.axes
    (legend,) = drawing.figure.legends
    lines = [line for line in axes.lines if line.get_marker() != "None"]
    markers = [line.get_marker() for line in lines]
    handles = [handle for handle in legend.legend_handles if isinstance(handle, Line2D)]
    named = [handle.get_marker() for handle in handles]
    assert markers == named[:2] == ["o", "s"]
    assert [line.get_markevery() for line in lines] == [(0, 8), (4, 8)]


@pytest.mark.parametrize(
    ("num_seeds", "num_thin", "num_bands", "words"),
    [
        (1, 0, 0, "one run each"),
        (3, 3, 0, "geometric mean over 3 seeds, thin lines: single seeds"),
        (4, 0, 1, "geometric mean over 4 seeds, shaded: 95 % interval of the mean"),
    ],
)
def test_few_seeds_are_drawn_instead_of_their_interval(
    outputs,
    num_seeds,
    num_thin,
    num_bands,
    words,
):
    for seed in range(num_seeds):
        signal = [[10.0 ** -(3 + seed), 1.0]]
        write_run(outputs / str(seed), {"model.depth": 1, "seed": seed}, signal=signal)

    drawing = draw(select_runs([]), kind="profile")

    (axes,) = drawing.figure.axes
    assert len(solid_lines(axes)) == num_thin + 1
    assert len(axes.collections) == num_bands
    assert words in drawing.notes


def predicted_line(drawing):
    (axes,) = drawing.figure.axes
    (line,) = dashed_lines(axes)
    return np.asarray(line.get_ydata())


def test_the_prediction_of_a_profile_bends_where_the_factor_varies_over_layers(outputs):
    settings = {"model.depth": 16, "skip.kind": "identity", "activation.kind": "tanh"}
    verdict = {"theory": factor_with(settings)}
    run = write_run(outputs / "a", settings, verdict=verdict, signal=np.ones((1, 17)))

    predicted = predicted_line(draw([run], kind="profile"))

    factors = predicted[:-1] / predicted[1:]
    assert predicted[-1] == 1.0
    assert np.all(np.diff(factors) < 0)  # the signal grows, so each layer adds less
    logs = profile_with(settings)
    assert logs is not None
    np.testing.assert_allclose(predicted**2, np.exp(logs))


def test_data_of_another_variance_have_the_factor_that_was_predicted_for_them(outputs):
    settings = {"model.depth": 16, "skip.kind": "identity", "activation.kind": "tanh"}
    run = write_run(outputs / "a", settings, verdict={"theory": 4.0}, signal=np.ones((1, 17)))

    predicted = predicted_line(draw([run], kind="profile"))

    np.testing.assert_allclose(predicted, 2.0 ** np.arange(16, -1, -1))


def test_a_profile_has_a_row_of_panels_for_each_step(sweep):
    drawing = draw(select_runs(["depth=4"]), kind="profile")

    assert titles_of(drawing.figure.axes) == ["step 0", "step 1"]
    for axes in drawing.figure.axes:
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert labels == ["input", "0", "1", "2", "3"]
        assert axes.get_xticks().tolist() == [0, 1, 2, 3, 4]


def test_zeros_are_left_out_of_a_logarithmic_profile(outputs):
    signal = [[0.0, 1e-3, 1.0], [0.0, 1e-3, 1.0]]
    write_run(outputs / "a", {"model.depth": 2}, signal=signal)

    drawing = draw(select_runs([]), kind="profile", steps="last")

    (axes,) = drawing.figure.axes
    ((_, mean),) = solid_lines(axes)
    assert np.isnan(mean[0])
    assert "values that are exactly 0 are not drawn" in drawing.notes


def test_a_heat_map_has_a_panel_for_each_setting(sweep):
    drawing = draw(select_runs(["depth=4"]), kind="heatmap")

    *panels, bar = drawing.figure.axes
    assert titles_of(panels) == ["skip none", "skip identity"]
    assert bar.get_ylabel() == "gradient of the signal, ‖∂L/∂h‖"
    assert cells_of(panels[0]).shape == (5, 2)


def test_a_heat_map_with_linear_colours_has_arithmetic_means(outputs):
    for seed, share in enumerate((0.0, 0.4, 0.8)):
        run = write_run(outputs / str(seed), {"seed": seed, "model.depth": 2})
        values = np.full((3, 2), share)
        values[:, 1] = 0.8
        columns = {"step": np.arange(3), "saturated": values}
        write_table(run.directory, "profiles", columns)

    drawing = draw(select_runs([]), kind="heatmap", y="saturated")

    (mesh,) = drawing.figure.axes[0].collections
    np.testing.assert_allclose(np.asarray(mesh.get_array()), [[0.4] * 3, [0.8] * 3])
    assert "mean over 3 seeds" in drawing.notes
    assert "grey: no value" in drawing.notes


def test_a_phase_diagram_has_the_means_and_the_curve_of_theory(outputs, monkeypatch):
    monkeypatch.setattr("research.reporting.plots.phase.THEORY_POINTS", 4)
    for depth in (2, 4, 8, 16):
        for sigma in (0.8, 1.0, 1.5, 2.0):
            settings = {
                "model.depth": depth,
                "init.kind": "gaussian",
                "init.sigma_w": sigma,
                "init.sigma_b": 0.2,
                "activation.kind": "tanh",
            }
            final = {"eval_accuracy": sigma / 2}
            write_run(outputs / f"{depth} {sigma}", settings, final=final)

    drawing = draw(select_runs([]))

    axes, bar = drawing.figure.axes
    assert axes.get_xlabel() == "$\\sigma_w$"
    assert axes.get_ylabel() == "depth (layers)"
    assert bar.get_ylabel() == "eval accuracy"
    expected = np.array([0.4, 0.5, 0.75, 1.0])
    for row in cells_of(axes):
        np.testing.assert_allclose(row, expected)
    assert dashed_lines(axes)
    assert "dashed: mean-field theory, 6 ξ_c, the depth that information reaches" in drawing.notes


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"phase"}))
def test_every_kind_draws_a_sweep(sweep, kind):
    drawing = draw(select_runs([]), kind=kind)

    for axes in drawing.figure.axes:
        assert axes.has_data()
    drawing.figure.draw_without_rendering()


# The command


def test_the_command_writes_three_files_and_says_where(fathom, own_sweep):
    said = fathom("plot", "depth=4", "skip=none", "--kind", "curves")

    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == "figure: outputs/study/curves_train_loss.png .svg .pdf"
    for ending in ("png", "svg", "pdf"):
        assert (own_sweep / "study" / f"curves_train_loss.{ending}").stat().st_size > 1000


def test_out_names_one_file(fathom, own_sweep, tmp_path):
    said = fathom("plot", "depth=4", "--out", "figures/mine.svg")

    assert said.code == 0, said.err
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["mine.svg"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["skip=rezero"], "none of the 17 runs"),
        (["--kind", "lines"], "did you mean line?"),
        (["--x", "dpeth"], "--x: dpeth is not a setting; did you mean depth?"),
        (["--color", "skp"], "--color: skp is not a setting; did you mean skip"),
        (["--facet", "model.dpth"], "--facet: model.dpth is not a setting"),
        (["--x", "depth", "--color", "depth"], "only one of --x, --color and --facet"),
        (["--y", "eval_acuracy"], "--y: eval_acuracy is no number of a run; did you mean eval_acc"),
        (["--kind", "curves", "--y", "train_los"], "--y: no run recorded the metric train_los;"),
        (["--kind", "profile", "--y", "signal_gard"], "--y: there is no gauge signal_gard;"),
        (["--kind", "profile", "--y", "dead"], "measure=full records it"),
        (
            ["--kind", "profile", "--steps", "17"],
            "--steps: step 17 was not measured; the nearest",
        ),
        (["--kind", "profile", "--steps", "end"], "first, last or the number of a step"),
        (["--kind", "phase"], "two settings of numbers"),
        (["--log", "z"], "--log must be one of x, y, xy, none"),
        (["--out", "figure.jpg"], "--out must end in .png, .svg, .pdf"),
        (["--out", "figure.docx"], "--out must end in .png, .svg, .pdf"),
        (["--out", "figure.txt"], "--out must end in .png, .svg, .pdf"),
        (["--colour", "skip"], "--colour is no option of fathom plot"),
        (
            ["--kind", "heatmap", "--x", "depth"],
            "--x has no effect on --kind heatmap, only on line",
        ),
        (["--kind", "profile", "--x", "depth"], "--x has no effect on --kind profile"),
        (["--x", "depth", "--steps", "1"], "--x has no effect on --kind profile"),
        (
            ["--kind", "line", "--steps", "1"],
            "--steps has no effect on --kind line, only on profile",
        ),
        (
            ["--kind", "heatmap", "--log", "x"],
            "--log x has no effect on --kind heatmap, only on line and curves and phase, got x",
        ),
        (["--kind", "profile", "--log", "xy"], "--log x has no effect on --kind profile"),
        (
            ["--kind", "line", "--x", "skip", "--log", "x"],
            "--log x has no effect, because skip stays linear",
        ),
        (
            ["--kind", "heatmap", "--y", "grad_norm", "--color", "signal_grad"],
            "--y and --color both name the gauge of a heatmap, got grad_norm and signal_grad",
        ),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_with_the_nearest_name(fathom, sweep, words, part):
    said = fathom("plot", *words)

    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert part in said.err
    assert not list(sweep.glob("**/*.png"))


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (["plot", "--kind", "curves"], "metrics"),
        (["report"], "metrics"),
        (["plot", "--kind", "profile", "--y", "signal_grad"], "profiles"),
        pytest.param(
            ["compare", "depth=4", "depth=16", "--out", "both"], "metrics", marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_a_damaged_table_leaves_out_its_run(fathom, outputs, words, table):
    for depth in (4, 16):
        for seed in (0, 1):
            settings = {"model.depth": depth, "seed": seed}
            directory = outputs / f"depth={depth},seed={seed}"
            final = {"eval_accuracy": 0.5}
            write_run(directory, settings, final=final, signal=np.ones((1, depth + 1)))
    with (directory / f"{table}.parquet").open("r+b") as file:
        file.truncate(300)

    said = fathom(*words)

    assert said.code == 0, said.err
    assert said.err.count("\n") == 1
    assert f"left out: the {table} of outputs/depth=16,seed=1 are damaged" in said.err


@pytest.mark.parametrize("words", [["plot", "--kind", "curves"], ["report"]], ids=str)
def test_a_lost_table_leaves_out_its_run(fathom, outputs, words):
    for seed in (0, 1):
        write_run(outputs / f"seed={seed}", {"seed": seed}, final={"eval_accuracy": 0.5})
    (outputs / "seed=1" / "metrics.parquet").unlink()

    said = fathom(*words)

    assert said.code == 0, said.err
    assert said.err.startswith("fathom: left out: outputs/seed=1/metrics.parquet is missing: ")
    assert said.err.count("\n") == 1


def test_a_figure_of_damaged_tables_alone_is_refused_in_one_line(fathom, outputs):
    write_run(outputs / "a", signal=np.ones((1, 5)))
    (outputs / "a" / "metrics.parquet").write_bytes(b"PAR1")

    said = fathom("plot", "--kind", "curves")

    assert said.code == 2
    assert said.err == (
        "fathom: the metrics of outputs/a are damaged: remove that directory and train the run "
        "again\n"
    )


def test_runs_that_measured_nothing_have_no_profile(fathom, outputs):
    write_run(outputs / "a")

    said = fathom("plot", "--kind", "profile")

    assert said.code == 2
    assert "no run measured its layers" in said.err


# Axes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4, 16, 64], True),
        ([0.001, 0.003, 0.01], True),
        ([1, 2, 3, 4], False),
        ([5, 10, 20, 40], True),
        ([0, 1, 10], False),
        ([0.5, 1.0, 2.0], False),
        ([1], False),
        ([1, 100], True),
    ],
)
def test_settings_in_geometric_steps_have_a_logarithmic_axis(values, expected):
    assert is_geometric(values) == expected


def test_numbers_over_decades_are_logarithmic():
    assert is_logarithmic([1, 100, np.nan])
    assert not is_logarithmic([1, 10])
    assert not is_logarithmic([0, 100])
    assert not is_logarithmic([])


def test_ticks_that_would_overlap_are_left_out():
    assert thinned([1, 2, 4, 8], is_log=True) == [1, 2, 4, 8]
    assert thinned([0, 0.01, 0.02, 1.0], is_log=False) == [0, 1.0]
