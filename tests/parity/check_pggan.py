"""PGGAN and DCGAN against golden numbers; those without padding by the definition that the files state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from checkpoints import dotted
from compare import anything, assert_close, assert_outputs, fields, nchw, nhwc, select, watched

from pegan_jax.config import Config, DataConfig, OptimConfig
from pegan_jax.interop import mmgen_early
from pegan_jax.layers import pixel_norm
from pegan_jax.models import dcgan, pggan


def network(system, model, name, arrays):
    """{'params', 'buffers'} of the state dictionary in a file, colours in its order."""
    data = DataConfig(resolution=model.img_resolution, channels=model.img_channels)
    config = Config(system, model, data, OptimConfig())
    out = mmgen_early.network(config, name, select(arrays, 'param/'))
    mmgen_early.turn_colours(system, out['params'])  # back from the order of this library
    return jax.tree.map(jnp.asarray, out)


ENCODING = {'head_pos_encoding': lambda name: {'encoding': (name or 'none').lower()}}

# DCGAN ----------------------------------------------------------------------------------------------------------------

DCGAN_OPTIONS = {
    'generator': ENCODING
    | {
        'output_scale': 'img_resolution',
        'noise_size': 'z_dim',
        'base_channels': 'base_channels',
        'no_pad': lambda off: {'padding': 'none' if off else 'zero'},
        'input_scale': (4,),
        'out_channels': 'img_channels',
    },
    'discriminator': {
        'input_scale': 'img_resolution',
        'base_channels': 'd_base_channels',
        'output_scale': (4,),
        'in_channels': 'img_channels',
        'out_channels': (1,),
    },
}


def check_dcgan(arrays, meta, name):
    """Both modes, and the running statistics after a batch; nothing here counts batches."""
    module = {'generator': dcgan.Generator, 'discriminator': dcgan.Discriminator}[name]
    model = dcgan.Config(**fields(meta['constructor'], DCGAN_OPTIONS[name]))
    net, got = network('dcgan', model, name, arrays), {}
    run = jax.jit(functools.partial(dcgan.run, module(model)), static_argnames='train')
    for call in meta['calls']:
        fields(call, dict.fromkeys(('name', 'train', 'note'), anything))
        key = call['name']
        given = next(arrays[k] for k in (f'in/{key}/z', f'in/{key}/x', 'in/z', 'in/x') if k in arrays)
        given = given.reshape(len(given), -1) if name == 'generator' else nhwc(given)
        out, stats = run(net['params'], net['buffers'], given, train=call['train'])
        got[f'{key}/y'] = got[f'{key}/img'] = nchw(out) if out.ndim == 4 else out[:, None]
        for layer, norm in stats.items():
            got |= {f'{key}/new_stats/{dotted(layer)}.bn.running_{k}': value for k, value in norm['bn'].items()}
    assert_outputs(arrays, got, meta['tolerance'], [r'.*\.num_batches_tracked'])


# PGGAN ----------------------------------------------------------------------------------------------------------------

PGGAN_OPTIONS = {
    'base_channels': 'channel_base',
    'max_channels': 'channel_max',
    'channel_decay': (1.0,),
    'label_size': 'c_dim',
}
PGGAN_OPTIONS = {
    'generator': PGGAN_OPTIONS
    | ENCODING
    | {
        'noise_size': 'z_dim',
        'out_scale': 'img_resolution',
        'no_pad': lambda off: {'upsampling': 'no-pad'} if off else {},
        'fused_upconv': lambda on: {} if on else {'upsampling': 'unfused'},
        'out_channels': 'img_channels',
    },
    'discriminator': PGGAN_OPTIONS
    | {
        'in_scale': 'img_resolution',
        'in_channels': 'img_channels',
        'fused_downconv': (True,),
        'mbstd_cfg': lambda options: (
            None if options is None else fields(options, {'group_size': 'mbstd_group_size', 'channel_groups': (1,)})
        ),
    },
}


def pggan_model(meta, name):
    found = fields(meta['constructor'], PGGAN_OPTIONS[name])
    return pggan.Config(**found, stage_kimg=(1.0,) * (found['img_resolution'].bit_length() - 3))


def calls_of(meta, model):
    """(name, level, fade-in weight) of every call."""
    for call in meta['calls']:
        fields(call, dict.fromkeys(('name', 'curr_scale', 'transition_weight', 'batch', 'note'), anything))
        side = model.img_resolution if call.get('curr_scale', -1) < 0 else call['curr_scale']
        yield call['name'], side.bit_length() - 3, np.float32(call.get('transition_weight', 1.0))


def check_pggan_generator(arrays, meta):
    """Images of every stage and fade-in weight, by the program of the stage and by that which samples."""
    model = pggan_model(meta, 'generator')
    variables, got = {'params': network('pggan', model, 'generator', arrays)['params']}, {}

    @functools.partial(jax.jit, static_argnums=2)
    def run(z, progress, level):
        image, seen = watched(lambda: pggan.Generator(model).apply(variables, z, progress, level))
        # Blocks are activated and normalised; that the projection is besides its layer.
        mid = {
            name: pixel_norm(jax.nn.leaky_relu(out, 0.2)) for name, (_, out) in seen.items() if 'conv_blocks' in name
        }
        return image, mid | {'noise2feat': seen['noise2feat'][1]}

    for name, level, fade in calls_of(meta, model):
        progress, z = np.float32(level - 1) + fade, arrays[f'in/{name}/z']
        image, mid = run(z, progress, level)
        got[f'{name}/img'] = nchw(image)
        got |= {f'{name}/mid/{dotted(layer)}': nchw(out) for layer, out in mid.items()}
        whole, _ = run(z, progress, None)
        factor = model.img_resolution // image.shape[1]
        enlarged = np.kron(image, np.ones((1, factor, factor, 1)))
        assert_close(f'{name}, enlarged', whole, enlarged, {'atol': 1e-5 * max(1.0, np.abs(enlarged).max())})
    assert_outputs(arrays, got, meta['tolerance'])


def check_pggan_discriminator(arrays, meta):
    """Scores of every stage; the gradient penalty and the drift term, both with a weight of 1."""
    model = pggan_model(meta, 'discriminator')
    params = network('pggan', model, 'discriminator', arrays)['params']
    critic, got = pggan.Discriminator(model), {}
    unit = dataclasses.replace(model, gp_weight=1.0, drift_weight=1.0)

    @functools.partial(jax.jit, static_argnums=2)
    def run(x, fade, level):
        (score, labels), seen = watched(lambda: critic.apply({'params': params}, x, level, fade))
        return score, labels, seen['linear0'][0].reshape(len(x), 4, 4, -1)

    @functools.partial(jax.jit, static_argnums=4)
    def losses(real, fake, mix, fade, level):
        grads = jax.grad(lambda x: jnp.sum(critic.apply({'params': params}, x, level, fade)[0]))(
            mix * real + (1 - mix) * fake
        )
        return grads, *pggan.d_loss(unit, params, real, fake, mix, level, fade)

    for name, level, fade in calls_of(meta, model):
        given = {key: nhwc(value) for key, value in select(arrays, f'in/{name}/').items()}
        score, labels, deviation = run(given['x'], fade, level)
        got |= {f'{name}/score': score[:, None], f'{name}/label': labels, f'{name}/mid/mbstd_layer': nchw(deviation)}
        if {'gp_fake', 'gp_alpha'} <= given.keys():
            grads, total, metrics = losses(given['x'], given['gp_fake'], given['gp_alpha'], fade, level)
            got |= {f'{name}/gp_grad': nchw(grads), f'{name}/gp_value': metrics['loss/gp']}
            on_fake, *_ = run(given['gp_fake'], fade, level)
            drift = total - metrics['critic/fake'] + metrics['critic/real'] - metrics['loss/gp']
            got[f'{name}/drift_value'] = drift - jnp.mean(jnp.square(on_fake))
    assert_outputs(arrays, got, meta['tolerance'])


PE = 'positional_encoding_gans'
CHECKS = {
    (PE, 'dcgan_d'): functools.partial(check_dcgan, name='discriminator'),
    (PE, 'dcgan_g'): functools.partial(check_dcgan, name='generator'),
    (PE, 'def_dcgan_'): functools.partial(check_dcgan, name='generator'),
    (PE, 'def_pggan_'): check_pggan_generator,
    (PE, 'pggan_d'): check_pggan_discriminator,
    (PE, 'pggan_g'): check_pggan_generator,
}
