"""Terminal tables, one run in the terminal, and the style of figures. Does not import jax."""
