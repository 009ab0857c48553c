"""The table of kinds, and what a finding says of itself."""

import json

import numpy as np
import pytest

from research.config.options import STOP_KINDS
from research.diagnosis import findings
from research.diagnosis.advice import Situation, advise
from research.diagnosis.findings import KINDS, Finding, Remedy, Severity, order_findings
from research.diagnosis.observed import Divergence, Observed, loss_bounds
from research.diagnosis.training_findings import (
    RunContext,
    describe_divergence,
    find_training_findings,
)
from research.diagnosis.words import name_layers, to_ranges

from .profiles import HEALTHY, judge_rows, repeat, settings

LN_10 = float(np.log(10))


def test_kinds_have_names_of_their_own():
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(kind.source and kind.meaning.endswith(".") for kind in KINDS)


def test_severe_findings_can_end_a_run():
    severe = {kind.name for kind in KINDS if kind.severity is Severity.severe}
    assert set(STOP_KINDS) == severe - {"inputs"}


def test_severe_findings_come_first_and_causes_before_what_they_explain():
    kinds = (findings.SPIKE, findings.NOT_LEARNING, findings.FITTED, findings.VANISHING)
    found = [Finding(kind, kind.severity, "") for kind in kinds]
    ordered = [finding.kind.name for finding in order_findings(found)]
    assert ordered == ["vanishing", "not_learning", "spike", "fitted"]


def test_a_finding_is_written_whole():
    remedy = Remedy("skip=identity", "He et al.", note="now none")
    finding = Finding(
        findings.VANISHING,
        Severity.severe,
        "too little.",
        first_step=3,
        layers=[(0, 4)],
        evidence={"ratio": 1e-9},
        cause="Depth",
        remedies=[remedy],
    )
    entry = json.loads(json.dumps(finding.as_dict()))
    assert entry["sentence"] == "Vanishing: too little."
    assert entry["advice"] == "Depth: try skip=identity (now none)."
    assert entry["layers"] == [[0, 4]]
    assert entry["last_step"] is None
    assert entry["remedies"] == [{"change": "skip=identity", "source": "He et al."}]


@pytest.mark.parametrize(
    ("kind", "title"),
    [("vanishing", "Vanishing until step 240: …"), ("spike", "Loss spike: …")],
)
def test_a_finding_that_is_over_says_so_at_once(kind, title):
    by_name = {each.name: each for each in KINDS}
    over = Finding(by_name[kind], Severity.warning, "…", first_step=0, last_step=240)
    assert over.sentence == title


def test_the_present_value_stands_behind_its_own_setting():
    remedy = Remedy("init.gain=1 optimizer.learning_rate=0.01", "a source", note="now 30")
    assert str(remedy) == "init.gain=1 (now 30) and optimizer.learning_rate=0.01"


def test_chance_is_the_entropy_of_the_classes():
    assert loss_bounds([5] * 10, 10).chance == pytest.approx(LN_10)
    assert loss_bounds([9, 1], 2).chance == pytest.approx(0.325, abs=1e-3)
    assert loss_bounds(None, 2).chance is None
    assert loss_bounds([7, 0], 2).chance is None
    assert loss_bounds([9, 1], 2).least == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("counts", [[1697, 103], [40, 0, 7, 3], [5] * 10])
def test_chance_is_the_best_constant_prediction_and_nothing_is_below_the_least_loss(
    counts, smoothing
):
    classes = len(counts)
    targets = (1 - smoothing) * np.eye(classes) + smoothing / classes
    shares = np.array(counts) / np.sum(counts)

    def losses_of(prediction):
        """Cross-entropy of each class's target; nothing where the target is zero."""
        with np.errstate(divide="ignore"):
            logarithms = np.log(prediction)
        return -np.sum(targets * np.where(targets > 0, logarithms, 0), axis=-1)

    bounds = loss_bounds(counts, classes, smoothing)

    best = shares @ targets
    occurring = shares > 0
    assert bounds.chance == pytest.approx(shares[occurring] @ losses_of(best)[occurring])
    assert bounds.least == pytest.approx(losses_of(targets)[0])
    unsmoothed = -np.sum(shares[occurring] * np.log(shares[occurring]))
    assert bounds.class_entropy == pytest.approx(unsmoothed)
    generator = np.random.default_rng(0)
    for other in generator.dirichlet(np.ones(classes), 100):
        assert shares[occurring] @ losses_of(other)[occurring] > bounds.chance
        assert losses_of(other).min() >= bounds.least


