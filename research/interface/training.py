"""Training in this process: ``fathom.train`` and ``fathom.sweep``."""

import contextlib
import io
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from numbers import Number
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from research.config.arguments import describe_argument
from research.config.override_checks import MAX_JOBS
from research.config.quoting import is_like_path, quote_text
from research.config.schema import list_paths, setting_paths, text_paths
from research.interface.runs import RecordedRun, runs_in
from research.reporting.collection import Runs

Overrides = str | Sequence[str] | Mapping[str, Any]


def train(*overrides: Overrides) -> RecordedRun:
    """Trains one run in this process, as ``fathom train`` does, and returns its record.

    A run that has finished already is not trained again. A notebook shows the progress as a bar
    below the cell; elsewhere it is on standard error.

    Args:
        *overrides: settings, as words of the command line (``"model.depth=64"``), lists of them, or
            dictionaries (``{"model.depth": 64}``).

    Returns:
        The run, also where it diverged: ``status`` says how it ended.

    Raises:
        ValueError: a setting is wrong; the message is that of the command line.
        TypeError: an override is neither a word nor a list or dictionary of settings.
        KeyboardInterrupt: the user interrupted it; the run can be resumed.

    Example:
        >>> import fathom
        >>> run = fathom.train("model.depth=8", {"skip": "identity"})  # doctest: +SKIP
        >>> run.plot("curves")  # doctest: +SKIP
    """
    words = _words(overrides)
    _check_single(words)
    _check_no_sweep(words)
    runs = _train_words(words)
    return RecordedRun(runs[0].directory)


def sweep(grid: Mapping[str, Any], *overrides: Overrides) -> Runs:
    """Trains a run for each combination of values, in this process, and returns their records.

    Runs that differ only in traced numbers are trained as one program
    (``hydra/launcher=grouped``). Runs that have finished already are not trained again.

    Args:
        grid: for each setting its value or its values: ``{"model.depth": [4, 16], "seed":
            range(3)}``.
        *overrides: further settings that all runs have, as for ``train``; ``name=…`` names the
            folder.

    Returns:
        The runs in the order of the combinations; those that failed before they had a record are
        left out, and named on standard error.

    Raises:
        ValueError: a setting is wrong; nothing was trained.
        TypeError: the grid is no dictionary, or an override is no setting.
        KeyboardInterrupt: the user interrupted it; the same call goes on.

    Example:
        >>> import fathom
        >>> grid = {"model.depth": [4, 16, 64], "skip": ["none", "identity"], "seed": range(3)}
        >>> runs = fathom.sweep(grid, "name=depth")  # doctest: +SKIP
        >>> runs.summary("eval_accuracy")  # doctest: +SKIP
    """
    if not isinstance(grid, Mapping):
        raise TypeError(
            'the grid must be a dictionary such as {"model.depth": [4, 16]}, '
            f"got {describe_argument(grid)}"
        )
    words = ["-m", *_words(overrides)]
    for path, values in grid.items():
        if not isinstance(path, str):
            raise _not_a_setting({path: values})
        words.append(f"{path}={_values(path, values)}")
    if not any(word.startswith("hydra/launcher=") for word in words):
        words.append("hydra/launcher=grouped")
    return _train_words(words)


def _words(overrides: Iterable[Overrides]) -> list[str]:
    """The overrides as words of the command line.

    Raises:
        ValueError: a word is an option.
    """
    words: list[str] = []
    for override in overrides:
        if isinstance(override, str):
            words.append(override)
        elif isinstance(override, Mapping):
            for path, value in override.items():
                _check_one_value(path, value)
                words.append(_make_word(path, value))
        elif isinstance(override, Sequence):
            words += _check_words(override)
        else:
            raise _not_a_setting(override)
    for word in words:
        if word.startswith("-"):
            raise ValueError(f"{word} is no option: a call takes settings such as model.depth=8")
    return words


