"""What is said of a network before it trains, from numbers that were measured."""

import dataclasses
import math

import numpy as np
import pytest

from research.diagnosis.coefficients import WITH_TRIAL, WITHOUT_TRIAL
from research.diagnosis.features import FEATURES, LARGEST, measure_features
from research.diagnosis.measurement import Measurement, factor_per_layer, hidden_layer
from research.diagnosis.observed import Theory
from research.diagnosis.prediction import config_from_settings, predicted_profile, with_change
from research.diagnosis.preflight import predict_training, probability_of

LAYERS = 8


def measurement(**changes):
    """A network that nothing speaks against, with ``changes``."""
    healthy = Measurement(
        steps=200,
        loss=2.4,
        chance_loss=math.log(10),
        loss_after=2.3,
        decrease=0.5,
        other_loss=2.4,
        common_decrease=0.0,
        learning_rate=0.1,
        total_updates=200,
        signal_grad=np.ones(LAYERS + 1),
        grad_rms=np.full(LAYERS, 1e-3),
        update_ratio=np.full(LAYERS, 1e-2),
        variation=np.full(LAYERS + 1, 0.5),
        ceiling=2.0,
        sharpness=1.0,
    )
    return dataclasses.replace(healthy, **changes)


def probability(**changes):
    return predict_training(measurement(**changes)).probability


def plain_sigmoid(depth):
    """What theory and plain arithmetic say of ``depth`` sigmoid layers."""
    change = f"activation=sigmoid init=glorot model.depth={depth}"
    config = config_from_settings(with_change({}, change))
    profile = predicted_profile(config, inputs=64, mean_square=1.0, batch_size=128)
    assert profile is not None
    gradient = np.exp(profile / 2)
    variation = np.geomspace(1, 0.1**depth, depth + 1)
    return {
        "signal_grad": gradient,
        "grad_rms": gradient[1:] * 1e-3,
        "update_ratio": gradient[1:] * 1e-2,
        "variation": variation,
        "decrease": 0.5 * variation[-1],
    }


def test_deeper_plain_sigmoid_networks_are_less_likely_to_train():
    chances = [probability(**plain_sigmoid(depth)) for depth in (1, 2, 4, 8, 16, 32, 64)]

    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.5
    assert chances[-1] < 0.1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("common_decrease", [0.0, 0.45, 0.499, 0.5]),
        ("variation", [np.full(LAYERS + 1, share) for share in (0.5, 0.97, 0.999)]),
        ("loss_after", [2.3, 3, 30, 1e6, math.inf]),
        ("decrease", [0.5, 1e-2, 1e-4, 0.0]),
    ],
)
def test_more_of_what_speaks_against_training_never_makes_it_likelier(name, values):
    chances = [probability(**{name: value}) for value in values]

    assert chances == sorted(chances, reverse=True)


@pytest.mark.parametrize("coefficients", [WITHOUT_TRIAL, WITH_TRIAL])
def test_no_weight_is_negative_or_of_an_unknown_feature(coefficients):
    assert set(coefficients.weights) <= {feature.name for feature in FEATURES}
    assert min(coefficients.weights.values()) >= 0


def test_a_healthy_network_has_no_feature_against_it():
    features = measure_features(measurement())

    speaking = {name for name, value in features.items() if value > 0.02}
    assert not speaking


def test_the_probability_is_that_of_the_logistic_model():
    features = dict.fromkeys([feature.name for feature in FEATURES], 0.5)
    log_odds = WITHOUT_TRIAL.intercept - 0.5 * sum(WITHOUT_TRIAL.weights.values())

    assert probability_of(features, WITHOUT_TRIAL) == pytest.approx(1 / (1 + math.exp(-log_odds)))


def test_numbers_that_are_not_finite_count_most():
    features = measure_features(measurement(loss_after=math.nan, decrease=math.nan))

    assert features["overshoot"] == features["slow"] == LARGEST


def test_what_was_not_measured_does_not_count():
    names = ["signal_grad", "grad_rms", "update_ratio", "variation", "ceiling"]
    nothing = dict.fromkeys([*names, "common_decrease"])

    assert max(measure_features(measurement(**nothing)).values()) < 0.02
    assert probability(**nothing) == pytest.approx(probability(), abs=0.01)


def test_the_weightiest_reason_comes_first_and_is_said():
    expected = predict_training(measurement(loss_after=1e9, decrease=1e-3))

    weights = [reason.log_odds for reason in expected.reasons]
    assert weights == sorted(weights, reverse=True)
    assert expected.reasons[0].text in expected.sentence
    assert "one update takes the loss of another batch from 2.4 to 1e+09" in expected.sentence
    other = predict_training(measurement(loss_after=1e9, other_loss=2.7))
    assert "one update takes the loss of another batch from 2.7 to 1e+09" in other.sentence


