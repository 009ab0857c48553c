"""The subcommands of ``fathom`` and the parser of their arguments."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from research import __version__
from research.config.suggestions import COMMAND_SYNONYMS, format_suggestion
from research.config.wording import shell_command


class Option(NamedTuple):
    """An option of a subcommand.

    Attributes:
        name: ``--NAME``, and the keyword argument of the command's ``main``.
        help: what ``--help`` says of it.
        metavar: what stands for its value; empty for an option that is there or not.
        default: its value where it is left out; False for an option without a value.
        short: a second spelling, such as ``-m``; empty for none.
    """

    name: str
    help: str
    metavar: str = ""
    default: str = ""
    short: str = ""


class Command(NamedTuple):
    """What ``fathom --help`` says of a subcommand; the module of the same name runs it."""

    usage: str
    help: str
    has_scale: bool = False
    has_device: bool = False
    options: tuple[Option, ...] = ()


# Control characters, ends of lines, and what Python makes of bytes that are no text.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
GIVEN = "given_options"  # what the parser calls the names of the options that a command has
LONG_OPTIONS = ("--help", "--version")  # of fathom itself
OPTION_SYNONYMS = {  # names of options; other words for them
    "--help": "-help -? --usage",
    "--version": "-v -V -version",
    "--yes": "-y --force -f --assume-yes --no-confirm",
    "--out": "-o --output --output-file --save --file",
    "--json": "-j --as-json",
    "--dry-run": "-n --dry --dryrun --simulate",
    "--jobs": "-j --workers --num-workers --parallel",
    "--port": "-p",
    "--steps": "-s --num-steps --iterations",
    "--multirun": "--sweep --grid",
    "--format": "-f --fmt",
    "--color": "--colour --hue",
}
OPTIONS = (*LONG_OPTIONS, "-h")
TRAIN_OPTIONS = (
    "-m",
    "--multirun",
    "--cfg",
    "--info",
    "--hydra-help",
    "--wandb-sweep",
    "--hyperband",
)


JSON = Option("json", "print JSON, whose keys docs/guides/own-runs.md describes")
OUT = Option(
    "out",
    "where the figure is written: FILE.png, .svg or .pdf, or a name without an ending for all",
    "FILE",
)
TABLE_OPTIONS = (
    Option(
        "value",
        "the numbers that are averaged, separated by commas: eval_accuracy, train_loss, "
        "initial_factor, … (default: the accuracy, or the loss)",
        "NAMES",
    ),
    Option("rows", "the settings of the rows, separated by commas", "SETTINGS"),
    Option("columns", "the setting of the columns", "SETTING"),
    Option("format", "text, markdown, latex (booktabs), csv or json", "FORMAT", "text"),
    JSON,
)
PLOT_OPTIONS = (
    Option(
        "kind",
        "line (a final number against a setting), curves (a metric over steps), profile (a gauge "
        "over layers), heatmap (layers and steps), phase (two settings, a number as colour); "
        "default: what fits the runs",
        "KIND",
    ),
    Option("x", "the setting on the horizontal axis (line, phase)", "SETTING"),
    Option(
        "y",
        "what is drawn: a number of a run (line), a metric (curves), a gauge (profile, heatmap), "
        "the setting on the vertical axis (phase)",
        "NAME",
    ),
    Option("color", "the setting that the colours show; for phase the number of a run", "NAME"),
    Option("facet", "the setting with a panel for each value", "SETTING"),
    Option(
        "log",
        "the logarithmic axes: x, y, xy or none; default: where numbers span decades",
        "AXES",
    ),
    Option(
        "steps",
        "the steps of a profile: first, last, or numbers, separated by commas",
        "STEPS",
    ),
    OUT,
)

REPLAY_OPTIONS = (
    Option("to", "the last step (default: the step at which the run went wrong)", "STEP"),
    Option("steps", "how many steps before it are measured with all gauges", "NUMBER", "200"),
    Option("no-search", "do not search for number formats of layers that prevent it"),
    JSON,
)

COMMANDS = {
    "train": Command("[-m] [overrides]", "train one run, or with -m a sweep, and record it"),
    "reproduce": Command(
        "NAME… | lessons | all [--scale paper] [name=…] [tracker=…]",
        "train an experiment's sweep, then draw its figure and test its claims",
        has_scale=True,
    ),
    "figure": Command(
        "NAME… [--scale paper]",
        "draw the figure and test the claims again from the records; trains nothing",
        has_scale=True,
        options=(JSON,),
    ),
    "runs": Command(
        "[FILTER…]",
        "the runs under outputs/ as a table, e.g. fathom runs skip=none 'model.depth>30'",
        options=(JSON,),
    ),
    "show": Command(
        "RUN | FILTER… | last",
        "one run in the terminal: verdict, profile over depth, loss",
        options=(JSON,),
    ),
    "plot": Command(
        "[FILTER…] [--kind KIND] [--x SETTING] [--y NAME] [--color NAME] [--facet SETTING]",
        "draw a figure of your own runs, with means and intervals over seeds",
        options=PLOT_OPTIONS,
    ),
    "table": Command(
        "[FILTER…] [--value NAMES] [--rows SETTINGS] [--columns SETTING] [--format FORMAT]",
        "summarise your own runs: mean and interval over seeds, by setting",
        options=TABLE_OPTIONS,
    ),
    "compare": Command(
        "A B [FILTER…]",
        "what differs between two runs, or two groups of seeds: settings, numbers, first step",
        options=(OUT, JSON),
    ),
    "report": Command(
        "[FILTER… | RUN…] [--out FILE]",
        "one interactive HTML file for a run, a sweep or an experiment; needs no network",
        options=(
            Option("out", "where it is written (default: report.html next to the runs)", "FILE"),
        ),
    ),
    "dash": Command(
        "[FILTER… | RUN…] [--port PORT]",
        "the report of all runs in your browser, live while they train; only for this machine",
        options=(
            Option("port", "the port on 127.0.0.1 (default: 8765, or the next free one)", "PORT"),
        ),
    ),
    "rm": Command(
        "RUN… | FILTER… [--yes]",
        "remove runs with their offline W&B folders, after asking",
        options=(Option("yes", "remove without asking"),),
    ),
    "completion": Command(
        "bash | zsh | fish",
        "print the script that completes commands and settings when you press Tab",
    ),
    "landscape": Command(
        "RUN [OTHER]",
        "draw the loss around a run's final weights, and on the way to another run; "
        "needs checkpoint.keep=true",
    ),
    "remedy": Command(
        "RUN | FILTER… | last",
        "train what a run's findings advise, next to the unchanged run, and say what helps",
    ),
    "predict": Command(
        "[-m] [overrides] [--steps NUMBER]",
        "before training: how likely a run is to train, and what decides it; records nothing",
        options=(
            Option("multirun", "predict a sweep, as fathom train -m trains it", short="-m"),
            Option(
                "steps",
                "also train so many steps on one batch, which tells more (default: 20; 0: none)",
                "NUMBER",
                "20",
            ),
            JSON,
        ),
    ),
    "replay": Command(
        "RUN | FILTER… | last [--to STEP] [--steps NUMBER] [--no-search]",
        "compute the steps at which a run went wrong again, and name quantity, layer, step and "
        "batch",
        options=REPLAY_OPTIONS,
    ),
    "sync": Command(
        "[FILTER… | RUN…] [--dry-run] [--jobs NUMBER]",
        "bring every run that was recorded for Weights & Biases, or those that match, to its "
        "server, each row exactly once",
        options=(
            Option("dry-run", "show what would be uploaded, and upload nothing"),
            Option("jobs", "how many runs are uploaded at once (default: 4)", "NUMBER", "4"),
        ),
    ),
    "workspace": Command(
        "[STUDY…]",
        "lay out a saved view and a report of a study in Weights & Biases; fathom sync sends them",
    ),
    "bench": Command(
        "[ROW…] [--device] [--quick]",
        "measure this machine against the budgets and write the table",
        has_device=True,
    ),
}


class StoreOnce(argparse.Action):
    """Stores the value of an option, which must not be empty and is given once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Stores ``values`` in the namespace; see ``argparse.Action``."""
        given = getattr(namespace, GIVEN, [])
        if self.dest in given:
            parser.error(f"{option_string} is given twice")
        if not values.strip():
            parser.error(f"{option_string} must have a value, got an empty one")
        setattr(namespace, GIVEN, [*given, self.dest])
        setattr(namespace, self.dest, values)


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, without its usage."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends the process with exit code 2."""
        print(f"fathom: {message}; {self.prog} --help describes what is valid", file=sys.stderr)
        sys.exit(2)


