"""The performance table: what it says of given numbers. Speed itself is measured by the command, never by a test."""

import functools
import io

import numpy as np
import pytest
from rich.console import Console

from research.benchmark import rows, table
from research.benchmark.table import ROWS, Measured
from research.cli import main as cli


def silent(done, total):
    pass


def within(name):
    row = ROWS[name]
    return Measured(row.budget * (1.2 if row.bound == "≥" else 0.8), "as hoped")


def beyond(name):
    row = ROWS[name]
    return Measured(row.budget * (0.8 if row.bound == "≥" else 1.2), "alas")


@pytest.fixture
def measures(monkeypatch, tmp_path):
    """Rows that all hold without measuring, in a checkout of their own; what is changed in it is what rows say."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "folder", lambda name: tmp_path / name)
    seen = {name: within(name) for name in ROWS}

    def measure(tick, name):
        tick(1, 1)
        return seen[name]

    monkeypatch.setattr(
        rows, "MEASURES", {name: functools.partial(measure, name=name) for name in ROWS}
    )
    return seen


def printed(measured):
    out = io.StringIO()
    Console(file=out, width=200).print(table.table(measured))
    return out.getvalue()


def test_every_row_has_a_way_to_be_measured_and_every_way_a_row():
    assert list(rows.MEASURES) == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_a_comparison_with_a_bound_or_for_information(name):
    row = ROWS[name]
    assert row.compares
    assert row.bound in ("≤", "≥") if row.budget else row.bound == ""


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].bound])
def test_a_budget_holds_on_its_own_side_only(name):
    assert table.holds(name, within(name)) is True
    assert table.holds(name, Measured(ROWS[name].budget, "exactly")) is True
    assert table.holds(name, beyond(name)) is False


def test_what_has_no_budget_or_was_not_measured_neither_holds_nor_fails():
    assert table.holds("torch_bare", Measured(0.1, "")) is None
    assert table.holds("torch", Measured(None, "absent")) is None


def test_the_table_says_row_number_budget_and_verdict():
    lines = printed(
        {"gauges": Measured(1.23, "a [1.2 to 1.3]"), "help": Measured(0.5, "b")}
    ).splitlines()
    assert lines[0].split() == ["row", "compared", "measured", "budget", "holds", "this", "run"]
    assert (
        "1.23×" in lines[1]
        and "≤ 1.10×" in lines[1]
        and "NO" in lines[1]
        and "a [1.2 to 1.3]" in lines[1]
    )
    assert "0.50 s" in lines[2] and "≤ 0.70 s" in lines[2] and "yes" in lines[2]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [("gauges", 1.1001, "1.11×"), ("gauges", 1.1, "1.10×"), ("torch", 5.999, "5.99×")]
    + [("data_stream", 2264.9, "2,260 a second")],
)
def test_a_number_never_looks_as_if_it_held_where_it_does_not(name, value, shown):
    assert table.cells(name, Measured(value, ""))[2] == shown


def test_the_page_holds_every_row_the_command_and_the_machine():
    page = table.markdown({name: within(name) for name in ROWS}, "fathom bench")
    for name in ROWS:
        assert f"| {name} | {ROWS[name].compares} | " in page
    assert "- command: `fathom bench`" in page
    assert "- processor: " in page and " cores, " in page
    assert "jax " in page and "flax " in page


def test_all_rows_are_printed_and_written(measures, tmp_path, capsys):
    assert cli.run(["bench"]) == 0
    page = (tmp_path / "experiments" / "benchmark" / "README.md").read_text()
    told = capsys.readouterr()
    assert all(name in page and name in told.out for name in ROWS)
    assert "README.md" in told.out
    assert "help" in told.err  # progress


def test_some_rows_are_printed_and_nothing_is_written(measures, tmp_path, capsys):
    assert cli.run(["bench", "help", "gauges"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "row",
        "gauges",
        "help",
    ]
    assert not list((tmp_path / "experiments").iterdir())


def test_where_the_checkout_cannot_be_written_the_page_goes_to_outputs(measures, tmp_path, capsys):
    (tmp_path / "experiments" / "benchmark").write_text("in the way")
    assert cli.run(["bench"]) == 0
    assert "written: outputs/benchmark.md" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "benchmark.md").exists()


def test_an_installed_package_is_not_written_into(measures, tmp_path, capsys):
    (tmp_path / "pyproject.toml").unlink()
    assert cli.run(["bench"]) == 0
    assert not list((tmp_path / "experiments").iterdir())
    assert (tmp_path / "outputs" / "benchmark.md").exists()


def test_one_budget_that_does_not_hold_is_exit_code_1(measures):
    measures["blas"] = beyond("blas")
    assert cli.run(["bench", "gauges", "blas"]) == 1
    assert cli.run(["bench", "gauges"]) == 0


def test_an_unknown_row_is_one_line_with_the_nearest_name(measures, capsys):
    assert cli.run(["bench", "gauges", "guages_skip"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "guages_skip" in said and "did you mean gauges_skip?" in said


def test_without_pytorch_its_rows_say_how_to_get_it_and_do_not_fail(monkeypatch):
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda name: None)
    seen = rows.MEASURES["torch"](silent)
    assert seen == Measured(None, "not measured: pip install 'fathom-gradients[bench]'")
    assert table.cells("torch", seen)[2:5] == ("–", "≥ 6.00×", "–")


def test_a_ratio_is_the_median_over_pairs_so_that_a_slow_moment_bears_on_both_sides():
    pairs = [(2.0, 1.0), (2.2, 1.0), (200.0, 100.0), (2.1, 1.0), (1.9, 1.0)]
    seen = table.ratio(pairs, ", noted")
    assert seen.value == pytest.approx(2.0)
    assert seen.note == "2.10 s / 1.00 s [2.00 to 2.10], noted"


def test_two_things_are_timed_in_turns_each_going_first_as_often():
    order = []
    ticks = []

    def clock(name, seconds):
        return lambda: order.append(name) or seconds

    seen = table.side_by_side(
        clock("a", 3.0), clock("b", 2.0), 4, lambda done, total: ticks.append((done, total))
    )
    assert seen.value == pytest.approx(1.5)
    assert "".join(order) in ("abbaabba", "baabbaab")
    assert ticks == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_matrix_products_are_those_of_the_network():
    products = rows.Products(5, 8, 3, depth=2, batch=4)
    products.time()
    assert [w.shape for _, w, _ in products.layers] == [(5, 8), (8, 8), (8, 8), (8, 3)]
    for n, ((x, w, g), (of_x, of_w, out)) in enumerate(
        zip(products.layers, products.results, strict=True)
    ):
        np.testing.assert_allclose(out, x @ w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(of_w, x.T @ g, rtol=1e-4, atol=1e-5)
        if n:
            np.testing.assert_allclose(of_x, g @ w.T, rtol=1e-4, atol=1e-5)


# Biases away from zero, so that one that is left out of a copy or of a layer's norm shows.
SMALL = (
    "data=noise",
    "model.depth=4",
    "model.width=16",
    "init=gaussian",
    "init.sigma_w=1.4",
    "init.sigma_b=0.3",
)


@pytest.mark.parametrize("style", ["hooks", "tuned"])
def test_pytorch_and_we_measure_the_same_numbers_from_the_same_weights(style):
    pytest.importorskip("torch")
    from research.benchmark.eager import disagreement

    assert disagreement(style, *SMALL) < 1e-4


@pytest.mark.parametrize("style", ["hooks", "tuned"])
def test_so_they_do_on_a_residual_network(style):
    pytest.importorskip("torch")
    from research.benchmark.eager import disagreement

    small = (
        "model=resnet_cifar",
        "model.depth=14",
        "model.width=4",
        "data=noise",
        "data.shape=[9,9,2]",
    )
    assert disagreement(style, *small) < 1e-3  # batch norm divides by small deviations


@pytest.mark.parametrize("style", ["hooks", "tuned"])
def test_pytorch_trains_as_we_do(style):
    pytest.importorskip("torch")
    from research.benchmark.eager import EagerSteps

    steps = rows.Steps(*SMALL, "measure=norms", "train.batch_size=128", "data.limit=128")
    trained = steps.program.chunk(
        steps.initial(), steps.job.hp, steps.job.data, np.int32(0), np.int32(8)
    )[1]
    eager = EagerSteps(steps.job, steps.initial().params, style=style)
    trainer = eager.trainer()
    for _ in range(8):  # the training set is one batch, whose order does not matter
        trainer.step(eager.x, eager.y)
    assert trainer.last()["train_loss"] == pytest.approx(
        float(trained["train_loss"][0, 7]), rel=1e-4
    )
    np.testing.assert_allclose(
        trainer.last()["signal_grad"], trained["profile"]["signal_grad"][0, 7], rtol=1e-3
    )
