"""StyleGAN2, its discriminator, and the training that it shares with StyleGAN3, against golden numbers."""

import functools

import check_stylegan3
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from check_cips import check_filled, conv, dense, flat, flattened_dense, nested, paths, rename, select
from compare import assert_close, assert_outputs, nhwc

from pegan_jax import losses
from pegan_jax.config import Config, DataConfig, TrainConfig, system_module
from pegan_jax.layers import MappingNetwork, minibatch_std, truncate
from pegan_jax.models import stylegan2, stylegan3, stylegan_training
from pegan_jax.models.discriminator import Discriminator
from pegan_jax.models.stylegan2 import Generator
from pegan_jax.models.stylegan_training import Latents

MAPPING_RULES = [
    (r'(embed|fc\d+)\.weight', '{}/kernel', dense),
    (r'(embed|fc\d+)\.bias', '{}/bias', flat),
    (r'w_avg', 'w_avg', np.asarray),
]
CONV = r'(b\d+\.(?:fromrgb|conv0|conv1|skip|conv))'
D_RULES = [
    *((r'mapping\.' + rule, f'mapping/{path}', change) for rule, path, change in MAPPING_RULES),
    (CONV + r'\.weight', '{}/kernel', conv),
    (CONV + r'\.bias', '{}/bias', flat),
    (r'b4\.fc\.weight', 'b4/fc/kernel', flattened_dense),
    (r'b4\.out\.weight', 'b4/out/kernel', dense),
    (r'b4\.(fc|out)\.bias', 'b4/{}/bias', flat),
    (r'(b\d+(?:\.\w+)?)\.resample_filter', '{}/resample_filter', np.asarray),
]


