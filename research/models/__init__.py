"""Networks: an embedding, stages of identical blocks, and a head.

Each module holds one family of ingredients. Nothing here trains or loads data.

Axis letters, everywhere in the project: B batch, T time, D model width, H heads, K head width, F
hidden width, V vocabulary, C classes, N layers, M runs, S steps. For images, H, W and C are height,
width and channels.
"""
