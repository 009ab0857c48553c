"""The verdict on profiles whose kind, factor and first layer are known."""

import itertools
import json
import math
import re

import numpy as np
import pytest
from pytest import approx

from research.config import options
from research.config import schema as config
from research.config.hydra_config import resource_dir
from research.diagnosis.observed import Theory
from research.diagnosis.verdict import BAND, fit, judge, log_profile, skipped_layers

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

pytestmark = pytest.mark.filterwarnings("error")  # a user would see them
IS_BELOW_10 = np.arange(DEPTH + 1) < 10
CUT_OFF = np.where(IS_BELOW_10, 0, HEALTHY)


@pytest.mark.parametrize("depth", [2, 3, 8, 64, 1000])
@pytest.mark.parametrize("factor", [0.25, 0.9, 1.0, 1.3])
def test_a_geometric_profile_has_its_factor_and_an_interval_without_width(factor, depth):
    measured = fit(log_profile(geometric(factor, depth)))
    log10_ratio = depth * math.log10(factor)
    assert measured.factor_per_layer == approx(factor, rel=1e-9)
    assert measured.interval == approx((factor, factor), rel=1e-9)
    assert measured.log10_ratio == approx(log10_ratio, abs=1e-9)
    if abs(log10_ratio) < 300:  # otherwise the ratio is beyond float64
        assert measured.ratio == approx(factor**depth, rel=1e-9)


def test_the_factor_does_not_depend_on_the_scale_of_the_loss():
    profile = np.exp(np.random.default_rng(0).standard_normal(DEPTH + 1))
    expected = fit(log_profile(profile)).factor_per_layer
    for scale in (1e-100, 1e100):
        factor = fit(log_profile(scale * profile)).factor_per_layer
        assert factor == approx(expected, rel=1e-9)


@pytest.mark.parametrize("depth", [50, 100])
def test_the_interval_covers_the_factor_of_a_random_walk_in_95_of_100_cases(depth):
    """The tolerance is three standard errors of 4,000 walks and 0.2 %, since depth is finite."""
    walks = 4000
    slope = -0.2
    generator = np.random.default_rng(depth)
    increments = slope + generator.standard_normal((walks, depth))
    covered = 0
    for walk in increments:
        from_the_output = np.cumsum(walk[::-1])
        profile = np.append(from_the_output[::-1], 0.0)
        low, high = fit(profile).interval
        covered += low <= math.exp(slope) <= high
    assert covered / walks == approx(0.95, abs=0.012)


def test_the_first_layers_do_not_enter_the_factor():
    """The signal needs some layers to reach its fixed point."""
    signal = geometric(0.9)
    signal[: skipped_layers(DEPTH)] *= 7.0
    assert fit(log_profile(signal)).factor_per_layer == approx(0.9, rel=1e-9)


@pytest.mark.parametrize(
    ("profile", "kind"),
    [
        (HEALTHY, "healthy"),
        (VANISHING, "vanishing"),
        (EXPLODING, "exploding"),
        (CUT_OFF, "dead"),
        # It fades to the smallest numbers before it becomes 0: it is not cut off.
        (np.where(IS_BELOW_10, 0, geometric(1e-4)), "vanishing"),
    ],
)
def test_kinds(profile, kind):
    assert judge_rows(profile).kind == kind


@pytest.mark.parametrize(("factor", "kind"), [(0.5, "vanishing"), (2.0, "exploding")])
def test_the_first_layer_outside_is_the_one_nearest_to_the_output(factor, kind):
    verdict = judge_rows(geometric(factor))
    layers_from_the_output = math.floor(math.log(BAND) / math.log(2)) + 1
    assert verdict.kind == kind
    assert verdict.as_dict()["first_layer"] == DEPTH - 1 - layers_from_the_output


def test_a_profile_inside_the_band_has_no_first_layer_outside():
    factor = BAND ** (0.99 / DEPTH)
    assert judge_rows(geometric(factor)).as_dict()["first_layer"] is None


@pytest.mark.parametrize(
    ("rows", "kind", "since"),
    [
        (repeat(VANISHING, 20), "vanishing", 0),
        (repeat(VANISHING, 8) + repeat(HEALTHY, 12), "healthy", 8),
        (
            repeat(HEALTHY, 5) + repeat(VANISHING, 5) + repeat(HEALTHY, 5) + repeat(EXPLODING, 5),
            "exploding",
            15,
        ),
        (repeat(VANISHING, 5) + repeat(HEALTHY, 5) + repeat(VANISHING, 10), "vanishing", 10),
        (repeat(HEALTHY, 1), "healthy", 0),
    ],
)
def test_since_when(rows, kind, since):
    verdict = judge_rows(*rows)
    assert verdict.kind == kind
    assert verdict.since_step == since


