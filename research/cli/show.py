"""``fathom show``: one recorded run in the terminal."""

from collections.abc import Sequence

from research.reporting.show import show_run


def main(words: Sequence[str]) -> int:
    """Prints each of the named runs; returns the exit code.

    Raises:
        ValueError: no run is named, or a name fits none or several.
    """
    if not words:
        raise ValueError(
            "show which run? give its directory or part of its name; fathom runs lists them"
        )
    for word in words:
        show_run(word)
    return 0
