"""The verdict on a network of unknown architecture, with the losses that its loop logged."""

import numpy as np
import pytest

from research.diagnosis.observed import Inputs, Observed
from research.diagnosis.stacks import Stack, judge_stacks

from .profiles import EXPLODING, HEALTHY, VANISHING, repeat

STEPS = 50


def judge_stack(signal, observed=None, **stack):
    """The verdict on one stack whose gradient stays the same."""
    verdicts = judge_stacks(
        np.arange(STEPS),
        np.stack(repeat(signal, STEPS)),
        stacks=[Stack("blocks", tuple(range(len(signal))), **stack)],
        names=[f"block {number}" for number in range(len(signal) - 1)],
        observed=observed,
    )
    assert verdicts is not None
    return verdicts


def judge_losses(first, last, signal=EXPLODING, chance_loss=None, **stack):
    """The verdict on one stack whose training loss changes from ``first`` to ``last``."""
    metrics = {"step": np.arange(STEPS), "train_loss": np.linspace(first, last, STEPS)}
    return judge_stack(signal, Observed(metrics=metrics, chance_loss=chance_loss), **stack)


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

    assert (
        "Healthy: the training loss fell from 2.37 to 0.528, the mean of the last 5 steps, although"
        in str(from_start)
    )
    assert "the training loss is 0.528, and that of chance 2.30, although" in str(from_chance)


def test_a_huge_loss_that_falls_is_not_fitted():
    verdicts = judge_losses(525_594.0, 5_000.0, VANISHING)

    assert verdicts.kind == "vanishing"
    assert "Fitted" not in str(verdicts)


def test_the_layer_that_passes_no_gradient_on_is_named():
    signal = HEALTHY[:9].copy()
    signal[:4] = 0
    signal[4] = 0.5

    verdicts = judge_stack(signal)

    assert verdicts.kind == "dead"
    assert str(verdicts).startswith(
        "Dead: block 3 passes no gradient on to block 0 to block 2, although it gets 0.25 of what "
        "block 7 gets."
    )
    assert verdicts.worst.findings[0].layers == [(0, 2)]
    assert verdicts.worst.findings[0].origin == 3


def test_a_verdict_on_sums_over_a_loop_says_that_it_does_not_see_the_iterations():
    verdicts = judge_stack(HEALTHY[:3], summed_iterations=64)

    assert verdicts.kind == "healthy"
    assert [finding.kind.name for finding in verdicts.worst.findings] == ["summed"]
    assert str(verdicts).startswith(
        "Healthy gradient: every layer gets the same squared gradient; it is multiplied by 1 per "
        "layer towards the input. Summed over a loop: the layers were measured as sums over all 64 "
        "iterations of a loop"
    )
    assert "per_iteration=True" in str(verdicts)


def test_iterations_get_the_advice_on_recurrent_networks():
    exploding = str(judge_stack(EXPLODING, is_loop=True))
    vanishing = str(judge_stack(VANISHING, is_loop=True))

    assert "is multiplied by 2 per iteration towards the start" in exploding
    assert exploding.endswith(
        "Try clipping the norm of the gradient, gates as in a GRU or LSTM or a recurrent "
        "matrix whose norm is at most 1."
    )
    assert "an orthogonal recurrent matrix" in vanishing
    assert "shortcuts" not in vanishing


def test_a_healthy_verdict_with_a_warning_says_what_helps():
    verdicts = judge_losses(2.37, 0.45, is_loop=True)

    assert verdicts.kind == "healthy"
    assert "Try clipping the norm of the gradient" in str(verdicts)


def test_the_loss_is_stated_once():
    losses = np.full(150, 2.3)
    metrics = {"step": np.arange(150), "train_loss": losses}

    flat = judge_stack(VANISHING, Observed(metrics=metrics, chance_loss=2.3))
    falling = judge_losses(2.3, 1.2, VANISHING, chance_loss=2.3)

    assert "Vanishing, so not learning: " in str(flat)
    assert str(flat).count("that of chance") == 1
    assert str(falling).endswith(
        "Over the last 5 steps the training loss is 1.24, and that of chance 2.30."
    )


