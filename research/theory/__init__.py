"""Closed-form predictions for wide networks, and what a number format loses.

Nothing here needs JAX.
"""