def check_words(words: Sequence[str]) -> None:
    """Checks that the words of a command are text that fits on one line.

    Raises:
        ValueError: a word has a control character, such as the end of a line, or bytes that are no
            text in the encoding of the command line.
    """
    for word in words:
        unprintable = UNPRINTABLE.search(word)
        if unprintable:
            raise ValueError(f"{word!r} must be printable text, got {unprintable.group()!r}")


def check_command(arguments: Sequence[str]) -> None:
    """Checks that the first word is a subcommand or an option of ``fathom``.

    Raises:
        ValueError: it is neither, or there is none; the message has the nearest subcommand.
    """
    valid = ", ".join(COMMANDS)
    if not arguments:
        raise ValueError(f"which command? one of {valid}; fathom --help describes them")
    word = arguments[0]
    if word in COMMANDS or word in OPTIONS:
        return
    if "=" in word or word in TRAIN_OPTIONS:
        raise ValueError(
            f"there is no command {word}; did you mean {shell_command('train', *arguments)}?"
        )
    if word.startswith("-"):
        hint = format_suggestion(word, LONG_OPTIONS, OPTION_SYNONYMS)
        options = ", ".join(LONG_OPTIONS)
        raise ValueError(
            f"there is no option {word}{hint} (valid before a command: {options}; "
            f"commands: {valid})"
        )
    hint = format_suggestion(word, COMMANDS, COMMAND_SYNONYMS)
    if f"--{word}" in LONG_OPTIONS:
        of_command = f"{arguments[1]} " if arguments[1:2] and arguments[1] in COMMANDS else ""
        hint = f"; did you mean fathom {of_command}--{word}?"
    raise ValueError(f"there is no command {word}{hint} (valid: {valid})")


