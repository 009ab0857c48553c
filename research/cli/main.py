"""The command ``fathom``: its subcommands, and errors in one line. Nothing heavy is imported before it is needed."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

COMMANDS = {
    "train": ("[-m] [overrides]", "train one run, or with -m a sweep, and record it"),
    "reproduce": (
        "NAME… | all [--scale paper] [name=…] [tracker=…]",
        "train an experiment's sweep, then draw its figure and test its claims",
    ),
    "figure": (
        "NAME… [--scale paper]",
        "draw the figure and test the claims again from the records; trains nothing",
    ),
    "runs": (
        "[FILTER…]",
        "the runs under outputs/ as a table, e.g. fathom runs skip=none model.depth=64",
    ),
    "show": ("RUN", "one run in the terminal: verdict, profile over depth, loss"),
    "sync": ("", "upload every run that was recorded offline to Weights & Biases"),
    "bench": ("[ROW…]", "measure this machine against the budgets and write the table"),
}
SCALED = ("reproduce", "figure")
# What of an experiment's settings decides where it is trained and recorded, and changes no number.
LEAVES_IT_THE_SAME = (
    "name=",
    "tracker",
    "checkpoint.",
    "mesh",
    "data.raw_dir=",
    "data.download=",
    "hydra.sweep.dir=",
)
LEAVES_IT_THE_SAME += ("hydra/launcher=", "hydra.launcher.")


def main() -> None:
    """The entry point; ends the process with 0 done, 1 a run or claim failed, 2 the request was wrong."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if arguments and arguments[0] == "train":  # everything behind it belongs to Hydra
        from research.cli.train import main as train

        return train([_quote_split(word) for word in _in_order(arguments[1:])])
    parser = _parser()
    parsed, behind = parser.parse_known_args(arguments)  # words behind an option are left over
    if any(word.startswith("-") for word in behind):
        parser.error(f"unrecognized arguments: {' '.join(behind)}")
    try:
        further = {"scale": parsed.scale} if parsed.command in SCALED else {}
        return _ACTIONS[parsed.command]([*parsed.words, *behind], **further)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stdout = open(os.devnull, "w")
        return 0
    except (ValueError, OSError) as error:
        from research.config.errors import explain

        message = explain(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"fathom: {message}", file=sys.stderr)
        return 2


def _in_order(words: Sequence[str]) -> list[str]:
    """Settings first, then Hydra's options: its parser takes no settings behind one."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # its own says how it is used, in ten lines
    parsed, left = parser.parse_known_args(words)
    for word in left:
        if word.startswith("-"):
            meant = f"; did you mean {word.lstrip('-')}?" if "=" in word else ""
            _refuse(
                f"{word} is no option{meant} (fathom train --help lists the options; a setting is path=value)"
            )
    settings = [*parsed.overrides, *left]
    return [*settings, *(word for word in words if word not in settings)]


def _refuse(message: str) -> NoReturn:
    print(f"fathom: {message}", file=sys.stderr)
    sys.exit(2)


def _quote_split(word: str) -> str:
    """A slice of a split, such as train[:10%], in the quotes that Hydra's grammar wants around brackets."""
    path, _, value = word.partition("=")
    if path not in ("data.split", "data.eval_split") or "[" not in value or value[0] in "'\"":
        return word
    quoted = ",".join(f"'{split}'" for split in value.split(","))
    return f"{path}={quoted}"


