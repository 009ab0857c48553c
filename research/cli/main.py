"""The command ``fathom``: runs one subcommand and reports a user's mistake in one line."""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from research import __version__
from research.cli.parser import (
    COMMANDS,
    check_command,
    check_words,
    describe_unknown_option,
    make_parser,
)
from research.config.system_errors import explain_system_error
from research.runner.signals import end_process, importing, terminable


def main() -> None:
    """Runs the command line of this process and ends the process with its exit code.

    The exit code is 0 for success, 1 where a run or a claim failed, 2 where the request was wrong.
    """
    _prepare_output()
    try:
        exit_code = run(sys.argv[1:])
    except SystemExit as ended:
        exit_code = int(ended.code or 0)
    end_process(_flush_output(exit_code))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    try:
        with terminable():
            return _run_command(arguments)
    except BrokenPipeError:
        _discard_output()
        return 0
    except KeyboardInterrupt:
        print("fathom: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        from research.config.errors import explain

        message = explain(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"fathom: {message}", file=sys.stderr)
        return 2


def _run_command(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "complete":  # called by the shell when Tab is pressed
        from research.cli.complete import print_candidates

        return print_candidates(arguments[1:])
    check_words(arguments)
    check_command(arguments)
    if arguments[0] == "train":
        return _run_train(arguments[1:])
    parser = make_parser()
    parsed, unparsed = parser.parse_known_args(arguments)
    for word in unparsed:  # argparse leaves positional words after an option unparsed
        if word.startswith("-"):
            raise ValueError(describe_unknown_option(word, parsed.command))
    if not all(word.strip() for word in parsed.words):
        raise ValueError(
            f"an empty word is no argument of fathom {parsed.command}; "
            f"fathom {parsed.command} --help describes what is valid"
        )
    options = {}
    if COMMANDS[parsed.command].has_scale:
        options["scale"] = parsed.scale
    if COMMANDS[parsed.command].has_device:
        options["device"] = parsed.device
        options["quick"] = parsed.quick
    for option in COMMANDS[parsed.command].options:
        keyword = option.name.replace("-", "_")
        options[keyword] = getattr(parsed, keyword)
    with importing():
        command = importlib.import_module(f"research.cli.{parsed.command}")
    return command.main([*parsed.words, *unparsed], **options)


def _run_train(arguments: Sequence[str]) -> int:
    """Runs ``fathom train``; Hydra parses everything that follows, except for ``--help``."""
    from research.cli import help as train_help

    if train_help.wants_help(arguments):
        print(train_help.train_help(), flush=True)
        return 0
    if "--version" in arguments:  # Hydra would print its own version
        print(__version__, flush=True)
        return 0
    with importing():
        from research.cli import train

    return train.main(arguments)


def _prepare_output() -> None:
    """Makes both streams show ``?`` for what their encoding does not have, instead of raising.

    A stream that the user has closed becomes one that discards everything.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _name_errors(sys.stdout)
    sys.stdout = sys.stdout or _null_stream()
    sys.stderr = sys.stderr or _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class StandardOutput(io.FileIO):
    """A file whose errors say that it is standard output; those of the system have no name."""

    def write(self, data: Any, /) -> int:
        """Writes bytes.

        Raises:
            OSError: it cannot be written.
        """
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from error


def _name_errors(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The stream, with errors that name it."""
    file = StandardOutput(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=stream.encoding,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _null_stream() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _flush_output(exit_code: int) -> int:
    """Writes what is left of standard output; returns 2 as the exit code where that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        if not exit_code:
            print(f"fathom: {explain_system_error(error)}", file=sys.stderr)
            return 2
    return exit_code


def _discard_output() -> None:
    """Lets Python flush standard output at exit although its reader, ``head`` say, is gone."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, sys.stdout.fileno())