def test_a_loop_that_explodes_until_it_diverges_says_both_in_one_clause():
    signal = np.stack(repeat(EXPLODING, STEPS))
    names = [f"block {number}" for number in range(len(EXPLODING) - 1)]
    verdicts = judge_stacks(
        np.arange(STEPS),
        signal,
        stacks=[Stack("blocks", tuple(range(len(EXPLODING))))],
        names=names,
        diverged=(30, 4, "activation"),
    )

    assert verdicts is not None
    assert verdicts.kind == "diverged"
    assert str(verdicts).startswith("Exploding, so diverged: the squared gradient is multiplied")
    assert "at step 30, first the activation of block 4." in str(verdicts)


def test_a_loop_that_loses_what_it_had_learned_is_told_what_has_changed():
    losses = np.concatenate([np.geomspace(2.3, 0.2, 100), np.linspace(0.2, 1.8, 300)])
    metrics = {
        "step": np.arange(400),
        "train_loss": losses,
        "learning_rate": np.linspace(0.01, 0.41, 400),
    }

    verdicts = judge_stack(HEALTHY, Observed(metrics=metrics))

    assert verdicts.kind == "healthy"
    assert "Slow divergence: the training loss was 0.2" in str(verdicts)
    assert "The learning rate was 0.1" in str(verdicts)
    assert "a learning rate that stays at 0.1" in str(verdicts)


DEAD_SIGNAL = [0.0, 0.0, 0.0, 0.0, 1.0]


def judge_inputs(signal, inputs, diverged=None):
    verdicts = judge_stacks(
        np.arange(STEPS),
        np.stack(repeat(signal, STEPS)),
        stacks=[Stack("blocks", tuple(range(len(signal))))],
        names=[f"block {number}" for number in range(len(signal) - 1)],
        diverged=diverged,
        observed=Observed(bad_inputs=inputs),
    )
    assert verdicts is not None
    return verdicts


def test_inputs_that_are_not_finite_explain_a_divergence_and_not_the_network():
    verdicts = judge_inputs(EXPLODING, Inputs(step=30, largest=np.inf), (30, 0, "activation"))
    assert verdicts.kind == "inputs"
    assert str(verdicts).startswith("Inputs, so diverged: the arguments of the loss other than")
    assert "not all finite from step 30 on" in str(verdicts)
    assert "Try" not in str(verdicts)


def test_inputs_that_are_all_zero_explain_a_dead_gradient_and_not_the_network():
    verdicts = judge_inputs(DEAD_SIGNAL, Inputs(step=0, largest=0.0))
    assert verdicts.kind == "inputs"
    assert "such as the batch, are all zero" in str(verdicts)
    assert "Try" not in str(verdicts)


@pytest.mark.parametrize("inputs", [Inputs(0, np.inf), Inputs(30, 1e3), None])
def test_inputs_that_did_no_harm_before_a_divergence_are_not_blamed(inputs):
    verdicts = judge_inputs(EXPLODING, inputs, (30, 0, "activation"))
    assert verdicts.kind == "diverged"


def test_zeros_are_not_blamed_where_a_gradient_arrives():
    assert judge_inputs(EXPLODING, Inputs(step=0, largest=0.0)).kind == "exploding"


def test_a_loss_that_is_not_finite_where_the_layers_are_has_advice_on_targets():
    profile = {"step": np.zeros(1, int), "activation_rms": np.ones((1, 5))}
    verdicts = judge_stacks(
        np.zeros(1, int),
        np.ones((1, 5)),
        stacks=[],
        names=["a", "b", "c", "d"],
        diverged=(0, None, ""),
        observed=Observed(profiles=profile),
    )
    assert "Try targets that the loss can take or labels below the number" in str(verdicts)
