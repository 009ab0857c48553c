"""Verdicts of earlier versions that contradicted their own numbers, or said nothing of a fault."""

import math
import re

import numpy as np
import pytest

from research.config.schema import Config, make_option
from research.diagnosis import findings
from research.diagnosis.advice import RULES
from research.diagnosis.depth import make_history
from research.diagnosis.findings import Finding, Severity
from research.diagnosis.observed import Observed, Theory
from research.diagnosis.prediction import predict
from research.diagnosis.verdict import add_advice, judge

from .profiles import (
    DEPTH,
    EXPLODING,
    HEALTHY,
    SILENT,
    VANISHING,
    geometric,
    judge_rows,
    repeat,
    settings,
)

LN_10 = math.log(10)


def observe(losses, **others):
    """The losses of the steps 0, 1, 2, …, with the chance loss of ten classes."""
    losses = np.asarray(losses, float)
    others.setdefault("chance_loss", LN_10)
    metrics = {"step": np.arange(len(losses)), "train_loss": losses}
    metrics |= others.pop("metrics", {})
    return Observed(metrics=metrics, **others)


def kinds(verdict):
    return [finding.kind.name for finding in verdict.findings]


def test_a_run_whose_first_layer_receives_less_is_not_called_exploding():
    """The layers above the middle receive up to 1e5 times, the first layer 1e-6 times."""
    logs = np.concatenate([np.linspace(-6, 5, 17), np.linspace(5, 0, 17)[1:]])
    verdict = judge_rows(10 ** (logs / 2))
    assert verdict.kind == "vanishing"
    assert kinds(verdict) == ["vanishing", "exploding"]
    assert "layer 0 gets 1e-6 of" in verdict.findings[0].sentence
    assert "layer 15 gets 1e+5 times" in verdict.findings[1].sentence


def test_the_kind_holds_at_the_step_since_which_it_holds():
    """The mean over the last steps is healthy, while the very last two steps vanish."""
    rows = repeat(VANISHING, 100) + repeat(HEALTHY, 58) + repeat(VANISHING, 2)
    verdict = judge_rows(*rows)
    assert verdict.kind == "healthy"
    assert verdict.since_step == 100


def test_a_single_step_without_gradient_is_not_dead():
    middle = judge_rows(*repeat(HEALTHY, 50), SILENT, *repeat(HEALTHY, 49))
    end = judge_rows(*repeat(HEALTHY, 99), SILENT)
    assert middle.kind == end.kind == "healthy"


def test_a_run_that_vanished_for_most_of_its_time_says_so():
    verdict = judge_rows(*repeat(VANISHING, 90), *repeat(HEALTHY, 10))
    assert verdict.kind == "healthy"
    assert "Vanishing" in verdict.sentence
    assert "From step 0 to 89" in verdict.sentence


def test_a_loss_spike_is_mentioned():
    losses = np.linspace(2.3, 0.5, 200)
    losses[120] = 9.0
    verdict = judge_rows(*repeat(HEALTHY, 200), observed=observe(losses))
    assert kinds(verdict) == ["spike"]
    assert "at step 120 the training loss jumps" in verdict.sentence


def test_larger_weights_are_not_advised_where_the_first_step_was_healthy():
    verdict = judge_rows(*repeat(HEALTHY, 3), *repeat(VANISHING, 97))
    assert verdict.kind == "vanishing"
    assert "init." not in verdict.sentence


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_orthogonal_weights_are_not_advised_where_they_halve_the_gradient(activation):
    changed = settings(activation__kind=activation, init__kind="glorot", model__depth=DEPTH)
    verdict = judge_rows(VANISHING, settings=changed)
    assert "try" in verdict.sentence.lower()
    assert "orthogonal" not in verdict.sentence


def test_tanh_instead_of_a_sigmoid_comes_with_a_smaller_rate():
    changed = settings(
        activation__kind="sigmoid", init__kind="glorot", optimizer__learning_rate=0.5
    )
    verdict = judge_rows(VANISHING, settings=changed)
    tanh = re.findall(r"activation=tanh( and optimizer\.learning_rate=[\d.]+)?", verdict.sentence)
    assert all(tanh), verdict.sentence


