"""Sweeps before they start: jobs are composed, checked and grouped; engines train groups elsewhere.

Nothing here imports JAX.
"""
