"""What is said of the settings that were written on the command line."""

import pytest

from research.config.given_settings import describe_long_intervals

from ..builders import make_config


@pytest.mark.parametrize(
    ("setting", "value", "lines"),
    [
        ("train.eval_every", 59, []),
        ("train.eval_every", 60, []),
        (
            "train.eval_every",
            1000,
            [
                "train.eval_every=1000 evaluates at the end alone, because the run has 60 steps",
            ],
        ),
        ("measure.every", 59, []),
        (
            "measure.every",
            60,
            ["measure.every=60 measures the first step alone, because the run has 60 steps"],
        ),
    ],
)
def test_an_interval_that_is_longer_than_the_run_is_named(setting, value, lines):
    config = make_config({setting: value})
    assert describe_long_intervals([f"{setting}={value}"], config, steps=60) == lines
    assert describe_long_intervals([], config, steps=60) == []
