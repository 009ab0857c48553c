"""What is measured inside the train step: norms, probes, exponents, curvature and symmetries.

Nothing here knows networks, datasets or files, and nothing here judges.
"""
