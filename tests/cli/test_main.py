"""The command line itself: help, unknown commands, and what is passed on to Hydra."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from research import __version__
from research.__main__ import main as run_module
from research.cli import main as cli
from research.cli.parser import COMMANDS


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert name in out


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"train"}))
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: fathom {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["trian"], ["--nope"], ["runs", "--nope"]])
def test_a_command_that_does_not_exist_is_one_line_and_exit_code_2(fathom, words):
    said = fathom(*words)
    assert said.code == 2
    assert said.err.startswith("fathom: ")
    assert said.err.count("\n") == 1


@pytest.fixture
def interruptible():
    """As in a terminal: a shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["report", "runs", "sync"])
def test_a_command_that_is_ended_by_a_signal_says_so_in_one_line(
    fathom, monkeypatch, command, number
):
    def end_self(*_, **__):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(f"research.cli.{command}.main", end_self)
    before = signal.getsignal(signal.SIGTERM)
    said = fathom(command)
    assert (said.code, said.out, said.err) == (1, "", "fathom: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_commands_draw_whatever_backend_of_matplotlib_the_environment_asks_for(monkeypatch):
    backends = []
    monkeypatch.setattr(cli, "main", lambda: backends.append(os.environ.get("MPLBACKEND")))
    monkeypatch.setenv("MPLBACKEND", "module://of.a.notebook")
    run_module()
    monkeypatch.delenv("MPLBACKEND")
    run_module()
    assert backends == ["agg", None]


@pytest.mark.slow
def test_figures_need_no_backend_that_shows_them(trained, process):
    trained()
    drawing = process("-m", "research", "plot", "0", MPLBACKEND="nonsense")
    _, err = drawing.communicate(timeout=100)
    assert (drawing.returncode, err) == (0, "")


def test_help_of_train_lists_what_can_be_set(fathom, workplace):
    said = fathom("train", "--help")
    assert said.code == 0
    assert "skip" in said.out
    assert "inv_sqrt_depth" in said.out
    assert not list(workplace.iterdir())


@pytest.mark.parametrize("words", [["--version"], ["seed=1", "--version"]], ids=str)
def test_the_version_is_that_of_fathom(fathom, words):
    assert fathom("train", *words).out == f"{__version__}\n"


def test_settings_may_follow_an_option_of_hydra(fathom, workplace):
    said = fathom("train", "model.depth=3", "--cfg", "job", "skip=identity")
    assert said.code == 0
    assert said.err == ""
    assert "depth: 3" in said.out
    assert "kind: identity" in said.out


@pytest.mark.parametrize("prefix", ["", "++"])
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("hydra.launcher.most=3", "hydra.launcher.max_group_size", "max_group_size: 3"),
        ("hydra.launcher.within=vmap", "hydra.launcher.map_mode", "map_mode: vmap"),
    ],
)
def test_the_old_name_of_a_setting_sets_the_new_one(fathom, workplace, prefix, old, new, line):
    command = ["train", "hydra/launcher=grouped", f"{prefix}{old}", "--cfg", "hydra"]
    said = fathom(*command)
    assert said.code == 0
    assert line in said.out
    old_name, _, _ = old.partition("=")
    assert said.err.startswith(f"fathom: {old_name} is now called {new}; ")
    assert said.err.count("\n") == 1


def test_a_closed_pipe_is_not_an_error(five_runs, process):
    ended = process("-c", "from research.cli.main import main; main()", "runs")
    ended.stdout.close()
    assert ended.wait() == 0
    assert ended.stderr.read() == ""
    ended.stderr.close()


RUN_MAIN = "from research.cli.main import main; main()"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", [["runs"], ["--help"], ["train", "--help"]], ids=str)
def test_output_that_cannot_be_written_is_one_line(five_runs, words):
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", RUN_MAIN, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONUNBUFFERED=""),
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("fathom: ")
    assert ended.stderr.count("\n") == 1
    assert "standard output cannot be written: No space left on device" in ended.stderr


def test_characters_that_the_terminal_does_not_have_are_replaced(five_runs, process):
    ended = process("-c", RUN_MAIN, "show", "depth=64", PYTHONIOENCODING="ascii")
    out, err = ended.communicate()
    assert ended.returncode == 0, err
    assert "??" in out  # the bars


def test_closed_streams_are_not_an_error(five_runs, process):
    shell = f'import os; os.system("{sys.executable} -m research runs >&- 2>&-; echo $?")'
    out, _ = process("-c", shell).communicate()
    assert out == "0\n"


def test_an_interrupted_command_is_one_line(fathom, workplace, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("research.cli.runs.show_runs", interrupt)
    said = fathom("runs")
    assert said.code == 1
    assert said.err == "fathom: interrupted\n"


@pytest.mark.parametrize("words", [["runs"], ["train", "model.depth=2"]], ids=str)
def test_a_directory_that_does_not_exist_any_more_is_named_as_the_cause(
    fathom, tmp_path, monkeypatch, words
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = fathom(*words)
    assert said.code == 2
    assert said.err.startswith("fathom: the current directory does not exist any more")
    assert said.err.count("\n") == 1


def test_a_link_that_leads_to_itself_is_one_line(fathom, workplace):
    (workplace / "loop").symlink_to("loop")
    said = fathom("train", "model.depth=2", "tracker=none", "hydra.run.dir=loop/run")
    assert said.code == 2
    assert said.err == "fathom: cannot open loop/run: Too many levels of symbolic links\n"


def test_a_defect_in_the_checks_ends_the_command_before_anything_is_trained(
    fathom, workplace, monkeypatch
):
    """Hydra would make a warning of it and go on."""

    def break_down(_):
        raise KeyError("oops")

    monkeypatch.setattr("research.cli.train.read_ended", break_down)
    with pytest.raises(KeyError, match="oops"):
        fathom("train", "model.depth=2", "tracker=none", "name=x")
    assert not list(workplace.iterdir())


@pytest.mark.parametrize("place", ["nothing", "an empty folder", "a file"])
@pytest.mark.parametrize("words", [["sync"], ["sync", "--dry-run"]], ids=" ".join)
def test_a_place_without_runs_has_nothing_to_upload(fathom, workplace, place, words):
    expected = f"there are no runs under {workplace / 'outputs'}"
    if place == "an empty folder":
        (workplace / "outputs").mkdir()
    elif place == "a file":
        (workplace / "outputs").touch()
        expected = f"{workplace / 'outputs'} is in the way, because it is no directory"
    result = fathom(*words)
    assert result.code == 2
    assert expected in result.err
    assert result.err.count("\n") == 1
