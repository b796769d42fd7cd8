"""Names, shapes and kinds of all tensors of networks, those of official size for one, from which their sizes follow."""

import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax.interop import nvidia
from pegan_jax.models import stylegan2, stylegan3
from pegan_jax.models.discriminator import Discriminator


def count(shapes, pattern):
    """How many of pattern.format(0), pattern.format(1), ... there are."""
    n = 0
    while pattern.format(n) in shapes:
        n += 1
    return n


def labels(shapes):
    """Labels that a mapping network takes, one of them, or None; and the width that they are embedded to."""
    features, c_dim = shapes.get('mapping.embed.weight', (0, 0))
    return jnp.zeros((1, c_dim)) if c_dim else None, features


def sides_of(shapes):
    """Sides of the blocks, ascending, from names as b4.conv.weight or synthesis.b4.conv1.weight."""
    parts = {part for name in shapes for part in name.split('.')[:2] if part[0] == 'b' and part[1:].isdigit()}
    return sorted(int(part[1:]) for part in parts)


def by_rule(widths, side):
    """Widths at 4, 8, ..., side as they are, after a look at the rule that the library has for them."""
    bases = range(widths[-1] * side, (widths[-1] + 1) * side)
    assert any(stylegan2.widths((side, side), base, max(widths)) == widths for base in bases), widths
    return widths


def discriminator(shapes):
    """The module, and what it is initialised with."""
    sides, (c, _) = sides_of(shapes)[::-1], labels(shapes)
    features, seen = shapes['b4.conv.weight'][:2]
    architecture = 'resnet' if f'b{sides[0]}.skip.weight' in shapes else 'orig'
    module = Discriminator(
        by_rule((features, *(shapes[f'b{side}.conv0.weight'][0] for side in sides[-2::-1])), sides[0])[::-1],
        'skip' if 'b4.fromrgb.weight' in shapes else architecture,
        cmap_dim=None if c is None else shapes['b4.out.weight'][0],
        mapping_layers=count(shapes, 'mapping.fc{}.weight'),
        mbstd_num_channels=seen - features,
    )
    return module, (jnp.zeros((1, sides[0], sides[0], shapes[f'b{sides[0]}.fromrgb.weight'][1])), c)


def generator(shapes):
    """The module, and what it is initialised with."""
    (c, embedded), mapping_layers = labels(shapes), count(shapes, 'mapping.fc{}.weight')
    z = jnp.zeros((1, shapes['mapping.fc0.weight'][1] - embedded))
    w_dim = shapes[f'mapping.fc{mapping_layers - 1}.weight'][0]
    if 'synthesis.input.weight' not in shapes:
        sides = sides_of(shapes)
        last = f'synthesis.b{sides[-1]}'
        architecture = 'resnet' if f'{last}.skip.weight' in shapes else 'orig'
        module = stylegan2.Generator(
            by_rule(tuple(shapes[f'synthesis.b{side}.conv1.weight'][0] for side in sides), sides[-1]),
            w_dim=w_dim,
            architecture='skip' if 'synthesis.b4.torgb.weight' in shapes else architecture,
            img_channels=shapes[f'{last}.torgb.weight'][0],
            use_noise=f'{last}.conv1.noise_strength' in shapes,
            mapping_layers=mapping_layers,
        )
        return module, (z, c)
    names = {name.split('.')[1] for name in shapes if name.startswith('synthesis.L')}
    names = sorted(names, key=lambda name: int(name[1:].partition('_')[0]))
    side, img_channels = map(int, names[-1].split('_')[1:])
    widths = [shapes[f'synthesis.{name}.weight'][0] for name in names[:-1]]
    model = stylegan3.Config(
        r1_gamma=1.0,
        img_resolution=side,
        img_channels=img_channels,
        z_dim=z.shape[1],
        c_dim=0 if c is None else c.shape[1],
        w_dim=w_dim,
        mapping_layers=mapping_layers,
        channel_base=widths[-1] * side,  # the cutoff of the last layers is half of the side
        channel_max=max(widths),
        num_layers=len(widths),
        conv_kernel=shapes[f'synthesis.{names[0]}.weight'][-1],
        use_radial_filters=len(shapes[f'synthesis.{names[0]}.down_filter']) == 2,
    )
    return stylegan3.Generator(model), (z, c)


def state_dict_names(arrays, meta):
    """Every tensor finds a place of its shape and kind, and no place is left, which also confirms the sizes."""
    assert not arrays, f'nothing to compare with: {sorted(arrays)}'
    kinds = {'param': 1, 'buffer': 2}
    for name, entries in meta['state_dicts'].items():
        shapes = {key: tuple(shape) for key, shape, _ in entries}
        is_generator = any(key.startswith('synthesis.') for key in shapes)
        module, inputs = (generator if is_generator else discriminator)(shapes)
        target = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        tensors = {kind: {k: np.broadcast_to(np.float32(number), shape) for k, shape, of in entries if of == kind}
                   for kind, number in kinds.items()}  # fmt: skip
        network = nvidia.Network('', {}, (), tensors['param'], tensors['buffer'])
        table = nvidia.G_RULES if is_generator else nvidia.D_RULES
        got = nvidia.variables(name, network, table, dict(target))
        for kind, number in kinds.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(got.get(f'{kind}s', {})):
                assert np.all(leaf == number), f'{name}: {jax.tree_util.keystr(path)} is no {kind}'


CHECKS = {('stylegan3', 'state_dict_names'): state_dict_names}
