import itertools
import json
import math
import re

import numpy as np
import pytest

from research.config import schema as config
from research.config.hydra_config import resource_dir
from research.diagnosis.verdict import BAND, fit, judge, log_profile, skipped_layers

pytestmark = pytest.mark.filterwarnings("error")  # a run's user would read them
DEPTH = 32


def settings(**changes):
    """The default configuration by dotted path, but for the changes; a double underscore stands for a dot."""
    return config.flatten(config.Config()) | {
        path.replace("__", "."): value for path, value in changes.items()
    }


def geometric(factor, depth=DEPTH):
    """‖∂L/∂h_l‖ whose square changes by ``factor`` a layer towards the input."""
    return np.sqrt(factor) ** np.arange(depth, -1, -1.0)


def judged(*rows, **kwargs):
    rows = np.array(rows)
    return judge(np.arange(len(rows)), rows, settings=kwargs.pop("settings", settings()), **kwargs)


HEALTHY = geometric(1.0)
VANISHING = geometric(0.5)
EXPLODING = geometric(2.0)
SILENT = np.zeros(DEPTH + 1)


@pytest.mark.parametrize("depth", [2, 3, 8, 64, 1000])
@pytest.mark.parametrize("factor", [0.25, 0.9, 1.0, 1.3])
def test_a_geometric_profile_gives_back_its_factor_with_an_interval_of_no_width(factor, depth):
    measured = fit(log_profile(geometric(factor, depth)))
    assert measured.factor_per_layer == pytest.approx(factor, rel=1e-9)
    assert measured.interval == pytest.approx((factor, factor), rel=1e-9)
    assert measured.log10_ratio == pytest.approx(depth * math.log10(factor), abs=1e-9)
    if abs(depth * math.log10(factor)) < 300:  # the ratio itself leaves float64 beyond
        assert measured.ratio == pytest.approx(factor**depth, rel=1e-9)


def test_the_factor_does_not_depend_on_the_scale_of_the_loss():
    profile = np.exp(np.random.default_rng(0).standard_normal(DEPTH + 1))
    factors = [fit(log_profile(scale * profile)).factor_per_layer for scale in (1, 1e-100, 1e100)]
    assert factors == pytest.approx(factors[:1] * 3, rel=1e-9)


@pytest.mark.parametrize("depth", [50, 100])
def test_the_interval_covers_the_true_factor_of_a_random_walk_in_95_of_100_cases(depth):
    """Of 4,000 walks the fraction has a standard error of 0.34 %: three of them, and 0.2 % since depth is finite."""
    generator = np.random.default_rng(depth)
    true = -0.2
    walks = 4000
    covered = 0
    for increments in true + generator.standard_normal((walks, depth)):
        low, high = fit(np.append(np.cumsum(increments[::-1])[::-1], 0.0)).interval
        covered += low <= math.exp(true) <= high
    assert covered / walks == pytest.approx(0.95, abs=0.012)


def test_the_first_layers_do_not_enter_the_factor():
    """The signal needs some layers to settle at its fixed point."""
    bent = geometric(0.9)
    bent[: skipped_layers(DEPTH)] *= 7.0
    assert fit(log_profile(bent)).factor_per_layer == pytest.approx(0.9, rel=1e-9)


@pytest.mark.parametrize(
    ("profile", "kind"),
    [
        (HEALTHY, "healthy"),
        (VANISHING, "vanishing"),
        (EXPLODING, "exploding"),
        (np.where(np.arange(DEPTH + 1) < 10, 0, HEALTHY), "dead"),
        # Fades to the smallest numbers before it is lost: not cut, faded.
        (np.where(np.arange(DEPTH + 1) < 10, 0, geometric(1e-4)), "vanishing"),
    ],
)
def test_kinds(profile, kind):
    assert judged(profile).kind == kind


@pytest.mark.parametrize(("factor", "kind"), [(0.5, "vanishing"), (2.0, "exploding")])
def test_the_first_layer_outside_is_the_first_that_the_gradient_meets_on_its_way_back(factor, kind):
    verdict = judged(geometric(factor))
    beyond = math.floor(math.log(BAND) / math.log(2)) + 1  # layers from the output
    assert (verdict.kind, verdict.as_dict()["first_layer"]) == (kind, DEPTH - beyond)


