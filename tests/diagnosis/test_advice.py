"""Which change each rule names first, by what happened. Other tests train these changes."""

import numpy as np
import pytest

from research.diagnosis import findings
from research.diagnosis.advice import MOST_REMEDIES, RULES, Situation, advise
from research.diagnosis.findings import KINDS, Finding, Severity
from research.diagnosis.observed import Observed

from .profiles import DEPTH, EXPLODING, HEALTHY, SILENT, VANISHING, judge_rows, repeat, settings

CHANCE = float(np.log(10))
LATE = [*repeat(HEALTHY, 5), *repeat(VANISHING, 45)]
LATE_EXPLODING = [*repeat(HEALTHY, 5), *repeat(EXPLODING, 45)]


def first_remedy(rows, diverged=None, observed=None, **changes):
    changes.setdefault("model__depth", DEPTH)
    verdict = judge_rows(
        *rows, settings=settings(**changes), diverged=diverged, observed=observed or Observed()
    )
    finding = verdict.findings[0]
    assert len(finding.remedies) <= MOST_REMEDIES
    assert all(remedy.source for remedy in finding.remedies)
    return finding.remedies[0].change


@pytest.mark.parametrize(
    ("rows", "changes", "change"),
    [
        ([VANISHING], {"init__kind": "glorot"}, "skip=inv_sqrt_depth"),
        ([EXPLODING], {"init__gain": 1.5}, "skip=inv_sqrt_depth"),
        ([EXPLODING], {"norm__kind": "batch"}, "skip=identity"),
        ([EXPLODING], {"skip__kind": "identity"}, "skip=inv_sqrt_depth"),
        ([VANISHING], {"skip__kind": "highway"}, "skip.gate_bias=-5.47"),
        ([SILENT], {"init__kind": "zeros"}, "init=he"),
        ([SILENT], {"init__gain": 0.0}, "init.gain=1"),
        (LATE, {}, "optimizer.learning_rate=0.001"),
        (LATE_EXPLODING, {}, "optimizer.learning_rate=0.001"),
        # It was healthy at first, but theory says that it could not stay so.
        (LATE_EXPLODING, {"norm__kind": "batch", "model__depth": 60}, "skip=identity"),
        (
            LATE,
            {"optimizer__weight_decay": 100.0},
            "optimizer.weight_decay=0",
        ),
        # No network learns at a rate of 1e-10.
        (
            [EXPLODING],
            {"init__gain": 1.5, "optimizer__learning_rate": 1e-10},
            "skip=inv_sqrt_depth optimizer.learning_rate=0.01",
        ),
        # The rate rises until the end.
        (
            LATE,
            {"optimizer__schedule": "linear", "optimizer__end_value": 5.0},
            "optimizer.end_value=0.01",
        ),
    ],
)
def test_the_first_remedy_of_a_gradient_over_depth(rows, changes, change):
    assert first_remedy(rows, **changes) == change


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (HEALTHY, "was healthy at the start, and the updates up to step 5 ended that"),
        (EXPLODING, "carries the gradient badly from the start, and the updates up to step 5"),
    ],
)
def test_the_cause_of_what_came_with_training_says_how_the_network_started(first, words):
    rows = [*repeat(first, 5), *repeat(VANISHING, 45)]

    verdict = judge_rows(*rows, settings=settings(norm__kind="batch", model__depth=60))

    vanishing = [finding for finding in verdict.findings if finding.kind is findings.VANISHING]
    assert f"Depth 60 without skip connections {words}" in vanishing[0].cause


@pytest.mark.parametrize(
    ("diverged", "changes", "change"),
    [
        ((0, 3, "activation"), {"init__gain": 4.0}, "init.gain=1"),
        ((0, 3, "activation"), {"precision__kind": "mixed_float16"}, "precision=mixed_bfloat16"),
        ((0, 3, "activation"), {"precision__kind": "float8_e4m3"}, "precision.tensor_scale=true"),
        ((0, 3, "gradient"), {"precision__kind": "float16"}, "precision.loss_scaling=dynamic"),
        ((9, 3, "gradient"), {"precision__kind": "float16"}, "precision.loss_scaling=dynamic"),
        ((9, 3, "activation"), {}, "optimizer.learning_rate=0.001"),
        ((9,), {}, "optimizer.learning_rate=0.001"),
    ],
)
def test_the_first_remedy_of_a_run_that_diverged(diverged, changes, change):
    assert first_remedy(repeat(HEALTHY, 9), diverged, **changes) == change


def test_a_rate_that_makes_a_healthy_network_explode_is_to_blame():
    rows = [HEALTHY, *repeat(EXPLODING, 8)]
    assert first_remedy(rows, (9, 3, "activation")) == "optimizer.learning_rate=0.001"
    initial = repeat(EXPLODING, 9)
    assert first_remedy(initial, (9, 3, "activation"), init__gain=1.5) == "skip=inv_sqrt_depth"


def observe(losses):
    metrics = {"step": np.arange(len(losses)), "train_loss": np.asarray(losses)}
    return Observed(metrics=metrics, chance_loss=CHANCE)


AT_CHANCE = np.full(200, CHANCE)
JUMPED = np.concatenate([[9.0], AT_CHANCE])
FORGOTTEN = np.concatenate([np.linspace(CHANCE, 1.9, 100), AT_CHANCE])