def test_since_step_counts_training_steps_and_not_rows():
    rows = repeat(HEALTHY, 4) + repeat(VANISHING, 6)
    steps = np.arange(0, 100, 10)
    verdict = judge(steps, np.array(rows), settings=settings())
    assert verdict.since_step == 40


def test_the_first_step_is_judged_separately_from_the_last_ones():
    verdict = judge_rows(*repeat(VANISHING, 3), *repeat(HEALTHY, 17), theory=Theory(0.5))
    end = verdict.as_dict()
    initial = end["initial"]
    assert initial["kind"] == "vanishing"
    assert initial["factor_per_layer"] == approx(0.5, rel=1e-9)
    assert end["kind"] == "healthy"
    assert end["factor_per_layer"] == approx(1.0, rel=1e-9)
    assert "at initialisation 0.5, where theory expects 0.5" in verdict.sentence


def test_a_gradient_that_is_cut_and_later_silent_is_dead_since_it_was_cut():
    cut = np.where(np.arange(DEPTH + 1) < 20, 0.0, HEALTHY)
    verdict = judge_rows(*repeat(HEALTHY, 10), *repeat(cut, 20), *repeat(SILENT, 10))
    dead = [finding for finding in verdict.findings if finding.kind.name == "dead"]
    assert verdict.since_step == 10
    assert len(dead) == 1


def test_a_network_that_becomes_silent_in_training_is_dead():
    verdict = judge_rows(*repeat(HEALTHY, 5), *repeat(SILENT, 45))
    assert verdict.kind == "dead"
    assert verdict.since_step == 5


@pytest.mark.parametrize(
    "signal",
    [
        np.zeros((3, 5)),
        np.full((3, 5), np.nan),
        np.full((3, 5), np.inf),
        np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1.0]]),
        np.array([[1, np.nan, 1, 1, 1], [1, 1, 1, 1, 1], [np.inf, 1, 1, 1, 1.0]]),
        np.array([[0, 1.0]]),
        np.array([[1e-300, 1, 1e300]]),
        np.array([[1e300, 1, 1e-300]]),
        np.array([[1, 1, 1e-25]]),
        np.array([[1e-25, 1, 1]]),
        np.zeros((0, 5)),
    ],
    ids=lambda signal: str(signal.tolist())[:60],
)
@pytest.mark.parametrize("diverged", [None, (2, 1), (2, None)])
def test_no_numbers_break_the_verdict(signal, diverged):
    steps = np.arange(len(signal))
    verdict = judge(steps, signal, settings=settings(), diverged=diverged)
    assert verdict.kind in ("healthy", "vanishing", "exploding", "dead", "diverged")
    title = verdict.sentence.partition(": ")[0]
    usual = verdict.kind.capitalize()
    assert title in (usual, f"{usual} gradient", f"Exploding, so {verdict.kind}")
    read_back = json.loads(json.dumps(verdict.as_dict()))
    assert read_back["kind"] == verdict.kind


def test_the_dictionary_holds_the_whole_verdict():
    entries = judge_rows(VANISHING, theory=Theory(0.5)).as_dict()
    expected = {
        "kind",
        "factor_per_layer",
        "interval",
        "ratio",
        "first_layer",
        "since_step",
        "theory",
        "sentence",
        "findings",
    }
    assert expected <= set(entries)
    assert entries["initial"]["factor_per_layer"] == approx(0.5, rel=1e-9)


def test_the_verdict_on_a_diverged_run_has_the_step_and_the_layer():
    changed = settings(optimizer__learning_rate=3.5)
    verdict = judge_rows(HEALTHY, HEALTHY, diverged=(1, 7), settings=changed)
    entries = verdict.as_dict()
    assert entries["kind"] == "diverged"
    assert entries["since_step"] == 1
    assert entries["first_layer"] == 7
    for part in ("step 1", "layer 7", "3.5"):
        assert part in verdict.sentence


def test_the_advice_on_divergence_before_any_step_is_about_the_initialisation():
    verdict = judge_rows(HEALTHY, diverged=(0, 7))
    assert "try init.gain=0.5 (now 1)" in verdict.sentence


def test_the_advice_names_the_scale_that_the_initialisation_has():
    changed = settings(init__kind="gaussian", init__sigma_w=2.0)
    verdict = judge_rows(HEALTHY, diverged=(0, 7), settings=changed)
    assert "try init.sigma_w=1.41 (now 2)" in verdict.sentence


def test_the_advice_on_weights_of_zero():
    verdict = judge_rows(SILENT, settings=settings(init__kind="zeros"))
    assert "All weights are initialised to 0: try init=he." in verdict.sentence


