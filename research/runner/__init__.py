"""The host loop: groups of runs, what is written of each, progress, resuming, memory and signals."""