def test_a_profile_inside_the_band_has_no_first_layer_outside():
    assert judged(geometric(BAND ** (0.99 / DEPTH))).as_dict()["first_layer"] is None


@pytest.mark.parametrize(
    ("rows", "kind", "since"),
    [
        ([VANISHING] * 20, "vanishing", 0),
        ([VANISHING] * 8 + [HEALTHY] * 12, "healthy", 8),
        ([HEALTHY] * 5 + [VANISHING] * 5 + [HEALTHY] * 5 + [EXPLODING] * 5, "exploding", 15),
        ([VANISHING] * 5 + [HEALTHY] * 5 + [VANISHING] * 10, "vanishing", 10),
        ([HEALTHY], "healthy", 0),
    ],
)
def test_since_when(rows, kind, since):
    verdict = judged(*rows)
    assert (verdict.kind, verdict.since_step) == (kind, since)


def test_since_step_counts_training_steps_and_not_rows():
    verdict = judge(
        np.arange(0, 100, 10), np.array([HEALTHY] * 4 + [VANISHING] * 6), settings=settings()
    )
    assert verdict.since_step == 40


def test_the_start_is_judged_apart_from_the_end():
    verdict = judged(*[VANISHING] * 3, *[HEALTHY] * 17, theory=0.5)
    end = verdict.as_dict()
    initial = verdict.as_dict()["initial"]
    assert (initial["kind"], end["kind"]) == ("vanishing", "healthy")
    assert (initial["factor_per_layer"], end["factor_per_layer"]) == pytest.approx(
        (0.5, 1.0), rel=1e-9
    )
    assert "at initialisation 0.5, theory 0.5" in verdict.sentence


def test_a_network_that_falls_silent_while_it_trains_is_dead_and_not_what_it_was_before():
    verdict = judged(*[HEALTHY] * 5, *[SILENT] * 45)
    assert (verdict.kind, verdict.since_step) == ("dead", 5)


@pytest.mark.parametrize(
    "rows",
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
    ids=lambda rows: str(rows.tolist())[:60],
)
@pytest.mark.parametrize("diverged", [None, (2, 1), (2, None)])
def test_no_numbers_break_the_verdict(rows, diverged):
    verdict = judged(*rows, diverged=diverged) if len(rows) else _nothing(diverged)
    assert verdict.kind in ("healthy", "vanishing", "exploding", "dead", "diverged")
    assert verdict.sentence.startswith(f"{verdict.kind}: ")
    assert json.loads(json.dumps(verdict.as_dict()))["kind"] == verdict.kind


def _nothing(diverged):
    return judge(np.zeros(0, int), np.zeros((0, 5)), settings=settings(), diverged=diverged)


def test_all_that_is_said_of_a_run_is_in_the_dictionary():
    entries = judged(VANISHING, theory=0.5).as_dict()
    wanted = {
        "kind",
        "factor_per_layer",
        "interval",
        "ratio",
        "first_layer",
        "since_step",
        "theory",
        "sentence",
    }
    assert wanted <= set(entries)
    assert entries["initial"]["factor_per_layer"] == pytest.approx(0.5, rel=1e-9)


def test_a_diverged_run_names_step_and_layer():
    verdict = judged(
        HEALTHY, HEALTHY, diverged=(1, 7), settings=settings(optimizer__learning_rate=3.5)
    )
    assert (
        verdict.as_dict() | {"kind": "diverged", "since_step": 1, "first_layer": 7}
        == verdict.as_dict()
    )
    assert (
        "step 1" in verdict.sentence and "layer 7" in verdict.sentence and "3.5" in verdict.sentence
    )
    assert (
        "try a smaller init.gain (now 1)." in judged(HEALTHY, diverged=(0, 7)).sentence
    )  # no step was made yet
    assert (
        "All weights begin at 0: try init=he."
        in judged(SILENT, settings=settings(init__kind="zeros")).sentence
    )