SMOOTHED = loss_bounds([5] * 10, 10, 0.3)


@pytest.mark.parametrize("name", ["plateau", "lost", "spike", "slow", "fitted", "falling"])
def test_label_smoothing_shifts_the_losses_and_not_what_is_found(name):
    generator = np.random.default_rng(0)
    losses = {
        "plateau": np.full(150, 0.99),
        "lost": np.concatenate([np.linspace(1, 0.6, 100), np.ones(100)]),
        "spike": np.concatenate([np.linspace(1, 0.1, 200), [4.0], np.full(100, 0.1)]),
        "slow": fading(0.3, 1.7) / LN_10,
        "fitted": np.geomspace(1, 1e-3, 200),
        "falling": np.geomspace(1, 0.2, 200) + 0.01 * generator.standard_normal(200),
    }[name]

    def find_with(bounds):
        learnable = bounds.chance - bounds.least
        metrics = columns(len(losses), train_loss=bounds.least + learnable * losses)
        observed = Observed(
            metrics,
            chance_loss=bounds.chance,
            least_loss=bounds.least,
            class_entropy=bounds.class_entropy,
        )
        return find_training_findings(RunContext(observed, {}))

    plain = find_with(loss_bounds([5] * 10, 10))
    smoothed = find_with(SMOOTHED)
    assert [finding.kind for finding in smoothed] == [finding.kind for finding in plain]
    assert [finding.first_step for finding in smoothed] == [each.first_step for each in plain]
    assert [finding.severity for finding in smoothed] == [each.severity for each in plain]
    assert bool(plain) == (name != "falling")


def test_a_fitted_loss_is_said_with_the_least_one_of_its_label_smoothing():
    bounds = loss_bounds([1697, 103], 2, 0.2)
    metrics = columns(150, train_loss=np.geomspace(0.5, 1e-4, 150) + bounds.least)
    observed = Observed(metrics, chance_loss=bounds.chance, least_loss=bounds.least)
    (finding,) = find_training_findings(RunContext(observed, {}))
    assert finding.text == (
        "the training loss is 0.3252, and the least possible with label smoothing 0.3251, so "
        "little is left to learn."
    )


@pytest.mark.parametrize(("end", "kinds"), [(0.415, []), (0.333, ["overfitting"])])
def test_a_held_out_loss_is_compared_with_the_training_loss_less_its_label_smoothing(end, kinds):
    bounds = loss_bounds([1697, 103], 2, 0.2)
    rising = np.linspace(0.3, 0.15, 90) + (np.arange(90) > 60) * 0.15
    metrics = columns(90, train_loss=np.full(90, end), eval_loss=rising)
    observed = Observed(
        metrics,
        chance_loss=bounds.chance,
        least_loss=bounds.least,
        class_entropy=bounds.class_entropy,
    )
    found = find_training_findings(RunContext(observed, {}))
    assert [finding.kind.name for finding in found] == kinds
    assert all("with label smoothing 0.325" in finding.text for finding in found)


def test_a_constant_prediction_of_unequal_classes_is_not_learning_with_label_smoothing():
    bounds = loss_bounds([1697, 103], 2, 0.2)
    metrics = columns(150, train_loss=np.full(150, 0.4169), train_accuracy=np.full(150, 0.943))
    observed = Observed(
        metrics,
        chance_loss=bounds.chance,
        least_loss=bounds.least,
        class_entropy=bounds.class_entropy,
    )
    (finding,) = find_training_findings(RunContext(observed, {}))
    assert finding.kind is findings.NOT_LEARNING
    assert "0.4169, and that of chance is 0.4153" in finding.text