def test_a_trial_that_fits_its_batch_speaks_for_training():
    learns = probability(trial=np.linspace(2.4, 0.5, 21))
    stays = probability(trial=np.full(21, 2.4))

    assert learns > stays


def test_a_trial_that_falls_to_the_loss_of_counted_labels_and_stays_there_speaks_against_it():
    falling = np.linspace(2.4, 2.23, 21)
    plateau = np.concatenate([np.linspace(2.4, 2.23, 6), np.full(15, 2.23)])

    assert probability(trial=falling) > 0.5
    assert probability(trial=plateau) < 0.5


def test_a_network_whose_outputs_change_alike_for_all_examples_does_not_train():
    expected = predict_training(measurement(common_decrease=0.5))

    assert expected.reasons[0].feature == "alike"
    assert "to first order, what they do to tell examples apart is 0 times" in expected.sentence


def test_a_network_that_takes_similar_examples_apart_does_not_train():
    expected = predict_training(measurement(variation=np.full(LAYERS + 1, 0.998)))

    assert expected.probability < 0.5
    assert expected.reasons[0].feature == "scattered"
    assert "they have 0.002 of the last signal in common" in expected.sentence


def test_the_report_says_what_was_measured():
    profile = np.geomspace(1e-8, 1, LAYERS + 1)
    report = str(
        predict_training(
            measurement(
                signal_grad=profile,
                grad_rms=profile[1:],
                epsilon=2e-5,  # between the gradients of layers 2 and 3
                theory=Theory(0.012, 0.001),
                lost={"float16": np.asarray([0.25, 0.0]), "float32": np.zeros(2)},
            )
        )
    )

    assert "factor per layer: 0.01 (theory 0.012 ± 0.001)" in report
    assert "the input of layer 0 gets 1e-16 of the last layer's squared gradient" in report
    assert "its ceiling 2(1 + β)/λ is 2" in report
    assert "the gradients of layers 0–2 are below it" in report
    assert "float16 25 %" in report
    assert "of another batch 2.4 → 2.3, to first order lower by 0.5, of which 0.5" in report


def test_the_factor_is_that_of_the_squared_gradient():
    measured = measurement(signal_grad=np.geomspace(0.1**LAYERS, 1, LAYERS + 1))

    assert factor_per_layer(measured) == pytest.approx(0.01)
    assert factor_per_layer(measurement(signal_grad=None)) is None
    assert hidden_layer(measured) is None


def test_json_has_stable_keys():
    found = predict_training(measurement()).to_json()

    assert list(found) == [
        "probability",
        "steps",
        "sentence",
        "reasons",
        "features",
        "factor_per_layer",
        "theory",
        "log10_ratio",
        "learning_rate",
        "ceiling",
        "sharpness",
        "variation",
        "hidden_layer",
        "lost",
        "loss",
        "chance_loss",
        "least_loss",
        "loss_after",
        "other_loss",
        "decrease",
        "common_decrease",
        "trial",
    ]


def test_the_formula_of_the_ceiling_is_that_of_the_momentum():
    plain = str(predict_training(measurement()))
    nesterov = str(predict_training(measurement(is_nesterov=True)))
    assert "its ceiling 2(1 + β)/λ is 2" in plain
    assert "its ceiling 2(1 + β)/((1 + 2β)λ) is 2" in nesterov


@pytest.mark.parametrize("has_trial", [False, True])
def test_features_count_losses_from_the_least_possible_one(has_trial):
    trial = np.linspace(2.4, 1.5, 11) if has_trial else None
    least = 0.7
    plain = measurement(trial=trial, decrease=0.002)
    shifted = dataclasses.replace(
        plain,
        loss=plain.loss + least,
        chance_loss=math.log(10) + least,
        loss_after=plain.loss_after + least,
        trial=None if trial is None else trial + least,
        least_loss=least,
    )
    assert measure_features(shifted) == pytest.approx(measure_features(plain))
    assert measure_features(plain)["slow"] > 0


def test_what_is_needed_can_be_reached_with_label_smoothing():
    """Of two classes of 94 and 6 %, smoothed by 0.2, the losses of chance and the least one."""
    fitted = measurement(loss=0.329, chance_loss=0.4153, least_loss=0.3251, trial=np.full(9, 0.33))
    features = measure_features(fitted)
    assert features["stalled"] == 0
    assert features["start"] == 0
    assert features["trial"] < 0.1