def _check_words(words: Sequence[Any]) -> list[str]:
    """The words of a list.

    Raises:
        TypeError: one of them is no text.
    """
    for word in words:
        if not isinstance(word, str):
            raise _not_a_setting(word)
    return list(words)


def _not_a_setting(value: Any) -> TypeError:
    return TypeError(
        'a setting must be a text such as "model.depth=8" or in a dictionary such as '
        f'{{"model.depth": 8}}, got {describe_argument(value)}'
    )


def _check_single(words: Sequence[str]) -> None:
    """Refuses values of several runs, with the call that trains them.

    Raises:
        ValueError: a setting has several values.
    """
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            continue  # the command line refuses it
        if override.is_sweep_override():
            path = override.get_key_element()
            value = word.partition("=")[2]
            hint = ""
            if path in text_paths() and is_like_path(value):
                hint = f"; a path with commas stands in a dictionary: {{{path!r}: {value!r}}}"
            raise ValueError(
                f"{word} holds several values, which make a sweep: "
                f'fathom.sweep({{"{path}": […]}}) takes a list of them{hint}'
            )


def _check_no_sweep(words: Sequence[str]) -> None:
    """Refuses an experiment that is a sweep, with the call that trains it.

    Raises:
        ValueError: the words ask for several runs.
    """
    from research.sweeps.planning import count_runs

    named = [word for word in words if word.startswith("experiment=")]
    if not named:
        return
    try:
        num_runs = count_runs(words)
    except (HydraException, OmegaConfBaseException, ValueError):
        return  # the command line refuses it
    if num_runs > 1:
        raise ValueError(f'{named[-1]} is a sweep: fathom.sweep({{}}, "{named[-1]}") trains it')


def _check_one_value(path: Any, value: Any) -> None:
    """Refuses the values of several runs, with the call that trains them.

    Raises:
        ValueError: the setting takes no list.
    """
    if _is_data_in_place_of_a_file(path, value):
        raise _not_a_file(path, value)
    is_list = isinstance(value, list | tuple | range) or _is_array(value)
    if is_list and path in setting_paths() and path not in list_paths():
        raise ValueError(
            f"{path} must have one value, got {describe_argument(value)}: "
            f'fathom.sweep({{"{path}": […]}}) trains a run for each'
        )


def _is_array(value: Any) -> bool:
    """Whether a value is an array with axes, of any library."""
    return bool(getattr(value, "ndim", 0))


def _is_data_in_place_of_a_file(path: Any, value: Any) -> bool:
    """Whether a value is arrays of data, or holds some, where a path or nothing can be given."""
    is_of_data = path == "data" or str(path).startswith("data.")
    if not is_of_data or (path in setting_paths() and path != "data.path"):
        return False
    if isinstance(value, Mapping):
        return path == "data.path" or any(map(_is_data, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_data, value))
    return _is_data(value)