def columns(count, **values):
    """Columns over the steps 0, 1, 2, …"""
    return {"step": np.arange(count)} | values


STEPS = 150
LAYERS = np.ones(4)
FALLING = np.linspace(LN_10, 0.4, STEPS)
WEIRD = [
    ("inputs", {"input_mean_square": 0.0}, {}),
    ("inputs", {"input_mean_square": float("nan")}, {}),
    ("not_learning", {"metrics": columns(STEPS, train_loss=np.full(STEPS, LN_10))}, {}),
    ("dead_units", {"profiles": columns(9, dead=np.tile([0, 0.1, 0.9, 0.2], (9, 1)))}, {}),
    (
        "saturated",
        {"profiles": columns(9, saturated=np.tile([0, 0.1, 0.9, 0.2], (9, 1)))},
        {"activation__kind": "tanh"},
    ),
    (
        "overflow",
        {"metrics": columns(99, train_loss=np.ones(99), skipped=np.arange(99) >= 30)},
        {"precision__loss_scaling": "static"},
    ),
    ("update_ratio", {"profiles": columns(9, update_ratio=np.tile(0.5 * LAYERS, (9, 1)))}, {}),
    ("update_ratio", {"profiles": columns(9, update_ratio=np.tile(1e-9 * LAYERS, (9, 1)))}, {}),
    ("collapsed", {"profiles": columns(9, signal_variation=np.tile([1, 1e-3, 1e-6], (9, 1)))}, {}),
    (
        "hidden_gradient",
        {"profiles": columns(9, grad_norm=np.tile(1e-9 * LAYERS, (9, 1))), "layer_parameters": 100},
        {"optimizer__kind": "adam", "optimizer__epsilon": 1e-8},
    ),
    (
        "overfitting",
        {
            "metrics": columns(
                STEPS,
                train_loss=np.geomspace(2.3, 0.1, STEPS),
                eval_loss=np.linspace(1.0, 0.5, STEPS) + (np.arange(STEPS) > 100) * 1.0,
            )
        },
        {},
    ),
    (
        "edge_of_stability",
        {"sharpness": {0: 3.0, 100: 21.0}},
        {"optimizer__kind": "gd", "optimizer__learning_rate": 0.1},
    ),
]


def find_all(observed, **changes):
    observed = Observed(**{"chance_loss": LN_10} | observed)
    return find_training_findings(RunContext(observed, settings(**changes)))


def find(observed, **changes):
    return [finding.kind.name for finding in find_all(observed, **changes)]


@pytest.mark.parametrize(("kind", "observed", "changes"), WEIRD)
def test_each_detector_finds_its_kind_alone_and_says_it_in_sentences(kind, observed, changes):
    (finding,) = find_all(observed, **changes)
    assert finding.kind.name == kind
    assert finding.text.endswith(".")
    assert not finding.text.endswith("..")


@pytest.mark.parametrize(
    ("ratios", "number"),
    [
        ([0.2, 0.001, 0.3, 0.9], "half of the layers by 0.25 of their norm or more"),
        ([3e-8, 1e-9, 2e-9, 1e-9], "no layer by more than 3e-08 of their norm"),
        ([0.0, 0.0, 0.0, 0.0], "the last steps change the weights of no layer."),
    ],
)
def test_the_sentence_about_updates_holds_of_the_layers_that_it_names(ratios, number):
    (finding,) = find_all({"profiles": columns(9, update_ratio=np.tile(ratios, (9, 1)))})
    assert number in finding.text


