"""The host loop: groups of runs and their records, progress, resuming, memory and signals."""