def describe_unknown_option(word: str, command: str) -> str:
    """The line for an option that a subcommand does not have."""
    names = ["--help"]
    if COMMANDS[command].has_scale:
        names.append("--scale")
    if COMMANDS[command].has_device:
        names += ["--device", "--quick"]
    names += [f"--{option.name}" for option in COMMANDS[command].options]
    hint = format_suggestion(word.partition("=")[0], names, OPTION_SYNONYMS)
    return (
        f"{word} is no option of fathom {command}{hint}; "
        f"fathom {command} --help describes what is valid"
    )


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, except for what follows ``fathom train``."""
    parser = OneLineParser(
        "fathom",
        allow_abbrev=False,
        description="Measures how gradients travel through deep networks, layer by layer.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Adds the subcommands to a parser and returns the parser of each."""
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=command.help,
            description=command.help,
            usage=f"fathom {name} {command.usage}",
            allow_abbrev=False,
        )
        subparser.add_argument("words", nargs="*", metavar=command.usage or "-")
        if command.has_scale:
            subparser.add_argument(
                "--scale",
                action=StoreOnce,
                default="",
                help="paper: as large as in the paper, for accelerators",
            )
        if command.has_device:
            _add_device_options(subparser)
        for option in command.options:
            _add_option(subparser, option)
        parsers[name] = subparser
    return parsers


def _add_option(subparser: argparse.ArgumentParser, option: Option) -> None:
    flags = [f"--{option.name}"]
    if option.short:
        flags.insert(0, option.short)
    if not option.metavar:
        subparser.add_argument(*flags, action="store_true", help=option.help)
        return
    subparser.add_argument(
        *flags,
        action=StoreOnce,
        metavar=option.metavar,
        default=option.default,
        help=option.help,
    )


def _add_device_options(subparser: argparse.ArgumentParser) -> None:
    subparser.add_argument(
        "--device",
        action="store_true",
        help="measure the rows about an accelerator instead, in a few minutes",
    )
    subparser.add_argument(
        "--quick",
        action="store_true",
        help="with --device: tiny networks, to see that the rows work; nothing is written",
    )
