"""Layers are counted as in ``init.layer``: the layer that has a fault is the one that is named."""

import numpy as np
import pytest

from research.diagnosis.observed import Observed, find_divergence
from research.diagnosis.verdict import judge

from .profiles import settings

LAYERS = 8
STEPS = 20
INF = float("inf")


def signals_below(layer, factor):
    """‖∂L/∂h‖ [N+1] where one layer alone multiplies the squared gradient by ``factor``."""
    signal = np.ones(LAYERS + 1)
    signal[: layer + 1] *= factor**0.5  # its input is signal ``layer``, its output the next one
    return signal


def find_fault(signal=None, *, profiles=(), diverged=None, **changes):
    """The first finding on a network whose measurements stay the same."""
    rows = np.tile(np.ones(LAYERS + 1) if signal is None else signal, (STEPS, 1))
    steps = np.arange(STEPS)
    measured = {"step": steps, "signal_grad": rows}
    for name, values in dict(profiles).items():
        measured[name] = np.tile(values, (STEPS, 1))
    observed = Observed(profiles=measured, format_=changes.pop("format_", "float32"))
    verdict = judge(
        steps,
        rows,
        settings=settings(model__depth=LAYERS, **changes),
        observed=observed,
        diverged=diverged,
    )
    return verdict.findings[0]


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize(
    ("factor", "kind"), [(0.0, "dead"), (1e-7, "vanishing"), (1e7, "exploding")]
)
def test_the_layer_that_spoils_the_gradient_is_named(layer, factor, kind):
    finding = find_fault(signals_below(layer, factor))

    assert finding.kind.name == kind
    assert finding.origin == layer
    assert f"layer {layer} " in finding.text
    # The layers below it get that gradient; of the first one it is the input.
    assert finding.layers == [(0, max(0, layer - 1))]
    assert ("input" in finding.text.rpartition(". ")[0]) == (kind != "dead" or layer == 0)


@pytest.mark.parametrize("layer", [0, 3, LAYERS - 1])
def test_the_layer_whose_signal_is_rounded_to_zero_is_the_first_that_is_named(layer):
    activations = np.ones(LAYERS + 1)
    activations[layer + 1 :] = 1e-9
    finding = find_fault(profiles={"activation_rms": activations}, format_="float16")

    assert finding.kind.name == "forward_underflow"
    assert finding.layers == [(layer, LAYERS - 1)]


@pytest.mark.parametrize("layer", [0, 3, LAYERS - 1])
@pytest.mark.parametrize("gauge", ["activation_rms", "signal_grad", "grad_norm"])
def test_the_layer_that_first_computes_a_number_that_is_not_finite_is_named(layer, gauge):
    profile = {
        "activation_rms": np.ones(LAYERS + 1),
        "signal_grad": np.ones(LAYERS + 1),
        "grad_norm": np.ones(LAYERS),
    }
    if gauge == "activation_rms":
        profile[gauge][layer + 1 :] = INF
    else:
        profile[gauge][: layer + 1] = INF  # the input of the layer, and all below it
    finding = find_fault(diverged=find_divergence(5, profile))

    assert finding.layers == ((layer, layer),)
    assert finding.origin == layer
    assert f"layer {layer}" in finding.text


@pytest.mark.parametrize("gauge", ["dead", "saturated"])
def test_the_layer_whose_units_are_stuck_is_named(gauge):
    shares = np.zeros(LAYERS)
    shares[3] = 0.95
    finding = find_fault(profiles={gauge: shares}, activation__kind="tanh")

    assert finding.layers == ((3, 3),)


def test_a_layer_that_is_frozen_is_named_with_what_freezes_it():
    ratios = np.full(LAYERS, 1e-3)
    ratios[3] = 0.0
    measured = {"update_ratio": ratios, "grad_norm": np.ones(LAYERS)}
    finding = find_fault(profiles=measured, optimizer__frozen_layer=3)

    assert (finding.kind.name, finding.origin) == ("update_ratio", 3)
    assert "the weights of layer 3 do not change" in finding.text
    assert finding.advice == "The layer is frozen: try optimizer.frozen_layer=null (now 3)."


def test_the_last_signal_is_the_output_of_the_last_layer():
    variation = np.ones(LAYERS + 1)
    variation[-2:] = 1e-9
    finding = find_fault(profiles={"signal_variation": variation})

    assert finding.kind.name == "collapsed"
    assert finding.layers == ((LAYERS - 2, LAYERS - 1),)
