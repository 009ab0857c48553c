"""``fathom plot`` without options: what it draws, so that a reader concludes what is true."""

import json

import numpy as np
import pytest

from research.reporting.layout import Layout, arm_titles, choose_layout, split_arms
from research.reporting.plots.arrangement import PlotOptions, SeriesStyles, thinned
from research.reporting.plots.draw import choose_kind, draw_runs
from research.reporting.quantities import usual_quantity
from research.reporting.selection import select_runs

from .conftest import write_run, write_table
from .recorded import record_run


def draw(runs, **options):
    return draw_runs(runs, PlotOptions(**options))


def write_runs(directory, settings, path, values, **record):
    """One run for each value of a setting, as an arm of a sweep: all its settings were written."""
    runs = []
    for value in values:
        every_setting = {**settings, path: value}
        name = ",".join(f"{key}={each}" for key, each in every_setting.items())
        run = write_run(directory / name, every_setting, **record)
        written = [f"{key.removesuffix('.kind')}={each}" for key, each in every_setting.items()]
        (run.directory / ".hydra" / "overrides.yaml").write_text(json.dumps(written))
        runs.append(run)
    return runs


def accuracy(value):
    """The final numbers of a run."""
    return {"eval_accuracy": value}


def titles_of(drawing):
    return [axes.get_title() for axes in drawing.figure.axes]


def legend_of(drawing):
    (legend,) = drawing.figure.legends
    return [text.get_text() for text in legend.get_texts()]


def lines_through(axes, number):
    """The heights of the lines with so many points."""
    heights = [np.asarray(line.get_ydata()) for line in axes.lines]
    return [of_line for of_line in heights if len(of_line) == number]


# Which runs are drawn together


RATES = (0.01, 0.03, 0.1)


def test_few_runs_of_a_single_step_are_left_out_beside_trained_ones(outputs):
    write_runs(outputs, {"seed": 0}, "optimizer.learning_rate", RATES, final=accuracy(0.9))
    write_runs(outputs, {"seed": 0, "model.depth": 8}, "optimizer.learning_rate", [0.0], steps=1)

    drawing = draw(select_runs([]))

    (axes,) = drawing.figure.axes
    assert max(axes.get_xticks()) == 0.1
    assert min(axes.get_xticks()) == 0.01
    assert drawing.notes[-1] == "not drawn: 1 run of a single step"


@pytest.fixture
def unlike_arms(outputs):
    """Two arms that vary ε: long trainings of sigmoid networks, and short ones of tanh networks."""
    deep = {"activation.kind": "sigmoid", "model.depth": 12}
    write_runs(outputs, deep, "optimizer.epsilon", (1e-15, 1e-8, 1e-6), final=accuracy(0.5))
    short = {"activation.kind": "tanh", "train.steps": 11}
    write_runs(
        outputs, short, "optimizer.epsilon", (3e-3, 1e-2, 3e-2), steps=11, final=accuracy(0.1)
    )


def test_a_line_never_joins_arms_that_differ_in_more_than_its_setting(unlike_arms):
    drawing = draw(select_runs([]))

    titles = [title.replace("\N{NO-BREAK SPACE}", " ") for title in titles_of(drawing)]
    assert sorted(titles) == ["activation sigmoid, 20 steps", "activation tanh, 11 steps"]
    assert all(axes.get_xlabel() == "epsilon" for axes in drawing.figure.axes)


def test_arms_without_a_setting_of_their_own_are_side_by_side(outputs):
    flat = {"final": accuracy(0.5)}
    write_runs(outputs, {"skip.kind": "identity"}, "seed", range(3), **flat)
    write_runs(outputs, {"norm.kind": "batch"}, "seed", range(3), **flat)
    widths = {"model.depth": 5, "train.steps": 9}
    write_runs(outputs, widths, "model.width", (8, 16, 32), **flat)
    short = {"model.depth": 6, "train.batch_size": 9}
    write_runs(outputs, short, "model.width", (8, 16, 32), **flat)

    drawing = draw(select_runs([]))

    labels = [axes.get_xlabel() for axes in drawing.figure.axes]
    assert sorted(labels) == ["", "width (units)", "width (units)"]
    (flat_panel,) = [axes for axes in drawing.figure.axes if not axes.get_xlabel()]
    labels = [label.get_text() for label in flat_panel.get_xticklabels()]
    names = [label.replace("\n", " ") for label in labels]
    assert sorted(names) == ["norm batch", "skip identity"]