def test_the_edge_of_stability_is_that_of_the_learning_rate_at_the_step():
    falling = columns(101, learning_rate=np.linspace(0.1, 0.01, 101))
    changes = {"optimizer__kind": "gd", "optimizer__learning_rate": 0.1}
    (finding,) = find_all({"metrics": falling, "sharpness": {0: 3.0, 100: 190.0}}, **changes)
    assert finding.evidence == pytest.approx({"sharpness": 190.0, "largest": 2 / 0.01})
    assert not find_all({"metrics": falling, "sharpness": {100: 20.0}}, **changes)


def test_a_layer_that_stands_still_has_the_evidence_of_the_last_steps():
    ratios = np.tile([1.0, 1.0, 1.0, 1.0], (100, 1))
    ratios[50:] = [1e-3, 0.0, 2e-3, 3e-3]
    profiles = columns(100, update_ratio=ratios, grad_norm=np.ones((100, 4)))
    (finding,) = find_all({"profiles": profiles})
    assert finding.evidence == pytest.approx({"median": 1.5e-3, "largest": 3e-3})


def test_a_share_of_elements_is_not_called_one_of_units():
    shares = np.tile([0, 0.1, 0.9, 0.2], (9, 1))
    (saturated,) = find_all({"profiles": columns(9, saturated=shares)}, activation__kind="tanh")
    (dead,) = find_all({"profiles": columns(9, dead=shares)})
    assert "90 % of the elements of layer 2 are on the flat part" in saturated.text
    assert "90 % of the units of layer 2 are zero for every example" in dead.text


@pytest.mark.parametrize(("kind", "observed", "changes"), WEIRD)
def test_a_sentence_and_its_steps_agree(kind, observed, changes):
    (finding,) = find_all(observed, **changes)

    first = finding.first_step
    if first:
        assert f"step {first}" in finding.sentence
    elif first == 0 and kind not in ("inputs", "not_learning"):
        assert "the first step on" in finding.sentence


@pytest.mark.parametrize(
    "observed",
    [
        {"input_mean_square": 1.0},
        {"metrics": columns(STEPS, train_loss=FALLING, eval_loss=FALLING)},
        {"metrics": columns(99, train_loss=np.full(99, LN_10))},  # too early to say
        {"profiles": columns(9, dead=np.full((9, 4), 0.4), saturated=np.full((9, 4), 0.5))},
        {"profiles": columns(9, update_ratio=np.full((9, 4), 1e-3))},
        {"profiles": columns(9, signal_variation=np.full((9, 5), 0.9))},
        {"sharpness": {0: 3.0}},
        {},
    ],
)
def test_detectors_are_silent_on_a_healthy_run(observed):
    assert find(observed, activation__kind="tanh") == []


def test_every_detector_copes_with_a_run_without_numbers():
    assert find_training_findings(RunContext(Observed(), {})) == []


@pytest.mark.parametrize(("end", "severity"), [(0.2, "warning"), (1.9, "severe")])
def test_a_spike_is_severe_where_the_run_has_not_come_back(end, severity):
    losses = np.concatenate([np.linspace(2.3, 0.2, 200), [9.0], np.full(100, end)])
    ctx = RunContext(
        Observed(metrics=columns(301, train_loss=losses), chance_loss=LN_10), settings()
    )
    (finding,) = find_training_findings(ctx)
    assert finding.kind is findings.SPIKE
    assert finding.severity.name == severity
    assert "at step 200 the training loss jumps" in finding.sentence
    assert ("ends at 1.9" in finding.sentence) == (severity == "severe")


def test_a_spike_is_no_cause_of_a_loss_that_rises_gradually():
    losses = np.concatenate([np.linspace(2.3, 0.2, 200), np.linspace(0.2, 2.0, 300)])
    losses[150] = 9.0
    observed = Observed(metrics=columns(500, train_loss=losses), chance_loss=LN_10)
    divergence, spike = find_training_findings(RunContext(observed, settings()))
    assert divergence.kind is findings.SLOW_DIVERGENCE
    assert spike.kind is findings.SPIKE
    assert not spike.is_severe


