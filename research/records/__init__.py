"""Writes run directories, reads them back, and mirrors them in dashboards. Does not import jax."""
