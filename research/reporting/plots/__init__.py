"""Figures of anybody's runs, one module for each kind (``fathom plot``)."""
