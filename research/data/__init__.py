"""Datasets: builders, preparation, and arrays ready for the device."""
