"""The configuration: dataclasses with ranges and meaning, validation, and Hydra's side. No jax."""
