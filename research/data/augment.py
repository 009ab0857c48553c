"""Random augmentation of training images inside the compiled step."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def augment_images(
    rows: Float[Array, "B inputs"],
    shape: tuple[int, ...],
    crop: int,
    flip: bool,
    key: Array,
    step: Array,
) -> Float[Array, "B inputs"]:
    """Mirror and shift each image at random; a pure function of the key and the step.

    Pixels that are shifted in are 0, the mean of standardized images.

    Args:
        rows: Flattened images [B, H·W·C].
        shape: Height, width and channels of an image.
        crop: Largest shift in each direction, in pixels.
        flip: Whether each image is mirrored with probability ½.
        key: The random key of the run.
        step: The number of the training step.

    Returns:
        The augmented images [B, H·W·C].

    References:
        He et al., Deep residual learning for image recognition, 2016, §4.2.
    """
    if not crop and not flip:
        return rows
    augment_key = jax.random.fold_in(key, 3)
    step_key = jax.random.fold_in(augment_key, step)
    flip_key, crop_key = jax.random.split(step_key)
    images = rows.reshape(-1, *shape)
    num_images = len(images)
    if flip:
        is_mirrored = jax.random.bernoulli(flip_key, 0.5, (num_images, 1, 1, 1))
        images = jnp.where(is_mirrored, images[:, :, ::-1], images)
    if crop:
        num_shifts = 2 * crop + 1
        corners = jax.random.randint(crop_key, (num_images, 2), 0, num_shifts)
        margin = (crop, crop)
        padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))

        def crop_image(image: Array, corner: Array) -> Array:
            start = (corner[0], corner[1], 0)
            return lax.dynamic_slice(image, start, shape)

        images = jax.vmap(crop_image)(padded, corners)
    return images.reshape(rows.shape)
