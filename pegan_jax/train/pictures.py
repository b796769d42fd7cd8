"""Pictures of a run: sample images of fixed inputs, and their distance to real ones."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from pegan_jax import pixels
from pegan_jax.config import Config
from pegan_jax.gan import GAN, Completer, images_of, inputs_of, labels_of
from pegan_jax.metrics.distribution import sliced_wasserstein
from pegan_jax.ops import resize_align_corners
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.scoring.images import middle
from pegan_jax.train.state import TrainState
from pegan_jax.train.step import as_floats


class Pictures:
    """Images of fixed inputs from a training state: latents of seeds 0, 1, 2, ..., or the first images of the data.

    Samples have the labels of the first images of the data, one by one.
    """

    batch_size = 8

    def __init__(self, gan: GAN, config: Config, batches: Callable) -> None:
        self._gan, self._config, self._batches = gan, config, batches

        def sample(variables: dict, inputs: Any, label: jax.Array | None) -> jax.Array:
            return images_of(gan, variables, inputs, labels_of({'label': label}, gan.c_dim))

        self._sample, self._floats = jax.jit(sample), jax.jit(as_floats)
        # The batch that the grid shows and the one whose distance is measured.
        self._first = functools.lru_cache(2)(self._read)

    def _read(self, count: int) -> dict[str, np.ndarray]:
        """The first images of the data, and what comes with them."""
        # One by one, because many batches are read ahead.
        with contextlib.closing(self._batches(batch_size=1, start_image=0)) as reals:
            read = list(itertools.islice(reals, count))
        rows = {} if self._gan.rows is None else self._gan.rows(self._config.train.seed, range(count))
        return {name: np.concatenate([row[name] for row in read]) for name in read[0]} | rows

    def inputs(self, count: int) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Inputs of `images_of`, and labels, for `count` images or a few more, at most batch_size at once."""
        size = min(count, self.batch_size)
        for start in range(0, count, size):
            index = np.arange(start, start + size)

            def rows(index: np.ndarray = index) -> dict:
                return self._floats({name: values[index % count] for name, values in self._first(count).items()})

            label = self._first(count)['label'][index % count] if self._gan.c_dim else None
            yield inputs_of(self._gan, index, rows, jax.random.key(self._config.train.seed)), label

    def images(self, state: TrainState, count: int) -> np.ndarray:
        """[count, H, W, C] float32."""
        return np.concatenate([np.asarray(self._sample(state.sampling, *x)) for x in self.inputs(count)])[:count]

    def grid(self, state: TrainState) -> np.ndarray:
        """The sample image, uint8."""
        rows, columns = self._config.train.sample_grid
        return image_grid(to_uint8(self.images(state, rows * columns)), columns)

    def start(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and pictures, uint8, of what exists before training: images, and the same with holes to complete."""
        rows, columns = self._config.train.sample_grid
        count = rows * columns
        yield 'reals', image_grid(self._first(count)['image'], columns)
        if isinstance(self._gan.sampler, Completer):
            parts = [drawn(inputs) for inputs, _ in self.inputs(count)]
            yield 'inputs', image_grid(to_uint8(np.concatenate(parts)[:count]), columns)

    def distance(self, state: TrainState) -> float:
        """Sliced Wasserstein distance between samples and real images, quantised the same way, in the samples' size."""
        count, stages = self._config.train.metric_images, self._gan.stages
        samples = np.concatenate([to_uint8(np.asarray(self._sample(state.sampling, *x))) for x in self.inputs(count)])
        samples, images = samples[:count], self._first(count)['image']
        size = samples.shape[1:3]
        if stages and size in {stage.size for stage in stages()}:
            # As in the training step.
            images = to_uint8(resize_align_corners(pixels.as_floats(images), size, antialias=True))
        # Data for random rotations are larger than what is cut from them.
        return sliced_wasserstein(samples, middle(images, size))


def drawn(inputs: dict) -> np.ndarray:
    """Inputs of a system that completes images, as pictures [N, H, W, C]: holes are grey, lines in them white."""
    image, mask = np.asarray(inputs['image']), np.asarray(inputs['mask'])
    holes = np.zeros_like(image) + np.asarray(inputs.get('sketch', 0.0))
    holes[..., 3:] = 1  # opaque
    return image * (1 - mask) + mask * holes
