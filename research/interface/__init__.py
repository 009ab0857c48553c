"""The Python interface for notebooks and scripts: load, train and sweep."""
