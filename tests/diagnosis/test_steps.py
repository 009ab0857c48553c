"""The judgement of single steps."""

import numpy as np
import pytest

from research.diagnosis.steps import judge_steps


def judge(*signals):
    profiles = {"step": 10 * np.arange(len(signals)), "signal_grad": np.array(signals)}
    return judge_steps(profiles)


def test_each_step_is_judged_by_itself():
    layers = np.arange(21)
    judged = judge(np.ones(21), 0.5 ** (20.0 - layers), 2.0 ** (20.0 - layers))
    assert [judged[step]["kind"] for step in (0, 10, 20)] == ["healthy", "vanishing", "exploding"]
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
        is_fitted = (layers >= 4) & np.isfinite(logs[step])
        slope, _ = np.polyfit(layers[is_fitted], logs[step][is_fitted], 1)
        assert verdict["factor_per_layer"] == pytest.approx(np.exp(-slope), rel=1e-9)