CUT = np.where(np.arange(DEPTH + 1) < 10, 0, HEALTHY)


@pytest.mark.parametrize(
    ("profile", "changes", "remedies"),
    [
        (VANISHING, {"activation__kind": "sigmoid"}, ["skip=inv_sqrt_depth", "1/4"]),
        (
            VANISHING,
            {"activation__kind": "tanh"},
            ["skip=inv_sqrt_depth", "init=orthogonal", "init.gain"],
        ),
        (
            VANISHING,
            {"skip__kind": "scaled", "skip__shortcut_scale": 0.5},
            ["skip.shortcut_scale=1", "skip=identity"],
        ),
        (EXPLODING, {"norm__kind": "batch"}, ["skip=identity", "batch norm"]),
        (EXPLODING, {}, ["skip=inv_sqrt_depth", "init.gain"]),
        (EXPLODING, {"skip__kind": "identity"}, ["skip=inv_sqrt_depth", "skip=rezero"]),
        (CUT, {"optimizer__learning_rate": 0.25}, ["optimizer.learning_rate", "0.25"]),
    ],
)
def test_the_remedy_fits_the_configuration(profile, changes, remedies):
    sentence = judged(profile, settings=settings(model__depth=DEPTH, **changes)).sentence
    assert not [remedy for remedy in remedies if remedy not in sentence], sentence
    plain = changes.get("skip__kind", "none") == "none" and profile is not CUT
    assert (f"Depth {DEPTH} without skip connections" in sentence) == plain, sentence


def test_a_healthy_run_needs_no_remedy():
    assert "try" not in judged(HEALTHY).sentence.lower()


FAMILIES = list(
    itertools.product(
        (VANISHING, EXPLODING, CUT, "diverged"),
        [kind.name for kind in config.SkipKind],
        [kind.name for kind in config.NormKind],
        ("relu", "sigmoid"),
        ("he", "orthogonal"),
        ("none", "global_norm"),
    )
)


def _said(profile, skip, norm, activation, init, clip):
    told = settings(skip__kind=skip, norm__kind=norm, activation__kind=activation, init__kind=init)
    told |= {"optimizer.clip": clip}
    if isinstance(profile, str):
        return told, judged(HEALTHY, settings=told, diverged=(1, 1)).sentence
    return told, judged(profile, settings=told).sentence


def test_no_remedy_is_what_the_run_has_already():
    useless = []
    for family in FAMILIES:
        told, sentence = _said(*family)
        for path, value in re.findall(r"([a-z_.]+)=([a-z_]+|\d+)", sentence):
            seen = told.get(path, told.get(f"{path}.kind"))
            if str(seen) == value or isinstance(seen, float) and seen == float(value):
                useless.append((f"{path}={value}", sentence))
    assert not dict(useless)


def test_every_remedy_can_be_typed():
    typed = {
        remedy
        for family in FAMILIES
        for remedy in re.findall(r"([a-z_.]+)=([a-z_]+)", _said(*family)[1])
    }
    assert typed
    for path, value in typed:
        assert (
            path in config.setting_paths()
            or (resource_dir("conf") / path / f"{value}.yaml").exists()
        ), f"{path}={value}"


def test_a_first_layer_that_is_not_judged_bends_nothing():
    """A recurrent network begins with zeros: what arrives there is as large as a norm's divisor is small."""
    bent = np.concatenate([[1e6], VANISHING])
    whole = judged(VANISHING)
    rest = judged(bent, first=1)
    assert whole.end and rest.end and whole.end.first_layer is not None
    assert rest.end.first_layer == whole.end.first_layer + 1
    assert (
        rest.end.factor_per_layer == whole.end.factor_per_layer
        and rest.end.ratio == whole.end.ratio
    )
    assert judged(bent).end != rest.end


@pytest.mark.parametrize(
    ("points", "first", "told"), [(2, 0, False), (2, 1, False), (3, 1, False), (3, 0, True)]
)
def test_no_factor_per_layer_is_told_of_fewer_than_two_increments(points, first, told):
    assert ("a layer" in judged(geometric(0.9, points - 1), first=first).sentence) == told