@pytest.mark.parametrize(
    ("chance", "key", "reference"),
    [(LN_10, "chance_loss", "chance is 2.303"), (None, "first_loss", "the start is 2.284")],
)
def test_what_was_learned_and_lost_is_reported(chance, key, reference):
    losses = np.concatenate([np.linspace(2.3, 1.5, 100), np.full(100, LN_10)])
    metrics = columns(200, train_loss=losses)
    metrics["step"] = metrics["step"].astype(float)  # as ``fathom.Monitor`` has it

    (finding,) = find_training_findings(RunContext(Observed(metrics, chance_loss=chance), {}))

    assert finding.sentence == (
        f"Not learning: after 200 steps the training loss is 2.303, and that of {reference}; it "
        "was 1.577 by step 99, and what was learned then was lost by step 109."
    )
    assert finding.first_step == 109
    assert key in finding.evidence
    assert len({"chance_loss", "first_loss"} & set(finding.evidence)) == 1


def test_an_overflow_names_the_loss_scale_of_the_last_step():
    metrics = columns(6, skipped=np.ones(6, bool), loss_scale=2.0 ** np.arange(20, 14, -1))
    settings = {"precision.loss_scaling": "dynamic"}

    (finding,) = find_training_findings(RunContext(Observed(metrics), settings))

    assert finding.kind is findings.OVERFLOW
    assert finding.evidence["loss_scale"] == 2**15


def fading(best, end, steps=600, noise=0.05):
    """A loss that falls to ``best`` in a third of the steps, and then rises slowly to ``end``."""
    third = steps // 3
    fall = np.geomspace(LN_10, best, third)
    rise = best + (end - best) * np.linspace(0, 1, steps - third) ** 2
    generator = np.random.default_rng(0)
    return np.concatenate([fall, rise]) + noise * generator.standard_normal(steps)


@pytest.mark.parametrize("chance", [LN_10, None])
def test_a_loss_that_is_lost_gradually_is_found_with_its_steps(chance):
    metrics = columns(600, train_loss=fading(0.3, 1.7), learning_rate=np.linspace(0, 0.6, 600))
    (finding,) = find_training_findings(RunContext(Observed(metrics, chance_loss=chance), {}))

    assert finding.kind is findings.SLOW_DIVERGENCE
    assert finding.is_severe
    assert finding.first_step in range(200, 400)  # a tenth of the rise is over at step 326
    assert finding.last_step is None
    assert f"rises from step {finding.first_step} on" in finding.text
    assert 0.5 < finding.evidence["lost_share"] < 0.75


@pytest.mark.parametrize(
    "losses",
    [
        fading(0.3, 1.0),  # a third of the way back
        fading(2.2, 2.28),  # hardly anything was learned
        fading(1.0, 1.0, noise=0.6),  # small batches
        np.geomspace(2.3, 0.05, 600) * (1 + 0.8 * np.sin(np.arange(600))),  # edge of stability
        1.2 + 0.3 * np.sin(np.arange(600) / 30),  # a slow oscillation
        np.concatenate([fading(0.3, 1.9, 300), np.linspace(1.9, 0.4, 300)]),  # it came back
    ],
)
def test_a_loss_that_is_not_lost_is_no_slow_divergence(losses):
    metrics = columns(len(losses), train_loss=losses, eval_loss=np.linspace(1, 3, len(losses)))
    found = find({"metrics": metrics})

    assert "slow_divergence" not in found


def test_a_loss_that_grows_without_end_after_it_was_low_is_a_slow_divergence():
    losses = np.concatenate([np.geomspace(LN_10, 0.1, 200), np.geomspace(0.1, 1e9, 400)])
    (finding,) = find_all({"metrics": columns(600, train_loss=losses)})

    assert finding.kind is findings.SLOW_DIVERGENCE
    assert "above 2.3, the loss of chance" in finding.text


