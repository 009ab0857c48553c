"""What chance does to training images, inside the compiled step: a pure function of the run's key and the step."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def augmented(
    rows: Float[Array, "B inputs"],
    shape: tuple[int, ...],
    crop: int,
    flip: bool,
    key: Array,
    step: Array,
) -> Float[Array, "B inputs"]:
    """Images [B, H·W·C] mirrored with probability ½ where ``flip``, and moved by up to ``crop`` pixels each way.

    Pixels that come in are 0, the mean of standardised images (He et al. 2016, §4.2).
    """
    if not (crop or flip):
        return rows
    first, second = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 3), step))
    images = rows.reshape(-1, *shape)
    if flip:
        mirrored = jax.random.bernoulli(first, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if crop:
        places = jax.random.randint(second, (len(images), 2), 0, 2 * crop + 1)
        wider = jnp.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
        images = jax.vmap(lambda image, at: lax.dynamic_slice(image, (at[0], at[1], 0), shape))(
            wider, places
        )
    return images.reshape(rows.shape)