def test_the_title_of_an_arm_names_the_network_before_numbers_and_records(outputs):
    few = {"data.limit": 1, "measure.inspect": ["parameters"], "init.kind": "lecun"}
    write_runs(outputs, few, "seed", range(2))
    write_runs(outputs, {"model.depth": 200}, "seed", range(2))

    titles = arm_titles(split_arms(select_runs([])))

    assert sorted(titles) == ["init he", "init lecun"]


def test_a_setting_that_varies_along_a_line_has_colours(outputs):
    for optimizer, size, rates in (
        ("gd", 128, RATES),
        ("sgd", 1, (0.01, 0.1)),
        ("sgd", 32, (0.03, 0.3)),
    ):
        settings = {"optimizer.kind": optimizer, "train.batch_size": size}
        write_runs(outputs, settings, "optimizer.learning_rate", rates)

    layout = choose_layout(select_runs([]))

    assert layout.x == "optimizer.learning_rate"
    assert layout.colors == ("optimizer.kind", "train.batch_size")


def test_a_setting_that_follows_from_the_axis_alone_has_no_colours(outputs):
    for depth in (4, 16, 64):
        settings = {"train.steps": 10 * depth, "model.depth": depth}
        write_runs(outputs, settings, "skip.kind", ("none", "identity"))

    layout = choose_layout(select_runs([]))

    assert layout == Layout("model.depth", ("skip.kind",))


def test_panels_are_for_settings_of_which_every_value_has_several_lines(outputs):
    for skip, placement in (("identity", "pre"), ("identity", "post"), ("deepnorm", "post")):
        settings = {"skip.kind": skip, "norm.placement": placement}
        write_runs(outputs, settings, "model.depth", (2, 4, 8))

    layout = choose_layout(select_runs([]))

    assert layout.facet == ""
    assert layout.colors == ("skip.kind", "norm.placement")


def test_a_legend_names_what_else_sets_one_series_apart(outputs):
    for depth in (25, 50, 100, 400):
        activation = "tanh" if depth == 400 else "relu"
        settings = {"model.depth": depth, "activation.kind": activation}
        scales = (0.1, 0.2, 0.4, 0.7, 1.0) if depth < 400 else (0.5, 1.0)
        write_runs(outputs, settings, "skip.branch_scale", scales)

    drawing = draw(select_runs([]), kind="line", y="steps")

    assert legend_of(drawing) == ["25", "50", "100", "400, tanh"]


def test_a_phase_diagram_needs_a_filled_grid_in_each_panel(outputs):
    numbers = (0.5, 1.0, 1.5, 2.0)
    for sigma in numbers:
        for skip in ("none", "identity"):
            depths = (2, 4, 8, 16) if skip == "none" else (2,)
            settings = {"init.sigma_w": sigma, "skip.kind": skip}
            write_runs(outputs, settings, "model.depth", depths)

    assert choose_kind(select_runs(["skip=none"]), PlotOptions()) == "phase"
    assert choose_kind(select_runs([]), PlotOptions()) == "line"


# Which number is drawn


def write_inspected(directory, depth, *, name, values, inspection, **record):
    """A run that inspected a number at some steps."""
    settings = {"model.depth": depth, "measure.inspect": [inspection]}
    run = write_run(directory, settings, **record)
    steps = np.arange(len(values))
    write_table(run.directory, "inspections", {"step": steps, name: values})
    return run


def test_runs_of_a_single_step_show_what_they_inspected_and_never_their_accuracy(outputs):
    for depth in (2, 4, 8):
        write_inspected(
            outputs / str(depth),
            depth,
            name="mode_error",
            values=[1e-15],
            inspection="difference_errors",
            steps=1,
            final=accuracy(0.1),
        )

    drawing = draw(select_runs([]))

    (axes,) = drawing.figure.axes
    assert axes.get_ylabel() == "mode error"
    meaning = "mode error: relative difference between derivatives in forward and in reverse mode"
    assert drawing.notes[-1].startswith(meaning)


def test_of_what_was_inspected_in_each_layer_a_line_shows_the_first_one(outputs):
    for depth in (2, 4, 8):
        write_inspected(
            outputs / str(depth),
            depth,
            name="gradient_correlation",
            values=np.linspace(1 / depth, 1, depth + 1)[None],
            inspection="gradient_correlation",
            steps=1,
            final=accuracy(0.1),
        )
    runs = select_runs([])

    quantity = usual_quantity(runs)

    assert quantity.label == "gradient correlation, first layer"
    values = {quantity.value(run) for run in runs}
    assert values == {1 / 8, 1 / 4, 1 / 2}