def widths(kwargs):
    """Channels at 4, 8, ... up to the resolution."""
    sides = [4 * 2**i for i in range(kwargs['img_resolution'].bit_length() - 2)]
    return [min(kwargs.get('channel_base', 32768) // side, kwargs.get('channel_max', 512)) for side in sides]


def filled(arrays, rules, expected, prefix='param/'):
    """Variables of a module from those of a file, which also holds filters of layers that do not resample."""
    named = rename(select(arrays, prefix), rules)
    used = paths(expected['buffers'])
    named = {k: v for k, v in named.items() if k in used or not k.endswith('resample_filter')}
    variables = {
        'params': nested({k: v for k, v in named.items() if k not in used}),
        'buffers': nested({k: v for k, v in named.items() if k in used}),
    }
    for collection, tree in variables.items():
        check_filled(tree, expected[collection])
    return variables


def mapping(arrays, meta):
    kwargs = dict(meta['kwargs'])
    default = {'sg2': 8, 'sg3': 2}[meta['cls'].split('.')[0]]
    c_dim, z_dim = kwargs.pop('c_dim'), kwargs.pop('z_dim')
    module = MappingNetwork(**({'num_layers': default} | kwargs))
    inputs = arrays['in/z'] if z_dim else None, arrays['in/c'] if c_dim else None
    expected = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    variables = filled(arrays, MAPPING_RULES, {'buffers': {}} | expected)
    got = {}
    for call in meta['calls']:
        name = call.pop('out')
        psi, cutoff = (call.pop(f'truncation_{word}', None) for word in ('psi', 'cutoff'))
        got[name], after = module.apply(variables, *inputs, **call, mutable=['buffers'])
        if psi is not None:
            got[name] = truncate(got[name], after['buffers']['w_avg'], psi, cutoff)
        if call.get('update_emas'):
            got['w_avg_after_update'] = after['buffers']['w_avg']
    assert_outputs(arrays, got, meta['tolerance'])


# Discriminator --------------------------------------------------------------------------------------------


def discriminator_module(kwargs):
    block, epilogue, mapping = (kwargs.get(f'{part}_kwargs', {}) for part in ('block', 'epilogue', 'mapping'))
    options = {f'mapping_{k.removeprefix("num_")}': v for k, v in mapping.items()}
    options |= {k: tuple(v) for k, v in block.items()} | epilogue
    options |= {k: kwargs[k] for k in ('architecture', 'cmap_dim') if k in kwargs}
    return Discriminator(tuple(widths(kwargs)[::-1]), conv_clamp=kwargs.get('conv_clamp', 256), **options)


def discriminator(arrays, meta):
    kwargs, tolerance = meta['kwargs'], meta['tolerance']
    module = discriminator_module(kwargs)
    images, c = nhwc(arrays['in/img']), arrays.get('in/c')
    variables = filled(arrays, D_RULES, jax.eval_shape(module.init, jax.random.key(0), images, c))

    def score(params, images):
        return module.apply({'params': params, 'buffers': variables['buffers']}, images, c)

    @jax.jit
    def everything(params):
        capture = functools.partial(module.apply, capture_intermediates=lambda m, _: isinstance(m, nn.Module))
        logits, state = capture(variables, images, c)
        grad = jax.grad(lambda x: jnp.sum(score(params, x)))(images)
        second = jax.grad(lambda p: losses.r1_penalty(functools.partial(score, p), images))(params)
        return logits, state['intermediates'], grad, second

    logits, inside, grad, second = everything(variables['params'])
    got = {'logits': logits[:, None], 'grad_img': grad, 'r1_penalty': jnp.sum(grad**2, axis=(1, 2, 3))}
    blocks = [name for name in inside if name.startswith('b') and name != 'b4']
    got |= {f'block/{name}_x': inside[name]['__call__'][0][0] for name in blocks}
    if 'mapping' in inside:
        got['cmap'] = inside['mapping']['__call__'][0]
    if module.mbstd_num_channels:
        x = inside['b8']['__call__'][0][0]  # also for 'skip', where the file leaves out what fromrgb adds
        got['mbstd_out'] = minibatch_std(x, module.mbstd_group_size, module.mbstd_num_channels)[:, 0, 0, x.shape[3] :]
    wanted = rename(select(arrays, 'out/grad_meanr1/'), D_RULES)
    assert wanted
    for path, want in wanted.items():
        assert_close(f'grad_meanr1/{path}', paths(second)[path], want, tolerance)
    rest = {k: nhwc(v) if v.ndim == 4 else v for k, v in arrays.items() if 'grad_meanr1' not in k}
    assert_outputs(rest, got, tolerance)


# Generator ------------------------------------------------------------------------------------------------

SYNTHESIS = r'(synthesis\.b\d+(?:\.(?:conv0|conv1|torgb))?)'
G_RULES = [
    *((r'mapping\.' + rule, f'mapping/{path}', change) for rule, path, change in MAPPING_RULES),
    (SYNTHESIS + r'\.const', '{}/const', nhwc),
    (SYNTHESIS + r'\.weight', '{}/weight', conv),
    (SYNTHESIS + r'\.(bias|noise_strength|noise_const|resample_filter)', '{}/{}', np.asarray),
    (SYNTHESIS + r'\.affine\.weight', '{}/affine/kernel', dense),
    (SYNTHESIS + r'\.affine\.bias', '{}/affine/bias', flat),
    (r'(synthesis\.b\d+)\.skip\.weight', '{}/skip/kernel', conv),
    (r'(synthesis\.b\d+)\.skip\.resample_filter', '{}/skip/resample_filter', np.asarray),
]


def generator_module(kwargs):
    options = {k: kwargs[k] for k in ('w_dim', 'architecture', 'img_channels', 'use_noise') if k in kwargs}
    options |= {f'mapping_{k.removeprefix("num_")}': v for k, v in kwargs['mapping_kwargs'].items()}
    if 'resample_filter' in kwargs:
        options['resample_filter'] = tuple(kwargs['resample_filter'])
    return Generator(tuple(widths(kwargs)), conv_clamp=kwargs.get('conv_clamp', 256), **options)


def generator(arrays, meta):
    module = generator_module(meta['kwargs'])
    z, c = arrays['in/z'], arrays.get('in/c')
    variables = filled(arrays, G_RULES, jax.eval_shape(module.init, jax.random.key(0), z, c))
    assert module.num_ws == meta['num_ws']
    map_z = functools.partial(module.apply, variables, z, c, method='map')

    @jax.jit
    def everything(mixed):
        synthesise = functools.partial(module.apply, variables, method='synthesise')
        ws = map_z()
        got = {'ws': ws, 'img_noise_const': synthesise(ws), 'img_noise_none': synthesise(ws, 'none')}
        w_avg = variables['buffers']['mapping']['w_avg']
        got['img_trunc'] = synthesise(truncate(ws, w_avg, 0.5))  # meta does not say
        got['img_trunc_cut3'] = synthesise(truncate(ws, w_avg, 0.5, 3))
        got['img_ws_mixed'], state = synthesise(mixed, capture_intermediates=lambda m, _: 'Block' in type(m).__name__)
        return got, state['intermediates']['synthesis']

    got, inside = everything(arrays['in/ws_mixed'])
    got['img_noise_const_nonfused'] = got['img_noise_const']
    for name, block in inside.items():
        x, rgb = block['__call__'][0]
        got |= {f'block/{name}_x': x} | ({} if rgb is None else {f'block/{name}_img': rgb})
    wanted = {k: nhwc(v) if v.ndim == 4 else v for k, v in arrays.items()}
    assert_outputs(wanted, got, meta['tolerance'])


# Losses ---------------------------------------------------------------------------------------------------


def run_config(meta, system, **fields):
    """A run whose model is the file's; `fields` are those of its generator."""
    kwargs = {net: meta[f'{net}_kwargs'] for net in 'GD'}
    options = {'style_mixing_prob': 0.0, 'pl_weight': 0.0} | meta['loss_kwargs']
    options |= {k: kwargs['G'][k] for k in ('c_dim', 'z_dim', 'w_dim', 'img_resolution', 'channel_base', 'channel_max')}
    options |= {f'd_{k}': kwargs['D'][k] for k in ('channel_base', 'channel_max')}
    options |= {f'd_mapping_{k.removeprefix("num_")}': v for k, v in kwargs['D']['mapping_kwargs'].items()}
    model = system_module(system).Config(**options, **fields)
    data = DataConfig(folder='images', resolution=model.img_resolution, labels=model.c_dim > 0)
    return Config(system, model, data, train=TrainConfig(batch_size=4))


def loss(arrays, meta, config, networks, g_rules):
    tolerance, model, gan = meta['tolerance'], config.model, system_module(config.system).build(config)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    rules = {'g': g_rules, 'd': D_RULES}
    nets = {
        net: filled(arrays, rules[net], {'params': params[net], 'buffers': buffers[net]}, f'param/{net.upper()}.')
        for net in 'gd'
    }
    (g, g_buffers), (d, d_buffers) = ((nets[net]['params'], nets[net]['buffers']) for net in 'gd')
    real, real_c = nhwc(arrays['in/real_img']), arrays['in/real_c'] if model.c_dim else None
    gen_c = arrays['in/gen_c'] if model.c_dim else None
    keys = jax.random.split(jax.random.key(0), 4)  # neither model has noise
    latents = Latents(arrays['in/gen_z'], arrays['in/gen_z'], gen_c, keys, jax.random.key(0))
    few = jax.tree.map(lambda x: x[: len(x) // model.pl_batch_shrink], latents._replace(mixing=keys))
    noise, pl_mean = nhwc(arrays['in/pl_noise']), jnp.float32(meta['pl_mean_before'])

    # A phase is one of these, or the sum of two. Behind the fade, sigma is zero and the blur the identity.
    def sigma(nimg):
        return stylegan_training.blur_sigma(model, nimg, 4) if model.blur_init_sigma else None

    def g_main(p, nimg):
        return stylegan_training.g_main(model, networks, p, g_buffers, (d, d_buffers), latents, sigma(nimg))

    def g_pl(p, nimg):
        value, (mean, new) = stylegan_training.g_pl(model, networks, p, g_buffers, pl_mean, few, noise)
        return value, new | {'pl_mean_after': mean, 'reg': value}

    def d_main(p, nimg):
        g_now = (g, g_buffers)
        value, (after, new) = stylegan_training.d_main(
            model, networks, p, d_buffers, g_now, real, real_c, latents, sigma(nimg)
        )
        return value, new | {'after': after}

    def d_r1(p, nimg):
        value, new = stylegan_training.d_r1(model, networks, p, d_buffers, real, real_c, model.r1_gamma, sigma(nimg))
        return value, new | {'reg': value}

    parts = {
        part: jax.jit(jax.value_and_grad(f, has_aux=True))
        for part, f in (('Gmain', g_main), ('Greg', g_pl), ('Dmain', d_main), ('Dreg', d_r1))
    }
    if not model.pl_weight:
        del parts['Greg']
    names = {
        'Loss/G/loss': 'loss/g',
        'Loss/D/loss': 'loss/d',
        'Loss/pl_penalty': 'loss/pl',
        'Loss/r1_penalty': 'loss/r1',
        'Loss/G/reg': 'reg',
        'Loss/D/reg': 'reg',
        'Loss/scores/real': 'logits/real',
        'Loss/scores/fake': 'logits/fake',
    }
    for phase in meta['phases']:
        net, name = phase['phase'][0].lower(), phase['id']
        wanted = select(arrays, f'out/{name}/')
        chosen = [f for part, f in parts.items() if phase['phase'] in (part, f'{part[0]}both')]
        results = [f(g if net == 'g' else d, float(phase['cur_nimg'])) for f in chosen]
        got = functools.reduce(dict.__or__, (metrics for (_, metrics), _ in results), {'pl_mean_after': pl_mean})
        gain = phase['gain']
        grads = jax.tree.map(lambda *x, gain=gain: gain * sum(x), *(grads for _, grads in results))
        assert_close(f'{name}/pl_mean_after', got['pl_mean_after'], wanted['pl_mean_after'], tolerance)
        for key, want in select(wanted, 'report/').items():
            # G's phases do not report logits, D's R1 phase not those of real images.
            if key in names and names[key] in got:
                assert_close(f'{name}/{key}', got[names[key]], np.mean(want), tolerance)
        gradients = rename(select(wanted, 'grad/'), rules[net])
        assert gradients
        for path, want in gradients.items():
            # Some second derivatives vanish; what is left of them is rounding.
            allowed = {'atol': tolerance['rel_to_max'] * np.max(np.abs(want)) + 1e-7}
            assert_close(f'{name}/grad/{path}', paths(grads)[path], want, allowed)
        if phase['phase'] == 'Dreg':
            continue  # shows buffers updated, though this phase generates nothing: those of a later one
        for path, want in rename(select(wanted, 'G_buffer_after/'), g_rules).items():
            assert_close(f'{name}/after/{path}', paths(got['after'])[path], want, tolerance)


def loss_sg2(arrays, meta):
    layers = meta['G_kwargs']['mapping_kwargs']['num_layers']
    config = run_config(meta, 'stylegan2', mapping_layers=layers, use_noise=meta['G_kwargs']['use_noise'])
    loss(
        arrays,
        meta,
        config,
        stylegan_training.networks(config.model, stylegan2.generator, stylegan2.synthesise),
        G_RULES,
    )


def loss_sg3(arrays, meta):
    kwargs = meta['G_kwargs']
    config = run_config(meta, 'stylegan3', **{k: kwargs[k] for k in ('num_layers', 'magnitude_ema_beta')})
    loss(
        arrays,
        meta,
        config,
        stylegan_training.networks(config.model, stylegan3.Generator, stylegan3.synthesise),
        check_stylegan3.RULES,
    )


CHECKS = {
    ('stylegan3', 'mapping_'): mapping,
    ('stylegan3', 'discriminator_'): discriminator,
    ('stylegan3', 'sg2_generator_'): generator,
    ('stylegan3', 'loss_sg2'): loss_sg2,
    ('stylegan3', 'loss_sg3'): loss_sg3,
}
