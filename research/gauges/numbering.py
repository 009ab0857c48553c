"""Which layer a number belongs to.

Layers are counted from 0, as in ``init.layer`` and ``precision.layers``, wherever a user reads of
them. A gauge has an entry for each layer [N] or for each signal [N+1]. Signal 0 is the input of
layer 0, which the embedding computes, and signal l + 1 is the output of layer l. Where a signal
needs a number on an axis or in a table it is that of the layer whose output it is, so the input of
layer 0 is at −1.
"""

import numpy as np

INPUT = -1  # the place of the input of layer 0 among layers


def layer_with_output(signal: int) -> int | None:
    """The layer whose output a signal is; None for the input of layer 0.

    >>> layer_with_output(0), layer_with_output(3)
    (None, 2)
    """
    return None if signal == 0 else signal - 1


def layer_with_input(signal: int, layers: int) -> int | None:
    """The layer whose input a signal is, which also passes its gradient on.

    Args:
        signal: the number of the signal.
        layers: the layers N.

    Returns:
        The layer; None for the output of the last layer, whose gradient comes from the head.
    """
    return None if signal == layers else signal


def entry_layers(count: int, is_signals: bool) -> np.ndarray:
    """The layer of each entry of a gauge.

    Args:
        count: its entries.
        is_signals: whether they are of signals.

    >>> entry_layers(3, is_signals=True).tolist()
    [-1, 0, 1]
    """
    return np.arange(count) + (INPUT if is_signals else 0)


def nearest_layer(signal: int) -> int:
    """The layer whose output a signal is; layer 0 also for its input."""
    return max(0, signal - 1)


def nearest_layers(signals: np.ndarray) -> np.ndarray:
    """The layers of signals, ascending and each once.

    >>> nearest_layers(np.array([0, 1, 2, 5])).tolist()
    [0, 1, 4]
    """
    return np.unique(np.maximum(0, signals - 1))
