"""Checks the arguments of functions that users call from Python, with one line for a mistake."""

import contextlib
import math
import numbers
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def describe_argument(value: Any) -> str:
    """A value and its type, for a message.

    >>> describe_argument(3)
    '3 (int)'
    """
    return f"{short_repr(value)} ({type(value).__name__})"


def short_repr(value: Any) -> str:
    """A value as Python writes it, on one line; a long one without its middle.

    >>> short_repr([[0.5, 1], [2, 3]])
    '[[0.5, 1], [2, 3]]'
    """
    return " ".join(reprlib.repr(value).split())


@contextlib.contextmanager
def naming_option(option: str) -> Iterator[None]:
    """Puts an option, such as ``--x``, before what is wrong with its value.

    Args:
        option: the option; empty where the value is of none.

    Raises:
        ValueError: the block raised it.
    """
    try:
        yield
    except ValueError as error:
        if not option or type(error) is not ValueError:
            raise  # an error of its own kind, such as a damaged table, is not about the value
        raise ValueError(f"{option}: {error}") from error


def check_texts(
    name: str,
    values: Iterable[Any],
    example: str,
) -> None:
    """Refuses an argument of several texts that holds something else.

    Args:
        name: the argument.
        values: what was given, one after the other.
        example: a call that is valid.

    Raises:
        TypeError: one of them is no text.
    """
    for value in values:
        if not isinstance(value, str):
            raise TypeError(
                f"{name} must be texts, one after the other, as in {example}, "
                f"got {describe_argument(value)}"
            )


def check_function(name: str, value: Any) -> None:
    """Refuses what cannot be called.

    Args:
        name: the argument.
        value: what was given.

    Raises:
        TypeError: it cannot be called.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {describe_argument(value)}")


def check_settings(name: str, value: Any) -> None:
    """Refuses settings that are no dictionary.

    Args:
        name: the argument.
        value: what was given.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f'{name} must be a dictionary such as {{"width": 64}}, got {describe_argument(value)}'
        )


def check_whole(
    name: str,
    value: Any,
    least: int,
) -> None:
    """Refuses what is no whole number from ``least`` on.

    Args:
        name: the argument.
        value: what was given.
        least: the smallest valid number.

    Raises:
        ValueError: it is something else.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(
            f"{name} must be a whole number of at least {least}, got {short_repr(value)}"
        )


def check_positive(
    name: str,
    value: Any,
    example: str,
) -> None:
    """Refuses what is no finite number above 0.

    Args:
        name: the argument.
        value: what was given.
        example: a valid number, and of what.

    Raises:
        ValueError: it is something else.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < float(value) < math.inf:
        raise ValueError(
            f"{name} must be a positive number, such as {example}, got {short_repr(value)}"
        )
