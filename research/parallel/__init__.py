"""Devices and processes: the mesh, collectives over a batch, and several processes of a run."""