@pytest.mark.parametrize(
    ("losses", "changes", "change"),
    [
        (AT_CHANCE, {"optimizer__learning_rate": 0.0}, "optimizer.learning_rate=0.01"),
        (AT_CHANCE, {"optimizer__learning_rate": 1e-6}, "optimizer.learning_rate=0.01"),
        (AT_CHANCE, {"optimizer__learning_rate": 0.5}, "optimizer.learning_rate=0.01"),
        (AT_CHANCE, {}, "optimizer=adam optimizer.learning_rate=0.001"),
        (AT_CHANCE, {"init__kind": "lecun"}, "skip=inv_sqrt_depth"),
        (JUMPED, {}, "optimizer.learning_rate=0.001"),
        # The first loss is large, but updates of this size have not made it so.
        (JUMPED, {"optimizer__learning_rate": 1e-7}, "optimizer.learning_rate=0.01"),
        (FORGOTTEN, {}, "optimizer.learning_rate=0.001"),
    ],
)
def test_the_first_remedy_of_a_run_that_does_not_learn(losses, changes, change):
    rows = repeat(HEALTHY, 20)
    assert first_remedy(rows, observed=observe(losses), **changes) == change


@pytest.mark.parametrize(
    ("changes", "change"),
    [
        ({}, "precision.loss_scaling=dynamic"),
        # A loss scale does not help layers whose gradient the network removes.
        ({"init__gain": 0.6}, "skip=inv_sqrt_depth"),
        (
            {"skip__kind": "scaled", "skip__shortcut_scale": 0.3, "skip__branch_scale": 0.2},
            "skip.shortcut_scale=1",
        ),
    ],
)
def test_a_network_that_removes_the_gradient_is_changed_before_the_number_format(changes, change):
    found = Finding(findings.UNDERFLOW, Severity.severe, "", first_step=0)
    run = settings(precision__kind="mixed_float16", model__depth=20, **changes)

    advised = advise(Situation(found, run))

    assert advised.remedies[0].change == change


@pytest.mark.parametrize(
    ("scaling", "scale", "changes"),
    [
        ("dynamic", 1e30, ["precision.loss_scale=32768", "precision=mixed_bfloat16"]),
        ("dynamic", 32768.0, ["precision.loss_scale=32", "precision=mixed_bfloat16"]),
        ("static", 1e30, ["precision.loss_scaling=dynamic", "precision.loss_scale=32768"]),
    ],
)
def test_a_scale_that_overflows_is_made_smaller(scaling, scale, changes):
    found = Finding(findings.OVERFLOW, Severity.severe, "", first_step=0)
    run = settings(
        precision__kind="mixed_float16",
        precision__loss_scaling=scaling,
        precision__loss_scale=scale,
    )

    advised = advise(Situation(found, run))

    assert [remedy.change for remedy in advised.remedies][:2] == changes


def test_weights_that_saturate_the_first_step_are_made_smaller_before_anything_else():
    evidence = {"chance_loss": CHANCE, "lowest_loss": 17.0, "highest_loss": 18.0}
    found = Finding(findings.NOT_LEARNING, Severity.severe, "", first_step=0, evidence=evidence)
    run = settings(activation__kind="tanh", init__gain=10.0, model__depth=3)

    advised = advise(Situation(found, run, initial_others=["saturated"]))

    assert advised.remedies[0].change == "init.gain=1"


@pytest.mark.parametrize(
    ("rate", "ratio", "change"),
    [
        (1e-4, 1e-5, "optimizer.learning_rate=0.01"),
        (1e-8, 1e-10, "optimizer.learning_rate=0.01"),  # the usual rate is farther than 1000 times
        (1e6, 1e9, "optimizer.learning_rate=0.01"),
        (0.01, 1e-8, "optimizer.learning_rate=10"),
    ],
)
def test_the_rate_for_usual_updates_is_far_from_the_present_one_only_towards_usual_rates(
    rate, ratio, change
):
    found = Finding(findings.UPDATE_RATIO, Severity.warning, "", evidence={"median": ratio})
    run = settings(optimizer__learning_rate=rate)

    advised = advise(Situation(found, run))

    assert [remedy.change for remedy in advised.remedies] == [change]


def test_rules_are_about_kinds_that_exist():
    assert set(RULES) <= set(KINDS)


def test_weights_that_are_too_small_are_named_beside_the_depth():
    verdict = judge_rows(VANISHING, settings=settings(init__gain=0.5))
    assert "without skip connections, and init.gain is 0.5 instead of 1: try" in verdict.sentence


def test_weights_of_a_critical_scale_are_not_blamed():
    verdict = judge_rows(VANISHING, settings=settings(init__gain=1.1))
    assert "instead of" not in verdict.sentence


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("constant", "at a learning rate of 5 have"),
        ("warmup", "at a learning rate of up to 5 have"),
    ],
)
def test_a_rate_that_changes_is_stated_as_a_bound(schedule, words):
    rows = [*repeat(HEALTHY, 5), *repeat(SILENT, 45)]
    changes = {"optimizer__schedule": schedule, "optimizer__learning_rate": 5.0}
    verdict = judge_rows(*rows, settings=settings(model__depth=DEPTH, **changes))
    assert words in verdict.findings[0].advice
