"""Gauges, verdict and record for anybody's JAX model and training loop.

While the loss is traced, adapters put a *mark* at the input and at the output of each module. A
mark is an identity in the traced program. The program is then evaluated again with a *slot* at each
mark that was selected, and differentiated with respect to the parameters and the slots.
"""
