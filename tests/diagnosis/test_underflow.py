"""Where nothing measured what a number format loses, the verdict says so."""

import pytest

from research.diagnosis.underflow import judge_underflow
from research.diagnosis.verdict import Verdict


def judge_without_exponents(precision, format_):
    verdict = Verdict("healthy", 0, None, None, None, sentence="healthy.")
    settings = {"precision.kind": precision}
    return judge_underflow(verdict, [], [], format_=format_, settings=settings)


@pytest.mark.parametrize(
    ("precision", "format_"),
    [("float16", "float16"), ("mixed_float16", "float16"), ("float8_e4m3", "float8_e4m3fn")],
)
def test_a_default_run_in_a_narrow_format_says_that_underflow_was_not_measured(precision, format_):
    verdict = judge_without_exponents(precision, format_)
    assert verdict.kind == "healthy"
    assert verdict.sentence == (
        f"healthy. What {format_} loses was not measured: measure=full measures it."
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_format_with_a_wide_range_says_nothing(precision):
    assert judge_without_exponents(precision, precision).sentence == "healthy."
