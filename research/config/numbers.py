"""Numbers that a format cannot hold: written as something, read as 0."""

import re
import sys

# A number between the marks that separate the values of an override or of a YAML text.
NUMBER = re.compile(
    r"""
    (?<! [^=,\[({:\s'"] )                # after one of these marks, or at the start
    [+-]? ( [\d_]* \.? [\d_]+ | [\d_]+ \. )
    ( [eE] [+-]? \d+ )?
    (?! [^,\])}\s'"] )                    # before one of these, or at the end
    """,
    re.VERBOSE,
)
LEAST_FLOAT64 = sys.float_info.min
LEAST_FLOAT32 = 2.0**-126  # processors read a smaller number as 0


def check_not_lost(text: str) -> None:
    """Checks that no number in a text is so small that Python reads it as 0.

    >>> check_not_lost("optimizer.learning_rate=1e-4,0")
    >>> check_not_lost("optimizer.learning_rate=1e-400")
    Traceback (most recent call last):
    ValueError: 1e-400 is too small a number, it would be read as 0 (the least is 2.2e-308)

    Raises:
        ValueError: naming the number.
    """
    for match in NUMBER.finditer(text):
        is_written_as_zero = re.search("[1-9]", match.group(1)) is None
        if not is_written_as_zero and float(match.group()) == 0:
            raise ValueError(
                f"{match.group()} is too small a number, it would be read as 0 "
                f"(the least is {LEAST_FLOAT64:.2g})"
            )
