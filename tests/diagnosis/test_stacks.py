"""The verdict on a network of unknown architecture, with the losses that its loop logged."""

import numpy as np
import pytest

from research.diagnosis.observed import Observed
from research.diagnosis.stacks import Stack, judge_stacks

from .profiles import DEPTH, EXPLODING, VANISHING, repeat

STEPS = 50


def judge_losses(first, last, signal=EXPLODING, **observed):
    """The verdict on one stack whose training loss changes from ``first`` to ``last``."""
    metrics = {"step": np.arange(STEPS), "train_loss": np.linspace(first, last, STEPS)}
    verdicts = judge_stacks(
        np.arange(STEPS),
        np.stack(repeat(signal, STEPS)),
        stacks=[Stack("blocks", tuple(range(DEPTH + 1)))],
        names=[f"block {number}" for number in range(DEPTH + 1)],
        observed=Observed(metrics=metrics, **observed),
    )
    assert verdicts is not None
    return verdicts


@pytest.mark.parametrize(
    ("first", "last", "chance", "kind"),
    [
        (2.3, 0.4, None, "healthy"),
        (2.3, 2.2, None, "exploding"),
        (-1.0, -5.0, None, "exploding"),  # the loss of chance is not known, and no share of it
        (525_594.0, 110_000.0, None, "exploding"),  # no number of classes has such a loss of chance
        (14.0, 2.2, 2.3, "exploding"),
        (500.0, 80.0, 400.0, "healthy"),
    ],
)
def test_large_gradients_are_a_warning_where_the_loss_says_that_the_network_learns(
    first, last, chance, kind
):
    verdicts = judge_losses(first, last, chance_loss=chance)

    assert verdicts.kind == kind


def test_the_losses_that_speak_against_a_fault_are_shown():
    from_start = judge_losses(2.37, 0.45)
    from_chance = judge_losses(2.37, 0.45, chance_loss=2.3)

    assert "Healthy: the training loss fell from 2.37 to 0.528, although" in str(from_start)
    assert "the training loss is 0.528, and that of chance 2.30, although" in str(from_chance)


def test_a_huge_loss_that_falls_is_not_fitted():
    verdicts = judge_losses(525_594.0, 5_000.0, VANISHING)

    assert verdicts.kind == "vanishing"
    assert "Fitted" not in str(verdicts)