def test_without_anything_else_runs_of_a_single_step_show_their_loss(outputs):
    final = {"eval_accuracy": 0.1, "train_loss": 2.3}
    write_runs(outputs, {}, "model.depth", (2, 4), steps=1, final=final)

    assert usual_quantity(select_runs([])).name == "train_loss"


def test_a_run_that_diverged_at_once_was_to_be_trained(outputs):
    settings = {"train.steps": 50}
    trained = {"seed": 0, **settings}
    write_runs(outputs, trained, "model.depth", (2, 4, 8), final=accuracy(0.5))
    cut_off = {"seed": 1, **settings}
    write_runs(outputs, cut_off, "model.depth", (2, 4), status="diverged", steps=1)

    assert usual_quantity(select_runs([])).name == "eval_accuracy"


def test_a_number_inspected_over_steps_has_a_panel_with_its_theory(outputs):
    for rate in (0.1, 0.2, 0.4):
        settings = {
            "optimizer.learning_rate": rate,
            "optimizer.kind": "gd",
            "measure.inspect": ["sharpness"],
        }
        run = write_run(outputs / str(rate), settings, final=accuracy(0.9))
        columns = {"step": [0, 5, 10], "sharpness": [1.0, 2.0, 2 / rate]}
        bounds = {"sharpness_bound": [0.1, 0.1, 0.1]}
        write_table(run.directory, "inspections", columns | bounds)

    drawing = draw(select_runs([]))

    first, second = drawing.figure.axes
    assert first.get_ylabel() == "eval accuracy"
    assert second.get_ylabel() == "sharpness"
    (edge,) = [line for line in second.lines if line.get_linestyle() == "--"]
    heights = np.asarray(edge.get_ydata())
    np.testing.assert_allclose(heights, [20, 10, 5])
    assert legend_of(drawing) == ["edge of stability"]


def test_what_was_inspected_in_each_layer_over_steps_is_a_profile(outputs):
    for seed in range(2):
        settings = {"seed": seed, "model.depth": 3, "measure.inspect": ["probes"]}
        run = write_run(outputs / str(seed), settings, final=accuracy(0.9))
        errors = np.linspace(0.5, 0.2, 8).reshape(2, 4)
        write_table(run.directory, "inspections", {"step": [0, 19], "probe_error": errors})
    write_run(outputs / "cnn", {"model.kind": "cnn", "model.depth": 3}, final=accuracy(0.9))

    drawing = draw(select_runs([]))

    assert titles_of(drawing) == ["step 0", "step 19"]
    assert drawing.figure.axes[0].get_ylabel() == "probe error"
    assert not drawing.figure.legends
    assert "not drawn: 1 that did not measure it" in drawing.notes


def test_curves_leave_out_a_single_step_and_show_held_out_data_beside(outputs):
    loss = np.linspace(2, 1, 20)
    for noise in (0.0, 1.0):
        run = write_run(outputs / str(noise), {"data.label_noise": noise})
        columns = {"step": np.arange(20), "train_loss": loss, "eval_loss": loss + 1}
        write_table(run.directory, "metrics", columns)
    write_runs(outputs, {"activation.kind": "linear"}, "seed", [0], steps=1)

    drawing = draw(select_runs([]))

    labels = [axes.get_ylabel() for axes in drawing.figure.axes]
    assert labels == ["train loss (nats)", "eval loss (nats)"]
    for curve in lines_through(drawing.figure.axes[1], 20):
        np.testing.assert_allclose(curve, loss + 1)
    assert legend_of(drawing) == ["0.0", "1.0"]
    assert "not drawn: 1 run of a single step" in drawing.notes


# How it is drawn


def test_seeds_are_drawn_where_the_interval_of_an_accuracy_says_nothing(outputs):
    values = {2: (0.9, 0.91, 0.92), 4: (0.1, 0.5, 0.95)}
    for depth, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            settings = {"model.depth": depth, "seed": seed}
            write_run(outputs / f"{depth} {seed}", settings, final=accuracy(value))

    drawing = draw(select_runs([]), kind="line")

    (axes,) = drawing.figure.axes
    (seeds,) = lines_through(axes, 3)
    assert sorted(seeds.tolist()) == [0.1, 0.5, 0.95]
    assert "short bars: single seeds, where the interval says little" in drawing.notes


def test_the_profile_of_a_run_that_did_not_end_is_that_of_its_first_step(outputs):
    record_run(outputs / "a", status="interrupted")

    drawing = draw(select_runs([]), kind="profile")

    (first,) = drawing.figure.axes
    assert len(first.lines) == 1


