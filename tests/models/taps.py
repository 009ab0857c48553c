"""Where gauges measure signals, in networks that tests write out by formula."""

import numpy as np
from numpy.testing import assert_allclose


class Taps:
    """Adds an array to each signal that a gauge measures, and collects the signals.

    The gradient with respect to an added array is the gradient that arrives at that signal. A
    formula has 1 + 3·N taps in this order: the embedding's output, then for each layer the branch's
    input, the shortcut's input, and the layer's output.

    Args:
        perturbations: the arrays to add, in order; where there are fewer, nothing is added.
    """

    def __init__(self, perturbations):
        self.perturbations = iter(perturbations)
        self.signals = []

    def add(self, h):
        h = h + next(self.perturbations, 0)
        self.signals.append(h)
        return h


def root_mean_square(h):
    return np.sqrt(np.mean(np.square(h)))


def assert_same_signals(measured, signals, signal_grads, rtol):
    """Compares gauges of signals with a formula; returns the greatest norm of a gradient.

    Args:
        measured: a ``Pass``.
        signals: the signals at all taps.
        signal_grads: the gradients with respect to them.
        rtol: relative tolerance.
    """
    norms = [np.linalg.norm(grad) for grad in signal_grads]
    rms = [root_mean_square(h) for h in signals]
    gauges = measured.gauges
    assert_allclose(gauges["signal_grad"], norms[::3], rtol=rtol)
    assert_allclose(gauges["branch_grad"], norms[1::3], rtol=rtol)
    assert_allclose(gauges["skip_grad"], norms[2::3], rtol=rtol)
    assert_allclose(gauges["activation_rms"], rms[::3], rtol=rtol)
    return float(max(norms))