def _is_data(value: Any) -> bool:
    """Whether a value is an array of something else than texts."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return _is_array(value) and kind not in ("U", "O")


def _not_a_file(path: str, value: Any) -> ValueError:
    problem = "must be the path of a file" if path == "data.path" else "cannot hold arrays"
    return ValueError(
        f"{path} {problem}, got {describe_argument(value)}: data=arrays data.path=mine.npz reads "
        "a file such as numpy.savez('mine.npz', x=…, y=…) writes"
    )


def _make_word(path: str, value: Any) -> str:
    """A setting as a word of the command line; a text that Hydra cannot parse is quoted.

    Raises:
        ValueError: the value is a dictionary.
    """
    if not isinstance(path, str):
        raise _not_a_setting({path: value})
    return f"{path}={_text_of(path, value)}"


def _text_of(path: str, value: Any) -> str:
    """A value as the command line writes it; a text that Hydra reads as something else is quoted.

    Args:
        path: the setting.
        value: its value.

    Raises:
        ValueError: the value is a dictionary, an array, or no value of a setting.
    """
    if _is_data_in_place_of_a_file(path, value):
        raise _not_a_file(path, value)
    if isinstance(value, Mapping):
        raise ValueError(f"{path} must have a value, got a dictionary: name {path}.SETTING instead")
    if _is_array(value):
        if path not in list_paths() or value.ndim > 1:
            kind = "a list" if path in list_paths() else "a number, a text or a list"
            raise ValueError(
                f"{path} must have {kind} as its value, got {describe_argument(value)}"
            )
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple | range):
        return f"[{','.join(_text_of(path, each) for each in value)}]"
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    is_file = isinstance(value, os.PathLike)
    if is_file:
        value = os.fsdecode(value)
    if value is not None and not isinstance(value, str | Number | Enum):
        raise ValueError(
            f"{path} must have a number, a text or a list as its value, "
            f"got {describe_argument(value)}"
        )
    text = _value(value)
    if not isinstance(value, str) or _is_read_as_it_is(path, value, is_file=is_file):
        return text
    return quote_text(value)


def _is_read_as_it_is(
    path: str,
    value: str,
    *,
    is_file: bool,
) -> bool:
    """Whether Hydra accepts a text, and as a text where the setting or the value is one.

    Args:
        path: the setting.
        value: the text.
        is_file: whether the text is certainly one, because it was given as ``pathlib.Path``.
    """
    if value.endswith("\\"):
        return False  # it would escape a comma or a bracket that follows
    try:
        override = OverridesParser.create().parse_override(f"{path}={value}")
    except HydraException:
        return False
    is_text = is_file or path in text_paths()
    return not is_text or override.value() == value


def _values(path: str, values: Any) -> str:
    """The values of a setting of a grid; a single value is a list of one.

    Raises:
        ValueError: there are none, or more than a sweep may have runs, or they are a dictionary.
    """
    if _is_data_in_place_of_a_file(path, values):
        raise _not_a_file(path, values)
    is_iterable = isinstance(values, Iterable) and not isinstance(values, str | Mapping)
    is_several = is_iterable and getattr(values, "ndim", 1) > 0  # an array may hold one number
    several = values if is_several else [values]
    texts = [_text_of(path, value) for value in itertools.islice(several, MAX_JOBS + 1)]
    if len(texts) > MAX_JOBS:
        raise ValueError(f"the sweep must have at most {MAX_JOBS} runs, got more values of {path}")
    if not texts:
        raise ValueError(f"{path} must have a value, got an empty list")
    return ",".join(texts)


def _value(value: Any) -> str:
    """A value as the command line writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    return str(value)


def _train_words(words: Sequence[str]) -> Runs:
    """Runs ``fathom train`` with these words and returns the runs that it names."""
    from research.cli import train as command
    from research.config.errors import UsageError
    from research.runner.session import Session

    session = Session(prints_errors=False)
    with _unchanged_process(), contextlib.redirect_stdout(io.StringIO()):
        try:
            command.main(words, session)
        except UsageError as error:
            message = error.message or f"fathom train ended with exit code {error}"
            raise ValueError(message) from None
    if session.interrupted:
        raise KeyboardInterrupt
    return runs_in(session.directories)


@contextlib.contextmanager
def _unchanged_process() -> Iterator[None]:
    """Leaves what Hydra and the command line change in a process as it was before.

    That is Hydra's global state, the arguments, the signal handlers, the working directory, the
    environment variable ``HYDRA_FULL_ERROR`` and the handlers and level of the root logger.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    arguments = sys.argv
    directory = os.getcwd()
    hydra = GlobalHydra.instance().hydra
    hydra_config = HydraConfig.instance().cfg
    root_logger = logging.getLogger()
    log_handlers = list(root_logger.handlers)
    log_level = root_logger.level
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handlers[number] = signal.getsignal(number)
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra
        HydraConfig.instance().cfg = hydra_config
        sys.argv = arguments
        os.chdir(directory)
        root_logger.handlers[:] = log_handlers
        root_logger.setLevel(log_level)
        if in_main_thread:
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)