def test_a_loss_that_is_huge_for_a_moment_does_not_look_learned_afterwards():
    losses = np.full(300, 25.0)
    losses[1] = 1e30
    (finding,) = find_all({"metrics": columns(300, train_loss=losses)})

    assert finding.kind is findings.NOT_LEARNING
    assert "lost" not in finding.text


@pytest.mark.parametrize(
    ("changes", "best_rate", "last_rate", "cause", "first"),
    [
        (
            {"optimizer__schedule": "linear", "optimizer__end_value": 0.5},
            0.1,
            0.5,
            "The learning rate was 0.1 at step 199 and is 0.5 at the end",
            "optimizer.schedule=cosine optimizer.learning_rate=0.1 optimizer.end_value=0",
        ),
        (
            {"optimizer__learning_rate": 0.02, "optimizer__weight_decay": 0.2},
            0.02,
            0.02,
            "Weight decay of 0.2 at a learning rate of 0.02 shrinks the weights",
            "optimizer.weight_decay=0",
        ),
        (
            {"optimizer__learning_rate": 0.1},
            0.1,
            0.1,
            "At a learning rate of 0.1 the network stops improving at step 199",
            "optimizer.learning_rate=0.01",
        ),
    ],
)
def test_the_advice_on_what_is_lost_is_about_what_changed(
    changes, best_rate, last_rate, cause, first
):
    finding = Finding(
        findings.SLOW_DIVERGENCE,
        Severity.severe,
        "",
        first_step=260,
        evidence={
            "best_step": 199.0,
            "best_learning_rate": best_rate,
            "last_learning_rate": last_rate,
        },
    )
    advised = advise(Situation(finding, settings(**changes)))

    assert advised.cause == cause
    assert advised.remedies[0].change == first
    assert not any("optimizer=" in remedy.change for remedy in advised.remedies)


def test_many_ranges_of_layers_are_shortened():
    layers = np.arange(0, 20, 2)
    assert name_layers(to_ranges(layers)) == "layers 0, 2, 4, 6 and 6 more ranges"
    assert name_layers([(0, 3), (7, 7)]) == "layers 0–3, 7"
    assert name_layers([(0, 1)], ["a", "b"]) == "a to b"


def test_a_verdict_tells_what_to_try_against_a_warning():
    metrics = columns(
        STEPS,
        train_loss=np.geomspace(2.3, 0.1, STEPS),
        eval_loss=np.linspace(1.0, 2.0, STEPS),
    )
    observed = Observed(metrics=metrics, chance_loss=LN_10)
    verdict = judge_rows(*repeat(HEALTHY, STEPS), observed=observed)
    assert verdict.kind == "healthy"
    assert "Overfitting: the held-out loss rose" in verdict.sentence
    assert "try train.input_noise=1" in verdict.sentence


@pytest.mark.parametrize(
    ("activations", "text"),
    [
        ([1.0, 2.0, 3e7, 5.0], "layer 1 had the largest activation, 3e+07"),
        ([1.0, 2.0, 3.0, 5.0], "no activation was larger than 5"),
        (None, "no layer was measured"),
    ],
)
def test_a_divergence_between_measured_steps_says_what_is_known_of_the_layers(activations, text):
    profiles = {}
    if activations is not None:
        profiles = columns(3, activation_rms=np.tile(activations, (3, 1)))
    observed = Observed(profiles=profiles)
    finding = describe_divergence(RunContext(observed, {}, Divergence(7)))

    assert finding is not None
    assert finding.text.endswith(f"{text}.")


def test_a_divergence_while_all_layers_are_finite_is_outside_of_them():
    observed = Observed(profiles=columns(8, activation_rms=np.ones((8, 4))))
    finding = describe_divergence(RunContext(observed, {}, Divergence(7)))

    assert finding is not None
    assert finding.text == (
        "numbers stop being finite at step 7, first outside of the layers, which are all finite."
    )
