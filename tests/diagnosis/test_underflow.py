"""Where nothing measured what a number format loses, the verdict says so."""

import pytest

from research.diagnosis.observed import Observed
from research.diagnosis.underflow import find_format_findings


def find(precision, format_):
    return find_format_findings(Observed(format_=format_), {"precision.kind": precision})


@pytest.mark.parametrize(
    ("precision", "format_"),
    [("float16", "float16"), ("mixed_float16", "float16"), ("float8_e4m3", "float8_e4m3fn")],
)
def test_a_default_run_in_a_narrow_format_says_that_underflow_was_not_measured(precision, format_):
    (finding,) = find(precision, format_)
    assert not finding.is_severe
    assert finding.sentence == (
        f"Not measured: what {format_} loses was not counted; measure=full counts it."
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_format_with_a_wide_range_says_nothing(precision):
    assert not find(precision, precision)