def test_the_learning_rate_is_named_where_a_healthy_run_vanished_at_step_3():
    verdict = judge_rows(*repeat(HEALTHY, 3), *repeat(VANISHING, 97))
    assert verdict.since_step == 3
    first = verdict.findings[0].remedies[0]
    assert first.change == "optimizer.learning_rate=0.001"


def test_a_forward_overflow_at_step_0_is_not_called_too_large_a_step():
    changed = settings(precision__kind="mixed_float16")
    verdict = judge_rows(
        HEALTHY,
        settings=changed,
        diverged=(0, 12, "activation"),
        observed=Observed(format_="float16"),
    )
    assert "too large" not in verdict.sentence
    assert "learning_rate" not in verdict.sentence
    assert "largest float16 number" in verdict.sentence
    assert "precision=mixed_bfloat16" in verdict.sentence


def test_a_forward_underflow_does_not_get_loss_scaling():
    activations = np.sqrt(geometric(0.25))[::-1] * 1.0
    activations = np.where(np.arange(DEPTH + 1) > 20, 0.0, activations)
    observed = Observed(
        profiles={
            "step": np.arange(1),
            "activation_rms": activations[None],
            "signal_grad": SILENT[None],
        },
        format_="float16",
    )
    changed = settings(precision__kind="float16", init__kind="glorot")
    verdict = judge_rows(SILENT, settings=changed, observed=observed)
    assert verdict.kind == "forward_underflow"
    assert "loss_scaling" not in verdict.sentence


def test_zero_weights_are_not_blamed_on_the_loss_while_the_head_learns():
    metrics = {"grad_norm": np.full(20, 0.3)}
    observed = observe(np.full(20, 2.3), metrics=metrics)
    changed = settings(init__kind="zeros")
    verdict = judge_rows(*repeat(SILENT, 20), settings=changed, observed=observed)
    assert verdict.kind == "dead"
    assert "leaves the loss" not in verdict.sentence
    assert "the head itself gets one" in verdict.sentence


def test_norms_alone_report_underflow():
    """Elements of 2⁻²⁶ are rounded to zero in float16; so all layers below lose their gradient."""
    elements = 128 * 64
    size = np.full(DEPTH + 1, 2.0**-20)
    size[:12] = 2.0**-26
    size[:6] = 0.0
    signal = size * math.sqrt(elements)
    observed = Observed(
        profiles={"step": np.arange(1), "signal_grad": signal[None]},
        format_="float16",
        signal_elements=elements,
    )
    changed = settings(precision__kind="float16")
    verdict = judge_rows(signal, settings=changed, observed=observed)
    assert verdict.kind == "underflow"
    assert "layers 0–10" in verdict.sentence
    assert "precision.loss_scaling=dynamic" in verdict.sentence


def make_counts(lost):
    """What is known at a step at which exponents were counted."""
    from research.theory.formats import BINS

    histogram = np.zeros((DEPTH + 1, BINS))
    histogram[:, 120] = 1.0
    return {
        "signal_lost": np.full(DEPTH + 1, lost),
        "signal_exponent_float32": histogram,
    }


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        (np.geomspace(2.3, 1e-4, 200), "healthy"),
        (np.linspace(2.3, 1.5, 200), "underflow"),
    ],
)
def test_a_run_that_has_fitted_its_data_is_not_called_underflow(losses, kind):
    observed = observe(losses, exponents={199: make_counts(0.85)}, format_="float16")
    changed = settings(precision__kind="float16")
    verdict = judge_rows(*repeat(HEALTHY, 200), settings=changed, observed=observed)
    assert verdict.kind == kind


def test_two_layers_get_no_interval():
    verdict = judge_rows(np.array([0.5, 2.0, 1.0]))
    assert "95 %" not in verdict.sentence


