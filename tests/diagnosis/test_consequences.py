"""A cause and its consequence are named in one clause, the cause first."""

import numpy as np
import pytest

from research.diagnosis.observed import Observed
from research.diagnosis.verdict import judge

from .profiles import EXPLODING, HEALTHY, SILENT, VANISHING, judge_rows, repeat, settings

LN_10 = float(np.log(10))
STEPS = 300
CHANCE = np.full(STEPS, LN_10)


def judge_losses(rows, losses, **profiles):
    """The verdict on measured rows and losses; gauges stay the same over the run."""
    steps = np.arange(len(losses))
    measured = {"step": steps, "signal_grad": np.array(rows)}
    for name, values in profiles.items():
        measured[name] = np.tile(values, (len(losses), 1))
    observed = Observed({"step": steps, "train_loss": losses}, measured, chance_loss=LN_10)
    return judge(steps, np.array(rows), settings=settings(), observed=observed)


def test_a_gradient_that_explodes_until_the_numbers_are_not_finite():
    verdict = judge_rows(EXPLODING, EXPLODING, diverged=(2, 5, "activation"))

    assert verdict.kind == "diverged"
    assert verdict.sentence.startswith("Exploding, so diverged: the squared gradient is")
    assert "Numbers stop being finite at step 2, first the activation of layer 5." in (
        verdict.sentence
    )
    assert verdict.sentence.count("Exploding") == 1


@pytest.mark.parametrize(
    ("signal", "title"), [(VANISHING, "Vanishing"), (EXPLODING, "Exploding"), (SILENT, "Dead")]
)
def test_a_network_that_learns_nothing_because_of_its_gradient(signal, title):
    verdict = judge_losses(repeat(signal, STEPS), CHANCE)

    assert verdict.kind == title.lower()
    assert verdict.sentence.startswith(f"{title}, so not learning: ")
    assert "After 300 steps the training loss is 2.303" in verdict.sentence
    assert verdict.sentence.count("ot learning") == 1


def test_a_network_whose_units_are_dead_learns_nothing():
    verdict = judge_losses(repeat(HEALTHY, STEPS), CHANCE, dead=np.full(32, 0.9))

    assert verdict.kind == "not_learning"
    assert verdict.sentence.startswith("Dead units, so not learning: 90 % of the units")


def test_what_came_long_afterwards_is_no_cause():
    rows = repeat(HEALTHY, 250) + repeat(VANISHING, 50)
    verdict = judge_losses(rows, CHANCE)

    assert verdict.sentence.startswith("Vanishing: ")
    assert "Not learning: after 300 steps" in verdict.sentence


def test_a_loss_that_is_lost_before_the_gradient_vanishes_is_the_cause():
    losses = np.concatenate([np.geomspace(LN_10, 0.3, 100), np.linspace(0.3, 1.9, 200)])
    late = judge_losses(repeat(HEALTHY, 250) + repeat(VANISHING, 50), losses)
    early = judge_losses(repeat(HEALTHY, 90) + repeat(VANISHING, 210), losses)

    assert late.kind == "slow_divergence"
    assert late.sentence.startswith("Slow divergence, so vanishing: the training loss was 0.3")
    assert early.kind == "vanishing"
    assert early.sentence.startswith("Vanishing, so slow divergence: ")


def test_a_run_without_consequences_has_the_title_of_its_kind():
    assert judge_rows(VANISHING).sentence.startswith("Vanishing: ")
