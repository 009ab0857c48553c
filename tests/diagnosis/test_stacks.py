"""The verdict on a network of unknown architecture, with the losses that its loop logged."""

import numpy as np
import pytest

from research.diagnosis.observed import Observed
from research.diagnosis.stacks import Stack, judge_stacks

from .profiles import DEPTH, EXPLODING, repeat

STEPS = 50


@pytest.mark.parametrize(
    ("first", "last", "kind"),
    [
        (2.3, 0.4, "healthy"),
        (2.3, 2.2, "exploding"),
        (-1.0, -5.0, "exploding"),  # the loss of chance is not known, and no share of it
    ],
)
def test_large_gradients_are_a_warning_where_the_loss_says_that_the_network_learns(
    first, last, kind
):
    metrics = {"step": np.arange(STEPS), "train_loss": np.linspace(first, last, STEPS)}
    names = [f"block {number}" for number in range(DEPTH + 1)]

    verdicts = judge_stacks(
        np.arange(STEPS),
        np.stack(repeat(EXPLODING, STEPS)),
        stacks=[Stack("blocks", tuple(range(DEPTH + 1)))],
        names=names,
        observed=Observed(metrics=metrics),
    )

    assert verdicts is not None
    assert verdicts.kind == kind