def _parser() -> argparse.ArgumentParser:
    from research import __version__

    parser = argparse.ArgumentParser(
        "fathom", description="Measures how gradients travel through deep networks, layer by layer."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (words, meaning) in COMMANDS.items():
        command = commands.add_parser(
            name, help=meaning, description=meaning, usage=f"fathom {name} {words}"
        )
        command.add_argument("words", nargs="*", metavar=words or "-")
        if name in SCALED:
            command.add_argument(
                "--scale", default="", help="paper: as large as the paper has it, for accelerators"
            )
    return parser


def _reproduce(words: Sequence[str], scale: str) -> int:
    from research.reporting.tables import console
    from research.reproduce.experiments import experiment_names, find_experiment, output_name
    from research.reproduce.tables import summary_table
    from research.runner.session import Session

    overrides = [word for word in words if "=" in word]
    wanted = [word for word in words if "=" not in word]
    if wanted == ["all"]:
        chosen = experiment_names(scale)
    else:
        chosen = [find_experiment(word, scale) for word in wanted]
    for override in overrides:
        if not override.startswith(LEAVES_IT_THE_SAME):
            raise ValueError(
                f"{override} would make it another experiment: fathom train -m experiment=NAME {override}"
            )
        if override.startswith(("name=", "hydra.sweep.dir=")) and len(chosen) > 1:
            raise ValueError(
                f"{override} is the folder of one experiment, {len(chosen)} are asked for"
            )
    if not chosen:
        valid = ", ".join(experiment_names(scale))
        raise ValueError(f"reproduce what? one or several of {valid}, or all")
    ended = {}
    for name in chosen:
        print(f"{output_name(name)}: training", flush=True)
        ended[_directory(name, overrides)] = _attempted(name, overrides)
        if Session.interrupted:
            break
    if len(chosen) > 1:
        console().print(
            summary_table({directory: tested for directory, (_, tested) in ended.items()})
        )
    return max(code for code, _ in ended.values())


def _attempted(name: str, overrides: Sequence[str]) -> tuple[int, bool]:
    """As ``_reproduced``; what is refused is said and leaves other experiments alone."""
    from research.config.errors import UsageError, explain

    try:
        return _reproduced(name, overrides)
    except UsageError as refused:
        return int(str(refused.code)), False
    except ValueError as error:
        print(f"fathom: {explain(error)}", file=sys.stderr)
        return 2, False


def _reproduced(name: str, overrides: Sequence[str]) -> tuple[int, bool]:
    """The exit code, and whether the claims were tested.

    A run that diverged has ended: of a grid of learning rates it is a result, which the claims test.
    """
    from research.cli.train import main as train
    from research.reproduce.experiments import finished_runs
    from research.reproduce.results import draw_and_test, upload_results
    from research.runner.session import Session

    code, directory = (
        train([f"experiment={name}", "hydra/launcher=grouped", *overrides]),
        _directory(name, overrides),
    )
    if code:
        try:
            finished_runs(name, directory)
        except ValueError as error:
            if not Session.interrupted:
                print(f"fathom: {error}", file=sys.stderr)
            return code, False
    holds = draw_and_test(name, directory, redo=False)
    if "tracker=none" not in overrides:
        upload_results(directory)
    return int(not holds), True


def _directory(name: str, overrides: Sequence[str] = ()) -> Path:
    """Where an experiment's runs lie: its own folder, or the one that ``name=`` or ``hydra.sweep.dir=`` gave."""
    from research.reproduce.experiments import output_name

    given = dict(override.split("=", 1) for override in overrides)
    name = given.get("name", output_name(name))
    return Path(given.get("hydra.sweep.dir") or Path("outputs") / name)


def _figure(words: Sequence[str], scale: str) -> int:
    from research.reproduce.experiments import experiment_names, find_experiment
    from research.reproduce.results import draw_and_test

    overrides = [word for word in words if "=" in word]
    chosen = [find_experiment(word, scale) for word in words if "=" not in word]
    if not chosen:
        raise ValueError(f"a figure of what? one or several of {', '.join(experiment_names())}")
    return max([int(not draw_and_test(name, _directory(name, overrides))) for name in chosen])


def _runs(words: Sequence[str]) -> int:
    from research.reporting.show import show_runs

    show_runs(words)
    return 0


def _show(words: Sequence[str]) -> int:
    from research.reporting.show import show_run

    if not words:
        raise ValueError(
            "show which run? give its directory or part of its name; fathom runs lists them"
        )
    for word in words:
        show_run(word)
    return 0


def _sync(_: Sequence[str]) -> int:
    from research.cli.sync import sync

    return sync()


def _bench(words: Sequence[str]) -> int:
    from research.benchmark.table import bench

    return bench(words)


_ACTIONS: dict[str, Callable[..., int]] = {
    "reproduce": _reproduce,
    "figure": _figure,
    "runs": _runs,
    "show": _show,
    "sync": _sync,
    "bench": _bench,
}
