"""What was measured: the run directory, its mirrors in dashboards, and how to read and draw it. No jax."""
