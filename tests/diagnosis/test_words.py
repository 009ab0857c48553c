"""The numbers of verdicts have the digits that a reader needs."""

import pytest

from research.diagnosis import words


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (0.097354, "0.0974"),
        (0.998651, "0.9987"),
        (0.990951, "0.991"),
        (1.001349, "1.0013"),
        (1.0000123, "1.000012"),
        (1.00000004, "1"),
        (1.0, "1"),
        (12.3456, "12.3"),
        (0.0, "0"),
    ],
)
def test_a_factor_close_to_1_has_two_digits_of_its_distance_from_1(factor, text):
    assert words.format_factor(factor) == text
