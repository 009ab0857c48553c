"""What people look at: terminal tables, one run in the terminal, and the figure style. No jax."""
