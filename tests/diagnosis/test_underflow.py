"""Where nothing measured what a number format loses, the verdict says so."""

import pytest

from research.diagnosis.observed import Divergence, Observed
from research.diagnosis.training_findings import RunContext, describe_divergence
from research.diagnosis.underflow import find_format_findings


def find(precision, format_):
    return find_format_findings(Observed(format_=format_), {"precision.kind": precision})


@pytest.mark.parametrize(
    ("precision", "format_", "name"),
    [
        ("float16", "float16", "float16"),
        ("mixed_float16", "float16", "float16"),
        ("float8_e4m3", "float8_e4m3fn", "float8_e4m3"),
    ],
)
def test_a_default_run_in_a_narrow_format_says_that_underflow_was_not_measured(
    precision, format_, name
):
    (finding,) = find(precision, format_)
    assert not finding.is_severe
    assert finding.sentence == (
        f"Not measured: what {name} loses was not counted; measure=full counts it."
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_format_with_a_wide_range_says_nothing(precision):
    assert not find(precision, precision)


@pytest.mark.parametrize(
    ("format_", "words"),
    [
        ("float16", "the largest float16 number, about 6.55e+04"),
        ("float8_e4m3fn", "the largest float8_e4m3 number, about 448"),
        ("float8_e5m2", "the largest float8_e5m2 number, about 5.73e+04"),
    ],
)
def test_what_overflows_names_the_option_and_the_largest_number_of_its_format(format_, words):
    observed = Observed(format_=format_)

    finding = describe_divergence(RunContext(observed, {}, Divergence(0, 3, "activation")))

    assert finding is not None
    assert words in finding.text
