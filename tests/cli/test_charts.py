"""The charts and numbers that a terminal shows."""

import math

import pytest

from research.reporting.tables import bar_chart, format_number, format_ratio


@pytest.mark.parametrize("count", [1, 2, 79, 80, 81, 1000])
def test_a_chart_fits_the_terminal_and_labels_its_range(count):
    values = [float(value) for value in range(count)]
    lines = bar_chart(values)
    assert len(lines) == 8
    for line in lines:
        assert len(line.rstrip()) <= 100
    top_label = lines[0].split()[-1]
    assert top_label.replace("e+02", "")
    assert lines[-1].endswith("  0")
    assert lines[-1][0] in "▁█"


@pytest.mark.parametrize("count", [50, 81, 102, 161])
def test_a_chart_ends_at_the_first_and_the_last_value(count):
    values = [1.0] * count
    values[0] = 2.0
    values[-1] = 3.0
    lines = bar_chart(values, width=34)
    assert lines[0].endswith("  3")
    bars = lines[4][:34]
    assert bars[0] != " "
    assert bars[-1] == "█"
    assert bars[1:-1].strip() == ""


def test_a_chart_has_a_gap_where_a_value_is_not_finite():
    lines = bar_chart([1.0, math.nan, 2.0, -math.inf, 3.0])
    for line in lines:
        assert line[1] == " "
        assert line[3] == " "
    assert lines[0].endswith("  3")
    assert lines[-1].endswith("  1")


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]], ids=str)
def test_there_is_no_chart_without_finite_values(values):
    assert bar_chart(values) == []


def test_equal_values_have_bars_of_equal_height():
    for line in bar_chart([2.0, 2.0, 2.0]):
        assert line[0] == line[1] == line[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.123456, "0.123"),
        (1e-30, "1e-30"),
        (12, "12"),
    ],
)
def test_a_number_is_short_and_a_missing_one_is_a_dash(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (-math.inf, "0"),
        (math.inf, "∞"),
        (-400.0, "1e-400"),
        (500.2, "1e+500"),
        (0.0, "1"),
        (-1.0, "0.1"),
    ],
)
def test_a_ratio_is_shown_although_a_float_could_not_hold_it(log10, text):
    assert format_ratio(log10) == text
