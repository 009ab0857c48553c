"""Fathom measures how gradients travel through deep networks, layer by layer.

The package is a house of rooms; a room imports only from rooms below it. ``docs/architecture.md``
names them and shows how a run passes through them.
"""

__version__ = "0.2.0"