def test_a_run_that_learns_nothing_is_not_healthy():
    losses = LN_10 + 0.01 * np.random.default_rng(0).standard_normal(300)
    verdict = judge_rows(*repeat(HEALTHY, 300), observed=observe(losses))
    assert verdict.kind == "not_learning"
    assert "after 300 steps the training loss is 2.30" in verdict.sentence


def test_a_run_that_still_improves_is_left_alone():
    losses = np.linspace(LN_10 + 0.5, LN_10, 300)
    assert judge_rows(*repeat(HEALTHY, 300), observed=observe(losses)).kind == "healthy"


@pytest.mark.parametrize(("end", "kind"), [(9.0, "healthy"), (15.0, "not_learning")])
def test_a_loss_above_chance_must_fall_fast_enough_to_get_below_it(end, kind):
    """From 24 to 15 in 299 steps, 12.7 / (9 / 299) = 422 more lead to 2.3; from 24 to 9, 134."""
    losses = np.linspace(24.0, end, 300)
    verdict = judge_rows(*repeat(HEALTHY, 300), observed=observe(losses))
    assert verdict.kind == kind
    if kind == "not_learning":
        assert "but needs 422 more steps" in verdict.sentence


def test_a_huge_loss_that_hardly_falls_is_not_learning():
    losses = np.linspace(16_920, 16_919, 300)
    assert judge_rows(*repeat(HEALTHY, 300), observed=observe(losses)).kind == "not_learning"


def make_config(activation, variance, width=256):
    """A plain network of depth 48."""
    return Config(
        model=make_option("model", "mlp", depth=48, width=width),
        activation=make_option("activation", activation),
        init=make_option("init", "gaussian", sigma_w=math.sqrt(variance)),
    )


def predict_for(activation, variance, mean_square=1.0):
    config = make_config(activation, variance)
    theory = predict(config, inputs=256, mean_square=mean_square, batch_size=128)
    assert theory is not None
    return theory


def test_theory_is_shown_with_its_margin():
    theory = predict_for("tanh", 0.5)
    verdict = judge_rows(geometric(theory.factor), theory=theory)
    assert re.search(r"theory expects [\d.]+ ± [\d.e-]+ at this width", verdict.sentence)


@pytest.mark.parametrize("margin", [1.0, 0.99])
def test_theory_is_left_out_where_its_margin_says_that_it_knows_nothing(margin):
    theory = Theory(1.0, margin)
    verdict = judge_rows(geometric(theory.factor), theory=theory)
    assert "at initialisation" in verdict.sentence
    assert "theory" not in verdict.sentence


def test_the_margin_covers_what_an_unstable_fixed_point_does_at_finite_width():
    """SiLU at σ_w² = 2.2 near its unstable fixed point: signals shrink below it and grow above."""
    stable = predict_for("tanh", 1.5)
    below = predict_for("silu", 2.2, mean_square=0.3)
    near = predict_for("silu", 2.2, mean_square=2.0)
    above = predict_for("silu", 2.2, mean_square=6.0)
    assert below.factor < 0.6 < 1.1 < above.factor
    assert near.margin / near.factor > 0.5
    for theory in (stable, below, above):
        assert theory.margin / theory.factor < 0.06


def test_exploding_is_reported_with_a_factor_above_1():
    verdict = judge_rows(EXPLODING, theory=Theory(2.0, 0.1))
    assert verdict.sentence.startswith("Exploding: the squared gradient is multiplied by 2 ")
    assert "so the input of layer 0 gets 1e+10 times what the last layer gets" in verdict.sentence


def numbers_of_sentences(verdict):
    """What the sentences on vanishing and exploding layers claim: kind, factor, ratio."""
    for finding in verdict.findings:
        factor = re.search(r"is multiplied by (\S+) per layer", finding.sentence)
        ratio = re.search(r"gets (\S+) (of|times)", finding.sentence)
        yield (
            finding.kind.name,
            float(factor[1]) if factor else None,
            float(ratio[1]) if ratio else math.nan,
        )


