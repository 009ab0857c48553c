"""Experiments by name: their sweeps, figures, claims and the gallery."""
