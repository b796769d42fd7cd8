"""A checkpoint that TensorFlow wrote: what it holds, and the images and scores of its networks."""

import pathlib

import jax.numpy as jnp
import numpy as np
from compare import assert_close

from pegan_jax import interop
from pegan_jax.models import deepfill

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'deepfill'


def tensor_bundle(arrays, meta):
    tree = interop.read(FOLDER / meta['bundle'])
    # The compact copy of the numbers leaves out what the checkpoint has.
    for name, array in arrays.items():
        if name.startswith('param/'):
            got = tree[name.removeprefix('param/')]
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array, name)
    assert len(tree) == 122 and int(tree['global_step']) == meta['global_step']
    imported = interop.importer_of(tree).load(tree)
    model, state, tolerance = imported.config.model, imported.state, meta['tol']['float32']
    assert model.cnum == meta['ctor']['cnum']
    # Converted weights see RGB; the file is BGR.
    image, mask = jnp.asarray(arrays['in/image'])[..., ::-1], jnp.asarray(arrays['in/mask'])
    result = deepfill.Generator(model).apply({'params': state.params['g']}, image, mask)
    assert_close('stage1', result.coarse[..., ::-1], arrays['out/stage1'], tolerance)
    assert_close('stage2', result.refined[..., ::-1], arrays['out/stage2'], tolerance)
    seen = jnp.asarray(arrays['in/d_in'])
    seen = jnp.concatenate([seen[..., 2::-1], seen[..., 3:]], axis=-1)
    used, _ = deepfill.normalised(model, state.params['d'], state.buffers['d'])
    assert_close('d_out', deepfill.Discriminator(model).apply({'params': used}, seen), arrays['out/d_out'], tolerance)


CHECKS = {('deepfill', 'tf_bundle'): tensor_bundle}
