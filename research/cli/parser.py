"""The subcommands of ``fathom`` and the parser of their arguments."""

import argparse
from typing import NamedTuple

from research import __version__


class Command(NamedTuple):
    """What ``fathom --help`` says of a subcommand; the module of the same name runs it."""

    usage: str
    help: str
    has_scale: bool = False
    has_device: bool = False


COMMANDS = {
    "train": Command("[-m] [overrides]", "train one run, or with -m a sweep, and record it"),
    "reproduce": Command(
        "NAME… | all [--scale paper] [name=…] [tracker=…]",
        "train an experiment's sweep, then draw its figure and test its claims",
        has_scale=True,
    ),
    "figure": Command(
        "NAME… [--scale paper]",
        "draw the figure and test the claims again from the records; trains nothing",
        has_scale=True,
    ),
    "runs": Command(
        "[FILTER…]",
        "the runs under outputs/ as a table, e.g. fathom runs skip=none model.depth=64",
    ),
    "show": Command("RUN", "one run in the terminal: verdict, profile over depth, loss"),
    "sync": Command(
        "[FILTER… | RUN…]",
        "bring every run, or those that match, to Weights & Biases, each row exactly once",
    ),
    "bench": Command(
        "[ROW…] [--device] [--quick]",
        "measure this machine against the budgets and write the table",
        has_device=True,
    ),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, except for what follows ``fathom train``."""
    parser = argparse.ArgumentParser(
        "fathom",
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
        )
        subparser.add_argument("words", nargs="*", metavar=command.usage or "-")
        if command.has_scale:
            subparser.add_argument(
                "--scale",
                default="",
                help="paper: as large as in the paper, for accelerators",
            )
        if command.has_device:
            _add_device_options(subparser)
        parsers[name] = subparser
    return parsers


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
