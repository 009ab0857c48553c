"""Rewrites the words of ``fathom train`` into a form that Hydra accepts."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from research.config.errors import UsageError
from research.config.hydra_config import resource_dir

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
        UsageError: a word is an option that Hydra does not have.
    """
    arguments = []
    for word in _settings_before_options(words):
        word = _rename_setting(word)
        word = _quote_split(word)
        arguments.append(word)
    return arguments


def config_folders(words: Sequence[str]) -> list[Path]:
    """Where the files of config groups are: in the folder of ``--config-dir`` and in ``conf/``."""
    parsed, _ = get_args_parser().parse_known_args(words)
    folders = [resource_dir("conf")]
    if parsed.config_dir:
        folders.insert(0, Path(parsed.config_dir))
    return folders


def _settings_before_options(words: Sequence[str]) -> list[str]:
    """Hydra's parser does not accept a setting after an option, but users may write it there."""
    parser = get_args_parser()
    parser.error = _refuse  # argparse would print ten lines of usage
    parsed, unparsed = parser.parse_known_args(words)
    for word in unparsed:
        if word.startswith("-"):
            _refuse_option(word)
    settings = [*parsed.overrides, *unparsed]
    options = [word for word in words if word not in settings]
    return settings + options


def _refuse_option(word: str) -> NoReturn:
    hint = f"; did you mean {word.lstrip('-')}?" if "=" in word else ""
    help_text = "fathom train --help lists the options; a setting is path=value"
    _refuse(f"{word} is no option{hint} ({help_text})")


def _refuse(message: str) -> NoReturn:
    print(f"fathom: {message}", file=sys.stderr)
    raise UsageError(2)


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
