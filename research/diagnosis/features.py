"""The features from which it is predicted whether a network trains.

A feature is 0 where nothing speaks against training, and grows with what does. It is a number that
theory knows: how the gradient changes over depth, how far the learning rate is from its ceiling,
how much of a signal still tells examples apart.
"""

@dataclass(frozen=True)
class Feature:
    """Something that speaks against training.

    Attributes:
        name: its key in the coefficients and in ``--json``.
        meaning: what the number is.
        measure: computes it; 0 where nothing of it was measured.
        explain: says it in words.
    """

    name: str
    meaning: str
    measure: Callable[[Measurement], float]
    explain: Callable[[Measurement], str]
