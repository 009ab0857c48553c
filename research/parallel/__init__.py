"""Devices and processes: the mesh, collectives over a shared batch, and several processes of one run."""
