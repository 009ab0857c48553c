"""The instrument: what is measured inside the step, what theory expects, and the verdict in words.

``norms`` and ``slots`` measure, ``layers`` sums up a layer's parameters, ``theory`` predicts, ``verdict`` judges.
Nothing here knows of networks, datasets or files.
"""
