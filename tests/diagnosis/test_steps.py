"""The judgement of single steps."""

import numpy as np
import pytest

from research.diagnosis.steps import judge_steps


def judge(*signals):
    steps = 10 * np.arange(len(signals))
    return judge_steps({"step": steps, "signal_grad": np.array(signals)})


def test_each_step_is_judged_by_itself():
    layers_above = 20.0 - np.arange(21)
    healthy = np.ones(21)
    vanishing = 0.5**layers_above
    exploding = 2.0**layers_above

    judged = judge(healthy, vanishing, exploding)

    assert judged[0]["kind"] == "healthy"
    assert judged[10]["kind"] == "vanishing"
    assert judged[20]["kind"] == "exploding"
    assert judged[10]["factor_per_layer"] == pytest.approx(0.25)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_step_without_a_finite_signal_has_no_judgement(value):
    assert judge([1.0, 1.0, value]) == {}


def test_many_steps_at_once_have_the_least_squares_slopes_of_each():
    generator = np.random.default_rng(0)
    logs = np.cumsum(generator.normal(-0.3, 1.0, (20, 17)), axis=1)
    logs[::4, 8] = -np.inf  # a layer without a gradient
    signal = np.exp(logs / 2)

    judged = judge_steps({"step": np.arange(20), "signal_grad": signal})

    layers = np.arange(17)
    for step, verdict in judged.items():
        profile = logs[step]
        is_fitted = (layers >= 4) & np.isfinite(profile)
        slope, _ = np.polyfit(layers[is_fitted], profile[is_fitted], 1)
        assert verdict["factor_per_layer"] == pytest.approx(np.exp(-slope), rel=1e-9)
