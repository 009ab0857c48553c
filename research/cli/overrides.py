"""Rewrites the words of ``fathom train`` into a form that Hydra accepts."""

import contextlib
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from research.config.config_files import check_config_files, name_place
from research.config.errors import EXTRA_GROUPS, explain, suggest_override
from research.config.hydra_config import resource_dir
from research.config.override_checks import describe_repeated, parse_overrides, search_folders
from research.config.schema import OPTIONS, setting_paths
from research.config.suggestions import format_suggestion

SHORT_OPTIONS = ("-cn=", "-cp=", "-cd=")
SPLIT_SETTINGS = ("data.split", "data.eval_split")
RENAMED_SETTINGS = {  # old names still work in this release
    "hydra.launcher.most": "hydra.launcher.max_group_size",
    "hydra.launcher.within": "hydra.launcher.map_mode",
}


def prepare_arguments(words: Sequence[str]) -> list[str]:
    """The arguments for Hydra's parser.

    Settings come before options, renamed settings get their new name, and slices of a split are
    quoted.

    Raises:
        ValueError: a setting cannot be parsed, or a word is an option that Hydra does not have.
    """
    settings, options = _split_words(words)
    if {"-m", "--multirun"} & set(options) and "hydra.mode=RUN" in settings:
        raise ValueError("hydra.mode=RUN must be left out, because -m trains a sweep")
    prepared = []
    for word in settings:
        word = _rename_setting(word)
        word = _quote_split(word)
        prepared.append(word)
    parse_overrides(prepared)
    return prepared + options


def report_repeated(words: Sequence[str]) -> None:
    """Says on standard error which settings are given several times, and which value counts.

    Args:
        words: arguments for Hydra's parser, settings first.
    """
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    for line in describe_repeated(parse_overrides(settings)):
        print(f"fathom: {line}", file=sys.stderr)


def config_folders(words: Sequence[str]) -> list[Path]:
    """Where the files of config groups are.

    They are in the folder of ``--config-dir``, in ``conf/`` and in those of ``hydra.searchpath``.
    """
    parsed, _ = get_args_parser().parse_known_args(words)
    folders = [resource_dir("conf")]
    if parsed.config_dir:
        folders.insert(0, Path(parsed.config_dir))
    for override in parse_overrides(parsed.overrides):
        if override.key_or_group == "hydra.searchpath":
            folders += search_folders(override.value())
    return folders


@contextlib.contextmanager
def naming_files(words: Sequence[str]) -> Iterator[None]:
    """Names the file in the message of an error that a file of the configuration causes.

    Args:
        words: arguments for Hydra's parser, settings first.

    Raises:
        ValueError: there is a mistake in a file that the words select.
    """
    folders = config_folders(words)
    check_config_files(words, folders)
    try:
        yield
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        raise ValueError(name_place(message, words, folders)) from None


def _split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Settings and options: Hydra's parser does not accept a setting after an option."""
    for word in words:
        if re.fullmatch(r"-\w[\w.]+=.*", word) and not word.startswith(SHORT_OPTIONS):
            _refuse_option(word)
    parser = get_args_parser()
    parser.error = _refuse  # argparse would print ten lines of usage
    parsed, unparsed = parser.parse_known_args(words)
    for word in unparsed:
        if word.startswith("-"):
            _refuse_option(word)
    if parsed.experimental_rerun:
        _refuse("--experimental-rerun is no option of fathom; start the same command again")
    if parsed.shell_completion:
        _refuse("--shell-completion is no option of fathom; fathom completion bash prints it")
    _check_config_options(parsed)
    if parsed.package and not parsed.cfg:
        _refuse("--package selects what --cfg prints: fathom train --cfg job --package model")
    if parsed.package and not _is_package(parsed.package):
        hint = format_suggestion(parsed.package, list(OPTIONS))
        _refuse(f"--package must be a group of settings such as model, got {parsed.package}{hint}")
    settings = [*parsed.overrides, *unparsed]
    options = [word for word in words if word not in settings]
    return settings, options


def _check_config_options(options: Namespace) -> None:
    """Checks Hydra's options for another configuration than Fathom's, which hardly anyone means.

    Raises:
        ValueError: there is no such configuration.
    """
    advice = "--config-dir FOLDER adds your own files, such as FOLDER/experiment/NAME.yaml"
    folder = Path(options.config_path or resource_dir("conf").absolute())
    if not folder.is_absolute() or not folder.is_dir():
        _refuse(
            "--config-path must be the absolute path of a folder that replaces Fathom's conf, "
            f"got {folder}; {advice}"
        )
    name = (options.config_name or "config").removesuffix(".yaml")
    folders = [folder]
    if options.config_dir:
        folders.append(Path(options.config_dir))
    if any((each / f"{name}.yaml").is_file() for each in folders):
        return
    for each in folders:
        for group in EXTRA_GROUPS:
            if (each / group / f"{name}.yaml").is_file():
                advice = f"did you mean {group}={name}?"
    places = " or ".join(map(str, folders))
    _refuse(f"there is no configuration {name} in {places}; {advice}")


def _is_package(path: str) -> bool:
    """Whether ``--cfg`` can print this part of the configuration alone."""
    if path == "_global_" or path.partition(".")[0] == "hydra":
        return True
    return any(each == path or each.startswith(f"{path}.") for each in setting_paths())


def _refuse_option(word: str) -> NoReturn:
    path, _, value = word.lstrip("-").partition("=")
    hint = suggest_override(path, value)
    help_text = "fathom train --help lists the options; a setting is path=value"
    _refuse(f"{word} is no option{hint} ({help_text})")


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _rename_setting(word: str) -> str:
    """Replaces a setting's old name and tells the user the new one."""
    path, separator, value = word.partition("=")
    old_name = path.lstrip("+~")  # Hydra's prefixes for adding and deleting
    if old_name not in RENAMED_SETTINGS:
        return word
    new_name = RENAMED_SETTINGS[old_name]
    print(
        f"fathom: {old_name} is now called {new_name}; the next release drops the old name",
        file=sys.stderr,
    )
    prefix = path.removesuffix(old_name)
    return f"{prefix}{new_name}{separator}{value}"


def _quote_split(word: str) -> str:
    """Quotes a slice such as train[:10%], whose brackets Hydra's grammar reads as a list."""
    path, _, value = word.partition("=")
    if path not in SPLIT_SETTINGS or "[" not in value:
        return word
    if value.startswith(("'", '"')):
        return word
    quoted = [f"'{split}'" for split in value.split(",")]
    return f"{path}={','.join(quoted)}"
