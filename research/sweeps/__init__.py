"""Many runs before they start: their jobs, composed cheaply, and the engines that carry them elsewhere. No jax."""