def test_a_panel_in_which_no_run_is_averaged_stays_empty(outputs):
    record_run(outputs / "a", status="interrupted")
    record_run(outputs / "b", {"model.width": 8})

    drawing = draw(select_runs([]), kind="profile", facet="model.width")

    num_lines = sorted(len(panel.lines) for panel in drawing.figure.axes)
    assert num_lines == [0, 1, 1, 1]


def test_an_axis_of_accuracies_ends_at_one(outputs):
    write_runs(outputs, {}, "model.depth", (2, 4, 8), final=accuracy(0.97))
    write_run(outputs / "none", {"model.depth": 16}, status="diverged")

    drawing = draw(select_runs([]), kind="line", y="eval_accuracy")

    (axes,) = drawing.figure.axes
    drawing.figure.draw_without_rendering()
    assert max(axes.get_yticks()) == pytest.approx(1.0)
    assert axes.get_ylim()[0] == 0.0  # a cross at the foot of a panel is no accuracy


def test_a_loss_over_decades_has_the_geometric_mean(outputs):
    losses = {2: (1.0, 1.0), 4: (1e-4, 1e-2), 8: (1e-6, 1e-4)}
    for depth, of_seeds in losses.items():
        for seed, loss in enumerate(of_seeds):
            settings = {"model.depth": depth, "seed": seed}
            write_run(outputs / f"{depth} {seed}", settings, final={"train_loss": loss})

    logarithmic = draw(select_runs([]), kind="line", y="train_loss")
    linear = draw(select_runs([]), kind="line", y="train_loss", log="none")

    (mean,) = lines_through(logarithmic.figure.axes[0], 3)
    np.testing.assert_allclose(mean, [1.0, 1e-3, 1e-5])
    assert any(note.startswith("geometric mean over 2 seeds") for note in logarithmic.notes)
    (mean,) = lines_through(linear.figure.axes[0], 3)
    np.testing.assert_allclose(mean, [1.0, 5.05e-3, 5.05e-5])


def test_a_line_does_not_join_numbers_that_are_almost_the_same(outputs):
    scales = (1.0, 1.001, 8.0, 8.008, 64.0)
    write_runs(outputs, {}, "skip.branch_scale", scales, final=accuracy(0.5))

    drawing = draw(select_runs([]), kind="line")

    (axes,) = drawing.figure.axes
    assert not lines_through(axes, len(scales))
    assert axes.get_xticks().tolist() == [1.0, 8.0, 64.0]


def test_predictions_above_names_are_not_joined(outputs):
    verdict = {"theory": 0.5, "initial": {"factor_per_layer": 0.5}}
    write_runs(outputs, {}, "activation.kind", ("relu", "tanh"), verdict=verdict, steps=1)

    drawing = draw(select_runs([]), kind="line", y="initial_factor", x="activation")

    (axes,) = drawing.figure.axes
    dashes = [line for line in axes.lines if line.get_linestyle() == "--"]
    middles = [np.mean(np.asarray(dash.get_xdata())) for dash in dashes]
    assert middles == [0, 1]


def test_the_ends_of_an_axis_keep_their_ticks():
    ticks = [1, 10, 100, 1000, 10000, 100000]
    assert thinned(ticks, is_log=True) == [1, 10, 100, 1000, 100000]


def test_runs_of_a_random_design_are_not_joined(outputs):
    for gain, rate in ((0.5, 0.01), (2.0, 0.02), (1.0, 0.04), (3.0, 0.1)):
        settings = {"init.gain": gain}
        write_runs(outputs, settings, "optimizer.learning_rate", [rate], final=accuracy(0.5))

    drawing = draw(select_runs([]), kind="line", x="optimizer.learning_rate")

    (axes,) = drawing.figure.axes
    assert not lines_through(axes, 4)


def test_runs_with_a_seed_and_a_value_of_their_own_are_not_joined(outputs):
    for seed, rate in enumerate((0.001, 0.03, 0.3)):
        settings = {"optimizer.learning_rate": rate, "seed": seed}
        write_run(outputs / str(seed), settings, final=accuracy(0.5))

    drawing = draw(select_runs([]))

    assert not lines_through(drawing.figure.axes[0], 3)


def test_errors_that_are_exactly_zero_are_drawn_by_seed(outputs):
    values = {2: (1e-7, 1e-6, 0.0), 4: (1e-9, 2e-9, 3e-9)}
    for depth, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            settings = {"model.depth": depth, "seed": seed}
            write_run(outputs / f"{depth} {seed}", settings, final={"eval_loss": value})

    drawing = draw(select_runs([]), kind="line", y="eval_loss")

    (seeds,) = lines_through(drawing.figure.axes[0], 3)
    assert sorted(seeds.tolist()) == [0.0, 1e-7, 1e-6]