def test_no_sentence_contradicts_its_numbers():
    """Random walks over depth, steady and not, at one step and changing over the steps."""
    generator = np.random.default_rng(1)
    for _ in range(300):
        slope = generator.normal(0, 0.6)
        bend = generator.normal(0, 0.05)
        noise = generator.standard_normal((12, DEPTH)) * generator.uniform(0, 1.5)
        increments = slope + bend * np.arange(-DEPTH / 2, DEPTH / 2) + noise
        logs = np.cumsum(increments[:, ::-1], axis=1)[:, ::-1]
        signal = np.exp(np.column_stack([logs, np.zeros(12)]) / 2)
        verdict = judge(np.arange(12), signal, settings=settings(), with_advice=False)
        severe = [finding.kind.name for finding in verdict.findings if finding.is_severe]
        assert verdict.kind == (severe[0] if severe else "healthy")
        for kind, factor, ratio in numbers_of_sentences(verdict):
            if kind == "vanishing":
                assert ratio < 1e-3, verdict.sentence
                assert factor is None or factor < 1, verdict.sentence
            if kind == "exploding":
                assert ratio > 1e3, verdict.sentence
                assert factor is None or factor > 1, verdict.sentence


def test_a_jump_at_one_layer_is_not_reported_as_a_factor_of_every_layer():
    """In front of a first norm whose input hardly varies, the gradient is larger by far."""
    signal = geometric(1.7, depth=12)
    signal[0] *= 600
    verdict = judge_rows(*repeat(signal, 20))
    sentence = verdict.findings[0].text
    assert verdict.kind == "exploding"
    assert "per layer" not in sentence
    assert "the squared gradient grows 1e+6 times in layer 0 alone" in sentence
    assert "layer 0 gets 1e+8 times what the last layer gets" in sentence


def judge_at_losses(signal, losses):
    """The verdict on a signal that stays the same while the training loss changes."""
    rows = np.stack(repeat(signal, len(losses)))
    return judge(np.arange(len(losses)), rows, settings=settings(), observed=observe(losses))


def test_a_gradient_that_explodes_is_severe_unless_the_run_learns():
    signal = geometric(1.0, depth=12)
    signal[:2] *= 600

    learns = judge_at_losses(signal, np.linspace(2.4, 0.5, 200))
    does_not = judge_at_losses(signal, np.linspace(2.4, 2.2, 200))

    assert learns.kind == "healthy"
    assert learns.findings[0].severity.name == "warning"
    assert learns.sentence == (
        "Healthy: over the last 20 steps the training loss is 0.591, and that of chance 2.30, "
        "although the squared gradient grows 1e+6 times in layer 1 alone; the input of layer 0 "
        "gets 1e+6 times what the last layer gets. From the first step on, layer 0. Depth 16 "
        "without skip connections: try skip=inv_sqrt_depth or norm=layer."
    )
    assert does_not.kind == "exploding"


def test_a_gradient_that_vanishes_is_severe_although_the_last_layers_learn():
    verdict = judge_at_losses(VANISHING, np.linspace(2.4, 0.5, 200))

    assert verdict.kind == "vanishing"


@pytest.mark.parametrize("signal", [HEALTHY, VANISHING])
def test_a_verdict_says_whether_the_run_learns(signal):
    verdict = judge_at_losses(signal, np.linspace(2.4, 1.2, 200))

    assert verdict.sentence.endswith(
        "Over the last 20 steps the training loss is 1.26, and that of chance 2.30."
    )


EVIDENCE = {
    "chance_loss": LN_10,
    "lowest_loss": 2.2,
    "highest_loss": 2.4,
    "smallest": 1e-12,
}
RATES = (1e-7, 0.003, 0.03, 5.0)
SATURATED = {"init__gain": 3.0, "activation__kind": "tanh", "optimizer__learning_rate": 1e-7}
UPDATES = (
    {"optimizer__kind": "momentum"},
    {"optimizer__kind": "adam", "optimizer__epsilon": 1e-8},
    {"optimizer__kind": "sgd", "optimizer__weight_decay": 1.0},
    {"optimizer__kind": "adamw", "optimizer__weight_decay": 1e-3, "optimizer__epsilon": 1e-8},
    {"optimizer__schedule": "linear", "optimizer__end_value": 1.0},
)


