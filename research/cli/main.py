"""The command ``fathom``: runs one subcommand and reports a user's mistake in one line."""

import importlib
import os
import sys
from collections.abc import Sequence

from research.cli.parser import COMMANDS, make_parser


def main() -> None:
    """Runs the command line of this process and ends the process with its exit code.

    The exit code is 0 for success, 1 where a run or a claim failed, 2 where the request was wrong.
    """
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if arguments and arguments[0] == "train":
        return _run_train(arguments[1:])
    parser = make_parser()
    parsed, unparsed = parser.parse_known_args(arguments)
    for word in unparsed:  # argparse leaves positional words after an option unparsed
        if word.startswith("-"):
            parser.error(f"unrecognized arguments: {' '.join(unparsed)}")
    options = {}
    if COMMANDS[parsed.command].has_scale:
        options["scale"] = parsed.scale
    if COMMANDS[parsed.command].has_device:
        options["device"] = parsed.device
        options["quick"] = parsed.quick
    try:
        command = importlib.import_module(f"research.cli.{parsed.command}")
        return command.main([*parsed.words, *unparsed], **options)
    except BrokenPipeError:
        _discard_output()
        return 0
    except (ValueError, OSError) as error:
        from research.config.errors import explain

        message = explain(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"fathom: {message}", file=sys.stderr)
        return 2


def _run_train(arguments: Sequence[str]) -> int:
    """Runs ``fathom train``; Hydra parses everything that follows, except for ``--help``."""
    from research.cli import help as train_help

    if not train_help.wants_help(arguments):
        from research.cli import train

        return train.main(arguments)
    try:
        print(train_help.train_help(), flush=True)
    except BrokenPipeError:
        _discard_output()
    return 0


def _discard_output() -> None:
    """Lets Python flush standard output at exit although its reader, ``head`` say, is gone."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, sys.stdout.fileno())
