"""Fathom: how gradients travel through deep networks, measured layer by layer inside the training step.

Rooms: ``models`` builds networks, ``gauges`` measures and judges, ``data`` holds datasets, ``training`` runs the
pure program, ``records`` keeps and draws what was measured. The front door (``cli``, ``config``, ``train``,
``run``) may use all of them; no room imports the front door.
"""

__version__ = "0.2.0"