@pytest.mark.parametrize(
    ("profile", "changes", "parts"),
    [
        (
            VANISHING,
            {"activation__kind": "sigmoid"},
            ["skip=inv_sqrt_depth", "1/4"],
        ),
        (
            VANISHING,
            {"activation__kind": "tanh"},
            ["skip=inv_sqrt_depth"],
        ),
        (
            VANISHING,
            {"skip__kind": "scaled", "skip__shortcut_scale": 0.5, "skip__branch_scale": 0.01},
            ["skip.shortcut_scale=1", "skip=inv_sqrt_depth"],
        ),
        (
            VANISHING,
            {"skip__kind": "scaled", "skip__shortcut_scale": 0.5},  # 1 + 1 would explode
            ["skip=inv_sqrt_depth"],
        ),
        (
            EXPLODING,
            {"norm__kind": "batch"},
            ["skip=identity", "batch norm"],
        ),
        (
            EXPLODING,
            {"init__gain": 1.5},
            ["skip=inv_sqrt_depth", "init.gain=1 (now 1.5)"],
        ),
        (
            EXPLODING,
            {"skip__kind": "identity"},
            ["skip=inv_sqrt_depth", "skip=rezero"],
        ),
        (
            CUT_OFF,
            {"optimizer__learning_rate": 0.25},
            ["activation=elu"],
        ),
    ],
)
def test_the_advice_fits_the_configuration(profile, changes, parts):
    changed = settings(model__depth=DEPTH, **changes)
    sentence = judge_rows(profile, settings=changed).sentence
    for part in parts:
        assert part in sentence
    has_no_skips = changed["skip.kind"] == "none"
    blames_depth = f"Depth {DEPTH} without skip connections" in sentence
    assert blames_depth == (has_no_skips and profile is not CUT_OFF)


def test_a_setting_that_the_skip_does_not_have_is_never_advised():
    changed = settings(skip__kind="highway")
    changed.pop("skip.shortcut_scale", None)
    sentence = judge_rows(VANISHING, settings=changed).sentence
    assert "skip.shortcut_scale" not in sentence
    assert "try skip.gate_bias=" in sentence
    assert "skip=inv_sqrt_depth" in sentence


def test_a_healthy_run_gets_no_advice():
    assert "try " not in judge_rows(HEALTHY).sentence.lower()


def advice_for_all_options():
    """Settings and the verdict's sentence, for all options on which advice depends."""
    combinations = itertools.product(
        [VANISHING, EXPLODING, CUT_OFF, "diverged"],
        [kind.name for kind in options.SkipKind],
        [kind.name for kind in options.NormKind],
        ["relu", "sigmoid"],
        ["he", "orthogonal"],
        ["none", "global_norm"],
    )
    for profile, skip, norm, activation, init, clip in combinations:
        if clip != "none" and not isinstance(profile, str):
            continue  # only the advice on divergence depends on it
        changed = settings(
            skip__kind=skip,
            norm__kind=norm,
            activation__kind=activation,
            init__kind=init,
            optimizer__clip=clip,
        )
        if isinstance(profile, str):
            verdict = judge_rows(HEALTHY, settings=changed, diverged=(1, 1))
        else:
            verdict = judge_rows(profile, settings=changed)
        yield changed, verdict.sentence


def has_value(current, value):
    if isinstance(current, float):
        return current == float(value)
    return str(current) == value


def test_the_advice_is_never_what_the_run_already_has():
    for changed, sentence in advice_for_all_options():
        for path, value in re.findall(r"([a-z_.]+)=([a-z_]+|[\d.]*\d)", sentence):
            current = changed.get(path, changed.get(f"{path}.kind"))
            assert not has_value(current, value), sentence


@pytest.mark.slow
def test_all_advice_can_be_typed_on_the_command_line():
    advised = set()
    for _, sentence in advice_for_all_options():
        advised.update(re.findall(r"([a-z_.]+)=([a-z_]+)", sentence))
    assert advised
    for path, value in advised:
        option = resource_dir("conf") / path / f"{value}.yaml"
        assert path in config.setting_paths() or option.exists(), f"{path}={value}"


def test_layers_below_the_first_signal_change_nothing():
    """The first state of a recurrent network is zero: the gradient there depends on a norm's ε."""
    with_first_state = np.concatenate([[1e6], VANISHING])
    expected = judge_rows(VANISHING).end
    end = judge_rows(with_first_state, first_signal=1).end
    assert expected is not None
    assert expected.first_layer is not None
    assert end is not None
    assert end.first_layer == expected.first_layer + 1
    assert end.factor_per_layer == expected.factor_per_layer
    assert end.ratio == expected.ratio
    assert judge_rows(with_first_state).end != end


@pytest.mark.parametrize(
    ("points", "first_signal", "has_factor"),
    [
        (2, 0, False),
        (2, 1, False),
        (3, 1, False),
        (3, 0, True),
    ],
)
def test_the_factor_per_layer_needs_two_increments(points, first_signal, has_factor):
    verdict = judge_rows(geometric(0.9, points - 1), first_signal=first_signal)
    assert ("per layer" in verdict.sentence) == has_factor
