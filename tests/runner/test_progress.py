"""The time that is left is estimated from the training so far, without the time to compile."""

import sys

import pytest
from rich.console import Console

from research.runner import progress
from research.runner.bars import TerminalBar
from research.runner.progress import Progress, TrainingTime


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_compiling_is_not_part_of_the_estimate(clock, capsys):
    shown = Progress()
    shown.start_runs("run")
    clock.now = 60.0  # compiled
    shown.step(1, 1000)
    assert "left" not in capsys.readouterr().err
    clock.now = 72.0
    shown.step(401, 1000)
    assert last_line(capsys).endswith("run: step 401/1000    about 18 s left")


def test_there_is_no_estimate_before_it_means_something(clock, capsys):
    shown = Progress()
    shown.start_runs("run")
    clock.now = 60.0
    shown.step(1, 1000)
    clock.now = 61.0  # too short
    shown.last_line = -100.0
    shown.step(500, 1000)
    assert "left" not in last_line(capsys)
    shown = Progress()
    shown.start_runs("run")
    shown.step(1, 1000)
    clock.now += 100.0  # too little
    shown.step(2, 1000)
    assert "left" not in last_line(capsys)


def test_the_last_step_has_no_time_left(clock, capsys):
    shown = Progress()
    shown.start_runs("run")
    shown.step(1, 10)
    clock.now = 30.0
    shown.step(10, 10)
    assert last_line(capsys) == "run: step 10/10"


def test_a_sweep_leaves_out_the_compiling_of_every_group():
    training_time = TrainingTime()
    now = 0.0
    for _ in range(2):
        training_time.start_group()
        now += 100.0  # compiles
        training_time.report(now, 0.0)
        now += 10.0
        training_time.report(now, 2.0)
    assert training_time.seconds_left(6.0) == pytest.approx(30.0)


def test_a_resumed_run_counts_only_what_it_trains_now(clock, capsys):
    shown = Progress()
    shown.start_runs("run")
    shown.resume(800, 1000)
    clock.now = 50.0
    shown.step(801, 1000)
    clock.now = 70.0
    shown.step(901, 1000)
    assert last_line(capsys).endswith("about 20 s left")


def test_a_log_that_cannot_be_written_does_not_end_the_run(clock, monkeypatch):
    lines = []

    def fail(line, **_):
        lines.append(line)
        raise OSError(28, "No space left on device")

    shown = Progress()
    shown.start_runs("run")
    monkeypatch.setattr("builtins.print", fail)
    shown.step(10, 10)
    assert lines == ["run: step 10/10"]


def test_a_suggestion_is_made_once_and_only_if_the_wait_is_long(clock, capsys):
    shown = Progress()
    shown.suggest("use all cores")
    shown.start_runs("run")
    shown.step(1, 1000)
    clock.now = 3.0
    shown.step(101, 1000)  # about 27 s left
    assert "use all cores" not in capsys.readouterr().err
    clock.now = 30.0
    shown.step(200, 1000)  # about 120 s left
    clock.now = 50.0
    shown.step(300, 1000)
    assert capsys.readouterr().err.count("use all cores\n") == 1


class Notebook:
    """Stands in for IPython in the kernel of a notebook; keeps what is shown below the cell."""

    def __init__(self):
        self.shown = []
        self.kernel = "a kernel"

    def get_ipython(self):
        return self

    def HTML(self, text):
        return text

    def display(self, content, display_id):
        assert display_id
        self.update(content)
        return self

    def update(self, content):
        self.shown.append(content)


@pytest.fixture
def notebook(monkeypatch):
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    return notebook


def test_a_notebook_has_a_bar_below_the_cell_and_no_lines(clock, notebook, capsys):
    with Progress(4) as shown:
        clock.now = 1.0
        shown.start_runs("skip=<none>", 2)
        clock.now = 2.0
        shown.step(50, 100, train_loss=0.5)

    bar = notebook.shown[-2]
    assert '<progress max="4" value="1.000">' in bar
    assert "25 %" in bar
    assert "[1-2/4] skip=&lt;none&gt;: step 50/100  train loss 0.5" in bar
    assert notebook.shown[-1] == ""
    assert capsys.readouterr().err == ""


def test_a_notebook_is_not_redrawn_at_every_step(clock, notebook):
    with Progress() as shown:
        for step in range(1, 1001):
            clock.now += 0.001
            shown.step(step, 1000)

    assert len(notebook.shown) < 10


def test_ipython_without_a_notebook_shows_lines(clock, notebook, capsys):
    notebook.kernel = None

    with Progress() as shown:
        shown.start_runs("run")
        shown.step(10, 10)

    assert notebook.shown == []
    assert last_line(capsys) == "run: step 10/10"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (20, "[4/10] depth=2…  30%"),
        (30, "[4/10] depth=2,…  30% 0:00:00"),
        (39, "[4/10] depth=2,…  30% about 1208 s left"),
        (40, "[4/10] …  30% 0:00:00 about 1208 s left"),
    ],
)
def test_in_a_narrow_terminal_the_text_is_cut_and_columns_are_left_out_whole(
    width, shown, monkeypatch, capsys
):
    assert len(shown) <= width
    assert shown_bar(width, monkeypatch, capsys).rstrip() == shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_in_a_wider_terminal_there_is_a_bar_too(width, monkeypatch, capsys):
    shown = shown_bar(width, monkeypatch, capsys)
    assert shown.startswith("[4/10] depth=")
    assert "━━" in shown
    assert shown.rstrip().endswith(" 30% 0:00:00 about 1208 s left")


def shown_bar(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    bar = TerminalBar()
    text = "[4/10] depth=2,width=8: step 300/1000  loss 2.3  eval 0.11"
    bar.show(3, 10, text, "about 1208 s left")
    Console(file=sys.stdout, width=width).print(bar._progress)
    bar.stop()
    return capsys.readouterr().out
