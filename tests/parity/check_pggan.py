"""PGGAN and DCGAN against golden numbers; those without padding by the definition that the files state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from compare import assert_close, nchw, nhwc

from pegan_jax.config import Config, DataConfig, OptimConfig
from pegan_jax.interop import mmgen_early
from pegan_jax.models import dcgan, pggan


def network(system, model, name, arrays):
    """{'params', 'buffers'} of the state dictionary in a file, colours in its order."""
    config = Config(system, model, DataConfig(resolution=model.img_resolution), OptimConfig())
    source = {k.removeprefix('param/'): v for k, v in arrays.items() if k.startswith('param/')}
    out = mmgen_early.network(config, name, source)
    mmgen_early.turn_colours(system, out['params'])  # back from the order of this library
    return jax.tree.map(jnp.asarray, out)


def encoding(options):
    return (options.get('head_pos_encoding') or 'none').lower()


# DCGAN ----------------------------------------------------------------------------------------------------------------


def check_dcgan(arrays, meta, name):
    """Both modes, and the running statistics after a batch."""
    options, module = meta['constructor'], {'generator': dcgan.Generator, 'discriminator': dcgan.Discriminator}[name]
    sizes = {
        'generator': lambda: dict(
            img_resolution=options['output_scale'], z_dim=options['noise_size'], base_channels=options['base_channels']
        ),
        'discriminator': lambda: dict(img_resolution=options['input_scale'], d_base_channels=options['base_channels']),
    }
    padding = 'none' if options.get('no_pad') else 'zero'
    model = dcgan.Config(**sizes[name](), padding=padding, encoding=encoding(options))
    net = network('dcgan', model, name, arrays)
    run = jax.jit(functools.partial(dcgan.run, module(model)), static_argnames='train')
    for call in meta['calls']:
        key = call['name']
        inputs = next(arrays[k] for k in (f'in/{key}/z', 'in/z', 'in/x') if k in arrays)
        got, stats = run(
            net['params'], net['buffers'], nhwc(inputs) if inputs.ndim == 4 else inputs, train=call['train']
        )
        want = next(arrays[k] for k in (f'out/{key}/y', f'out/{key}/img') if k in arrays)
        assert_close(key, nchw(got) if got.ndim == 4 else got[:, None], want, meta['tolerance'])
        for path, value in arrays.items():
            layer, _, field = path.removeprefix(f'out/{key}/new_stats/').rpartition('.bn.')
            if path.startswith(f'out/{key}/new_stats/') and field != 'num_batches_tracked':
                new = stats[layer.replace('.', '_')]['bn'][field.removeprefix('running_')]
                assert_close(path, new, value, meta['tolerance'])


# PGGAN ----------------------------------------------------------------------------------------------------------------


def pggan_model(options):
    side = options.get('out_scale', options.get('in_scale'))
    upsampling = 'fused' if options.get('fused_upconv', True) else 'unfused'
    return pggan.Config(
        img_resolution=side,
        z_dim=options.get('noise_size', 512),
        channel_base=options['base_channels'],
        channel_max=options['max_channels'],
        upsampling='no-pad' if options.get('no_pad') else upsampling,
        encoding=encoding(options),
        stage_kimg=(1.0,) * (side.bit_length() - 3),
    )


def level_of(call, model):
    side = model.img_resolution if call['curr_scale'] < 0 else call['curr_scale']
    return side.bit_length() - 3


def check_pggan_generator(arrays, meta):
    """Images of every stage and fade-in weight, by the program of the stage and by that which samples."""
    model = pggan_model(meta['constructor'])
    net = network('pggan', model, 'generator', arrays)
    run = jax.jit(pggan.Generator(model).apply, static_argnums=3)
    for call in meta['calls']:
        name, level = call['name'], level_of(call, model)
        progress, z = np.float32(level - 1 + call['transition_weight']), arrays[f'in/{name}/z']
        image = run({'params': net['params']}, z, progress, level)
        assert_close(name, nchw(image), arrays[f'out/{name}/img'], meta['tolerance'])
        whole = run({'params': net['params']}, z, progress, None)
        factor = model.img_resolution // image.shape[1]
        np.testing.assert_allclose(whole, np.kron(image, np.ones((1, factor, factor, 1))), atol=1e-5)


def check_pggan_discriminator(arrays, meta):
    """Scores of every stage; the gradient penalty and the drift term."""
    model = pggan_model(meta['constructor'])
    params = network('pggan', model, 'discriminator', arrays)['params']
    critic = pggan.Discriminator(model)
    run = jax.jit(lambda x, fade, level: critic.apply({'params': params}, x, level, fade), static_argnums=2)
    for call in meta['calls']:
        name, level, fade = call['name'], level_of(call, model), np.float32(call['transition_weight'])
        real = nhwc(arrays[f'in/{name}/x'])
        assert_close(name, run(real, fade, level)[:, None], arrays[f'out/{name}/score'], meta['tolerance'])
        if f'in/{name}/gp_fake' not in arrays:
            continue
        fake, mix = nhwc(arrays[f'in/{name}/gp_fake']), nhwc(arrays[f'in/{name}/gp_alpha'])
        gradient = jax.jit(jax.grad(lambda x, level=level, fade=fade: jnp.sum(run(x, fade, level))))
        grads = gradient(mix * real + (1 - mix) * fake)
        assert_close('gradient', nchw(grads), arrays[f'out/{name}/gp_grad'], meta['tolerance'])

        @functools.partial(jax.jit, static_argnums=0)
        def loss(model, real, level=level, fade=fade, fake=fake, mix=mix):
            return pggan.d_loss(model, params, real, fake, mix, level, fade)

        total, metrics = loss(dataclasses.replace(model, gp_weight=1.0, drift_weight=1.0), real)
        penalty, drift = (arrays[f'out/{name}/{kind}_value'] for kind in ('gp', 'drift'))
        assert_close('gradient penalty', metrics['loss/gp'], penalty, meta['tolerance'])
        on_fake = np.asarray(run(fake, fade, level))
        rest = total - metrics['critic/fake'] + metrics['critic/real'] - metrics['loss/gp']
        assert_close('drift', rest - np.mean(np.square(on_fake)), drift, meta['tolerance'])


PE = 'positional_encoding_gans'
CHECKS = {
    (PE, 'dcgan_d'): functools.partial(check_dcgan, name='discriminator'),
    (PE, 'dcgan_g'): functools.partial(check_dcgan, name='generator'),
    (PE, 'def_dcgan_'): functools.partial(check_dcgan, name='generator'),
    (PE, 'def_pggan_'): check_pggan_generator,
    (PE, 'pggan_d'): check_pggan_discriminator,
    (PE, 'pggan_g'): check_pggan_generator,
}
