"""The check of arguments and results at run time, which ``conftest.py`` puts on the package."""

from collections.abc import Callable

from beartype import beartype


def check(function: Callable) -> Callable:
    """Checks a function's arguments and result against their annotations, except a local one's.

    Local functions are made again in each trace, and beartype would compile a check for each of
    them. None of them says shapes.
    """
    if "<locals>" in function.__qualname__:
        return function
    return beartype(function)
