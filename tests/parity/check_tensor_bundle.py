"""A checkpoint that TensorFlow wrote: what it holds, and the images and scores of its networks."""

import pathlib

import jax.numpy as jnp
import numpy as np
from compare import assert_outputs, fields, select

from pegan_jax import interop
from pegan_jax.models import deepfill
from pegan_jax.weights.rules import swap_colours


def tensor_bundle(arrays, meta):
    tree, _ = interop.read(pathlib.Path(meta['folder']) / meta['bundle'])
    # The compact copy of the numbers leaves out what the checkpoint has.
    for name, array in select(arrays, 'param/').items():
        assert tree[name].dtype == array.dtype, name
        np.testing.assert_array_equal(tree[name], array, name)
    assert int(tree['global_step']) == meta.get('global_step', int(tree['global_step']))
    imported = interop.importer_of(tree).load(tree)
    model, state = imported.config.model, imported.state
    told = fields(meta['ctor'], {'cnum': 'cnum', 'guided': 'guided'})
    assert {name: getattr(model, name) for name in told} == told

    def rgb(x):
        """The file is BGR; converted weights see RGB. An image comes first."""
        return jnp.asarray(swap_colours(np.asarray(x), channels=model.img_channels))

    given = {name: jnp.asarray(value) for name, value in select(arrays, 'in/').items()}
    got = {}
    if 'image' in given:
        inputs = rgb(given['image']), given['mask'], *([given['edge']] if model.guided else [])
        result = deepfill.Generator(model).apply({'params': state.params['g']}, *inputs)
        composite = deepfill.composite(result.refined, *inputs[:2])
        got |= {'stage1': rgb(result.coarse), 'stage2': rgb(result.refined), 'composite': rgb(composite)}
    if 'd_in' in given:
        used, _ = deepfill.normalised(model, state.params['d'], state.buffers['d'])
        got['d_out'] = deepfill.Discriminator(model).apply({'params': used}, rgb(given['d_in']))
    assert_outputs(arrays, got, meta['tol']['float32'])


CHECKS = {('deepfill', 'tf_bundle'): tensor_bundle}
