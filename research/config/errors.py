"""A user's mistake in one line: what, where, what would be valid, the nearest name."""

import difflib
import re
from collections.abc import Iterable, Sequence

from research.config.schema import options_with, setting_paths
from research.config.validation import valid


class UsageError(SystemExit):
    """The request was wrong, and the user has been told. Not caught by ``except Exception``."""


ALIASES = {  # what options and settings are also called, where people look for them
    "residual": "identity",
    "shortcut": "identity",
    "plain": "none",
    "xavier": "glorot",
    "kaiming": "he",
    "batchnorm": "batch",
    "layernorm": "layer",
    "swish": "silu",
    "half": "float16",
    "fp16": "float16",
    "bf16": "bfloat16",
    "lstm": "rnn",
    "gru": "rnn",
    "gpt": "transformer",
    "vit": "transformer",
    "rope": "rotary",
    "sgdm": "momentum",
    "l2": "mse",
    "before": "pre",
    "after": "post",
    "lr": "learning_rate",
    "wd": "weight_decay",
    "alpha": "branch_scale",
    "layers": "depth",
    "hidden": "width",
}


def nearest(word: str, words: Iterable[str]) -> str:
    """``; did you mean X?`` where a name, or another word for it, comes close, else nothing."""
    names = {name: name for name in words}
    names |= {spoken: name for spoken, name in ALIASES.items() if name in names}
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    return f"; did you mean {names[close[0]]}?" if close else ""


def explain(error: BaseException) -> str | None:
    """One line for an error that the request caused; None for a defect of ours."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, MissingConfigException):
            return _missing_option(cause)
    for cause in causes:
        if isinstance(cause, OmegaConfBaseException):
            return _bad_value(cause, str(error))
    if isinstance(error, OverrideParseException):
        return f"{_first_line(error)}: a setting is path=value, in quotes where it holds blanks"
    if "Ambiguous value" in str(error):
        return f"{_first_line(error)}: several values make a sweep, fathom train -m …"
    if isinstance(error, HydraException | ValueError):
        return _first_line(error)
    if isinstance(error, FileNotFoundError) and not error.filename:  # of our own words
        return _first_line(error)
    if isinstance(error, OSError) and error.filename:
        return f"cannot write {error.filename}: {error.strerror}"
    return None


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _missing_option(error: BaseException) -> str:
    name = getattr(error, "missing_cfg_file", None) or ""
    options = getattr(error, "options", None) or []
    group, _, option = str(name).rpartition("/")
    if not group:
        return _first_line(error)
    valid = ", ".join(sorted(options))
    other = (
        f"; another one of the TFDS catalogue is data=tfds data.dataset={option}"
        if group == "data"
        else ""
    )
    return f"there is no {group}={option}{nearest(option, options)} (valid: {valid}{other})"


def _bad_value(cause: BaseException, said: str) -> str:
    path = getattr(cause, "full_key", None) or ""
    message = _first_line(cause)
    if "not in" in message or "not in" in said.split("\n")[0] or "Could not override" in said:
        match = re.search(r"Could not override '([^']+)'", said)
        return unknown_setting(max(path, match.group(1) if match else "", key=len))
    if path and ("not Optional" in message or "not a ListConfig" in message):
        return f"{path} must be {valid(path)}"
    value = re.search(r"[Vv]alue '([^']*)'", message)
    if not path or not value:
        return f"{path}: {message}" if path and path not in message else message
    options = re.search(r"expected one of \[([^\]]*)\]", message)
    if options:
        hint = nearest(value.group(1), options.group(1).split(", "))
        return f"{path} must be one of {options.group(1)}, got {value.group(1)}{hint}"
    return f"{path} must be {valid(path)}, got {value.group(1)}"


def unknown_setting(path: str) -> str:
    """The line for a setting that does not exist, or not for the option that was chosen."""
    options = options_with(path)
    if options:
        group = path.partition(".")[0]
        return f"{path} is not a setting of the chosen {group}: it belongs to {_joined(options)}"
    names = setting_paths()
    group, _, leaf = path.rpartition(".")
    leaf = ALIASES.get(leaf, leaf)
    same_leaf = [name for name in names if name.rpartition(".")[2] == leaf]
    hint = f"; did you mean {same_leaf[0]}?" if same_leaf else nearest(path, names)
    siblings = [name for name in names if group and name.startswith(f"{group}.")]
    if not siblings:
        return f"{path} is not a setting{hint}"
    listed = ", ".join(name.removeprefix(f"{group}.") for name in siblings)
    return f"{path} is not a setting{hint} ({group} has: {listed})"


def _joined(words: Sequence[str]) -> str:
    """The words with commas, and ``and`` before the last."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"


class SweepEnded(Exception):
    """A sweep is over and its table has been shown; carries the exit code past Hydra."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code
