"""Fathom: how gradients travel through deep networks, measured in every layer inside the train
step.

The rooms of the package import downwards only: ``cli`` and ``benchmark`` on top, then
``reproduce``, ``sweeps``, ``runner`` and ``reporting``, then ``training``, ``diagnosis``,
``models``, ``records`` and ``data``, and at the bottom ``gauges``, ``theory``, ``parallel`` and
``config``.
"""

__version__ = "0.2.0"