def test_a_legend_leaves_out_what_was_recorded_where_the_network_says_enough(outputs):
    unlike = {"model.depth": 1, "activation.kind": "tanh", "measure.inspect": ["sharpness"]}
    write_run(outputs / "usual", {})
    write_run(outputs / "deep", {"model.depth": 8})
    write_run(outputs / "usual too", {"measure.inspect": ["weights"]})
    write_run(outputs / "unlike", unlike)
    layout = Layout(colors=("model.depth", "activation.kind", "measure.inspect"))

    styles = SeriesStyles(select_runs([]), layout)

    entries = [handle.get_label() for handle in styles.handles(has_markers=False)]
    assert "depth 1, tanh" in entries


def test_more_arms_than_panels_have_a_row_each(outputs):
    for number in range(13):
        settings = {"optimizer.learning_rate": 0.01 * (number + 1), "data.limit": number + 10}
        words = [f"data.limit={number + 10}", f"extra{number}=1"]
        for seed in range(2):
            run = write_run(
                outputs / f"{number} {seed}",
                {**settings, "seed": seed},
                final=accuracy(0.01 * number),
                status="diverged" if number == 12 else "done",
            )
            (run.directory / ".hydra" / "overrides.yaml").write_text(json.dumps(words))

    drawing = draw(select_runs([]), kind="line")

    (axes,) = drawing.figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "learning rate 0.13 (2)"  # without an accuracy: at the bottom
    assert names[-1] == "learning rate 0.12 (2)"
    assert "×: arms with runs without a value, 2 in all" in drawing.notes


def test_the_name_of_a_sweep_does_not_stand_for_another_that_contains_it(outputs):
    write_run(outputs / "edge" / "a")
    write_run(outputs / "adaptive_edge" / "a")

    (run,) = select_runs(["edge"])

    assert run.directory.parent.name == "edge"
    assert len(select_runs(["edg"])) == 2


def test_curves_show_a_number_that_was_inspected_over_steps_with_its_theory(outputs):
    for rate in (0.1, 0.2):
        settings = {
            "optimizer.learning_rate": rate,
            "optimizer.kind": "gd",
            "measure.inspect": ["sharpness"],
        }
        run = write_run(outputs / str(rate), settings)
        columns = {"step": [0, 10, 19], "sharpness": [1.0, 2.0, 3.0]}
        write_table(run.directory, "inspections", columns)

    drawing = draw(select_runs([]))

    loss, sharpness = drawing.figure.axes
    assert loss.get_ylabel() == "train loss (nats)"
    edges = [line for line in sharpness.lines if line.get_linestyle() == "--"]
    heights = [np.asarray(edge.get_ydata()).tolist() for edge in edges]
    assert heights == [[20, 20], [10, 10]]
    assert "level lines: edge of stability" in drawing.notes


def test_there_is_no_edge_of_stability_where_the_learning_rate_changes(outputs):
    settings = {
        "optimizer.learning_rate": 0.1,
        "optimizer.kind": "gd",
        "optimizer.schedule": "cosine",
        "measure.inspect": ["sharpness"],
    }
    run = write_run(outputs / "a", settings)
    write_table(run.directory, "inspections", {"step": [0, 10, 19], "sharpness": [1.0, 2.0, 3.0]})

    drawing = draw(select_runs([]), kind="curves")

    _, sharpness = drawing.figure.axes
    assert not [line for line in sharpness.lines if line.get_linestyle() == "--"]
    assert not any("edge of stability" in note for note in drawing.notes)


def test_the_mean_of_factors_in_a_row_is_the_geometric_one(outputs):
    for number in range(13):
        settings = {"optimizer.learning_rate": 0.01 * (number + 1), "data.limit": number + 10}
        words = [f"data.limit={number + 10}", f"extra{number}=1"]
        for seed, factor in enumerate((0.1, 10.0)):
            run = write_run(
                outputs / f"{number} {seed}",
                {**settings, "seed": seed, "train.steps": 1},
                verdict={"initial": {"factor_per_layer": factor * (1 + number)}},
                steps=1,
            )
            (run.directory / ".hydra" / "overrides.yaml").write_text(json.dumps(words))

    drawing = draw(select_runs([]), kind="line")

    (axes,) = drawing.figure.axes
    means = [np.asarray(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
    np.testing.assert_allclose(np.concatenate(means), np.arange(1, 14))
    assert "dots: single runs; black: their geometric mean" in drawing.notes