def directions(run, found):
    """For each number that advice sets, the change that raises it and the one that lowers it."""
    raised = {}
    peak = max(run["optimizer.learning_rate"], run.get("optimizer.end_value", 0.0))
    for finding in found:
        for remedy in finding.remedies:
            if "optimizer=" in remedy.change:
                continue  # the rates of two optimizers cannot be compared
            for override in remedy.change.split():
                path, _, value = override.partition("=")
                now = run.get(path)
                if path in ("optimizer.learning_rate", "optimizer.end_value"):
                    path = "rate"
                    now = peak
                if type(now) is not float or override == "optimizer.end_value=0":
                    continue
                raised.setdefault(path, {})[float(value) > now] = remedy.change
    return raised


def make_findings(kinds, is_initial, ratio):
    """Severe findings of some kinds, of a run that learned up to step 50 or never."""
    found = []
    for kind in kinds:
        evidence = {**EVIDENCE, "median": ratio, "largest": ratio}
        if kind is findings.SLOW_DIVERGENCE:
            evidence |= {"best_step": 50.0, "best_learning_rate": 1e-3, "last_learning_rate": 1e-3}
        first_step = 0 if is_initial else 60
        found.append(Finding(kind, Severity.severe, "", first_step=first_step, evidence=evidence))
    return found


def various_settings():
    """Settings with learning rates far below and above the usual one."""
    for updates in UPDATES:
        for rate in RATES:
            yield settings(**{"optimizer__learning_rate": rate, **updates})
    yield settings(model__depth=8, **SATURATED)


def test_no_two_pieces_of_advice_contradict_each_other():
    """Four findings of one run at once, early and late, with large and small updates."""
    history = make_history(np.arange(1), HEALTHY[None])
    kinds = list(RULES)
    for run in various_settings():
        for is_initial, ratio in ((True, 1e-9), (True, 0.5), (False, 1e-9), (False, 0.5)):
            for first in range(0, len(kinds), 4):
                chosen = [*kinds[first:], *kinds[:first]]
                found = make_findings(chosen[:4], is_initial, ratio)
                advised = add_advice(found, run, history, None)
                for path, changes in directions(run, advised).items():
                    assert len(changes) == 1, (path, changes, run["optimizer.learning_rate"])


def test_a_tiny_rate_is_only_raised():
    losses = np.full(200, LN_10)
    changed = settings(optimizer__kind="sgd", optimizer__learning_rate=1e-7)

    verdict = judge_rows(*repeat(HEALTHY, 200), settings=changed, observed=observe(losses))

    assert verdict.findings[0].advice == (
        "The updates are too small: try optimizer.learning_rate=0.1 (now 1e-07) or optimizer=adam "
        "and optimizer.learning_rate=0.001."
    )


def test_regularisation_is_only_made_stronger():
    found = Finding(findings.OVERFITTING, Severity.warning, "", first_step=0)
    run = settings(train__input_noise=0.1, model__dropout=0.7, optimizer__weight_decay=0.1)

    (advised,) = add_advice([found], run, make_history(np.arange(1), HEALTHY[None]), None)

    assert [remedy.change for remedy in advised.remedies] == ["train.input_noise=1"]


def test_a_schedule_that_falls_does_not_keep_the_end_of_one_that_rose():
    evidence = {"best_step": 50.0, "best_learning_rate": 0.5, "last_learning_rate": 5.0}
    found = Finding(findings.SLOW_DIVERGENCE, Severity.severe, "", first_step=60, evidence=evidence)
    run = settings(
        optimizer__schedule="linear", optimizer__learning_rate=0.001, optimizer__end_value=5.0
    )

    (advised,) = add_advice([found], run, make_history(np.arange(1), HEALTHY[None]), None)

    assert advised.remedies[0].change == (
        "optimizer.schedule=cosine optimizer.learning_rate=0.5 optimizer.end_value=0"
    )
