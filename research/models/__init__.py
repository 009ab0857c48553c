"""Networks: an embedding, stages of identical blocks, a head.

One file a family of ingredients. Nothing here trains, measures by itself, or reads a configuration.

Axis letters, everywhere in the project: B batch, T time, D model width, H heads, K head width, F
hidden width, V vocabulary, C classes, N layers, M runs, S steps.
"""
