"""MS-PIE and the StyleGAN2 of mmgen against golden numbers: generators, discriminators, losses."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from checkpoints import conv, dense, dotted, filled, flat, flattened_dense, paths, rename
from compare import anything, assert_outputs, fields, nchw, nhwc, select, watched

from pegan_jax import losses, ops
from pegan_jax.layers import truncate
from pegan_jax.models import mspie


def quarter(kernel):
    """The file has four times the filter for upsampling."""
    return kernel / 4


def modulated(weight):
    return conv(weight[0])


LAYER = r'(conv1|convs\.\d+|to_rgb1|to_rgbs\.\d+)'
G_RULES = [
    (r'style_mapping\.(\d+)\.linear\.weight_orig', lambda i: f'mapping/fc{int(i) - 1}/kernel', dense),
    (r'style_mapping\.(\d+)\.bias', lambda i: f'mapping/fc{int(i) - 1}/bias', flat),
    (r'constant_input\.input', 'synthesis/const', lambda x: nhwc(x[0])),
    (LAYER + r'\.conv\.weight_orig', 'synthesis/{}/weight', modulated),
    (LAYER + r'\.conv\.style_modulation\.linear\.weight_orig', 'synthesis/{}/affine/kernel', dense),
    (LAYER + r'\.conv\.style_modulation\.bias', 'synthesis/{}/affine/bias', flat),
    (LAYER + r'(?:\.activate)?\.bias', 'synthesis/{}/bias', flat),
    (LAYER + r'\.noise_injector\.weight', 'synthesis/{}/noise_strength', lambda x: x.reshape(())),
    (LAYER + r'\.conv\.blur\.kernel', 'synthesis/{}/resample_filter', quarter),
    (r'to_rgbs\.(\d+)\.upsample\.kernel', 'synthesis/rgb_filter_{}', quarter),
    (
        r'injected_noise_(\d+)',
        lambda q: 'synthesis/' + ('conv1' if q == '0' else f'convs_{int(q) - 1}') + '/noise_const',
        lambda x: x[0, 0],
    ),
]

# Generator ------------------------------------------------------------------------------------------------------------


def resized(options):
    """Rule for the resize of an upsampling convolution: bilinear keeping corners, or nearest."""
    bilinear = options.get('mode', 'nearest') == 'bilinear'
    rules = {'scale_factor': (2,), 'mode': 'resize', 'align_corners': (True,) if bilinear else anything}
    return fields({'mode': 'nearest', 'align_corners': False} | options, rules)


def encoded(options, largest):
    """Rule for the positional encoding of the head, of at most `largest` positions in a row."""
    if options is None:
        return {'head': 'const'}
    rest = {name: value for name, value in options.items() if name != 'type'}
    # Positions that are shifted change nothing, as long as none becomes the one of padding.
    rules = {'embedding_dim': anything, 'init_size': anything, 'padding_idx': (0,), 'div_half_dim': (False,)}
    rules['center_shift'] = lambda shift: {} if shift is None or shift >= largest / 2 else None
    fields(rest, rules if options['type'] == 'SPE' else {})
    return {'head': {'CSG': 'csg', 'SPE': 'spe'}.get(options['type'], options['type'])}


def channels_of(meta, side, prefix=''):
    """Widths of a file, which has a table of them, or those of the released program."""
    table, levels = meta.get('channels'), side.bit_length() - 2
    if table is not None:
        return {f'{prefix}channels': tuple(table[str(4 << i)] for i in range(levels))}
    return {f'{prefix}channel_base': 16384 * meta['constructor'].get('channel_multiplier', 2)}


def run_model(meta):
    """The model of a file. Transposed convolutions make options of resizing void."""
    options, side = meta['constructor'], meta['constructor']['out_size']
    padding, resizes = not options.get('no_pad', False), options.get('deconv2conv', False)
    behind = options.get('up_after_conv', False)
    upsampling = ('conv-resize' if behind else 'resize-conv') if resizes else 'deconv'
    head = 4 if padding else 6
    scales = [np.max(call.get('chosen_scale', 0)) for call in meta['calls']]
    rules = {
        'out_size': 'img_resolution',
        'style_channels': 'z_dim',
        'num_mlps': 'mapping_layers',
        'channel_multiplier': anything,
        'blur_kernel': anything,  # filters are read as arrays
        'lr_mlp': (0.01,),
        'interp_head': 'interpolate_head',
        'deconv2conv': anything,
        'up_after_conv': anything,
        # A transposed convolution has nothing to make up for the borders that it loses.
        'no_pad': lambda off: {} if resizes or not off else None,
        'interp_pad': lambda pad: {} if not resizes or pad == (None if padding else 6 if behind else 4) else None,
        'up_config': lambda options: resized(options) if resizes else {},
        'head_pos_encoding': lambda options: encoded(options, head + max(scales, default=0)),
        'head_pos_size': lambda size: {} if 'head_pos_encoding' not in options or set(size) == {head} else None,
    } | dict.fromkeys(('default_style_mode', 'eval_style_mode', 'mix_prob'), anything)  # of training alone
    rules |= dict.fromkeys(('in_channels', 'out_channels'), 'img_channels')
    defaults = {'upsampling': upsampling, 'padding': padding, 'resize': 'nearest', 'z_dim': 512, 'mapping_layers': 8}
    defaults |= {'d_channels': (8,) * (side.bit_length() - 2)} | channels_of(meta, side)
    return mspie.Config(**defaults | fields(options, rules))


def g_variables(model, arrays, meta):
    source = {k: v for k, v in arrays.items() if k != 'param/head_pos_enc._float_tensor'}
    if not model.padding and model.upsampling == 'conv-resize':
        # The noise of its files does not fit their layers (the specification says so); no call takes it.
        for q in range(1, 2 * len(mspie.g_widths(model)) - 1, 2):
            noise = source[f'param/injected_noise_{q}']
            source[f'param/injected_noise_{q}'] = np.pad(noise, ((0, 0), (0, 0), (1, 1), (1, 1)))
        assert all(call.get('randomize_noise', True) for call in meta['calls']), 'option randomize_noise=False'
    expected = jax.eval_shape(mspie.generator(model).init, jax.random.key(0), jnp.zeros((1, model.z_dim)))
    return filled(source, G_RULES, expected)


def noise_of(arrays, prefix):
    """(B, 1, H, W) of each layer, or none -> ([B, H, W], ...)."""
    found = select(arrays, f'{prefix}noise_')
    return tuple(jnp.asarray(found[str(i)][:, 0]) for i in range(len(found)))


def generator(arrays, meta):
    """Images of every call, and what the layers put out, by their names in the program."""
    allowed = {'name', 'mode', 'chosen_scale', 'inject_index', 'truncation', 'randomize_noise', 'injected_noise'}
    allowed |= {'input_is_latent', 'out_hw', 'note'}
    for call in meta['calls']:
        fields(call, dict.fromkeys(allowed, anything))
    model = run_model(meta)
    variables, module = g_variables(model, arrays, meta), mspie.generator(model)
    map_z = jax.jit(functools.partial(module.apply, method='map'))
    filters = [variables['buffers']['synthesis'][f'rgb_filter_{b}'] for b in range(len(mspie.g_widths(model)) - 1)]

    @functools.partial(jax.jit, static_argnames='scale')
    def synthesise(variables, ws, noise, scale):
        run = functools.partial(module.apply, variables, ws, scale, noise or 'const', method='synthesise')
        img, seen = watched(run)
        seen = {name.removeprefix('synthesis/'): value for name, value in seen.items()}
        inside = {name: out for name, (_, out) in seen.items() if re.fullmatch(r'(conv|to_rgb)(1|s_\d+)', name)}
        # The file's to_rgbs have the upsampled colours added.
        rgb = inside['to_rgb1']
        for b, fir in enumerate(filters):
            rgb = inside[f'to_rgbs_{b}'] = ops.upsample2d(rgb, fir) + inside[f'to_rgbs_{b}']
        return img, inside | {'head': seen['conv1'][0][:1]}

    got = {}
    for call in meta['calls']:
        name, scale = call['name'], call.get('chosen_scale', 0)
        scale = tuple(scale) if isinstance(scale, list) else scale
        given = {k: jnp.asarray(v) for k, v in select(arrays, f'in/{name}/').items() if not k.startswith('noise_')}
        ws = given.get('latent')
        if ws is None:
            w = map_z(variables, given['z'])
            got[f'{name}/mid/style_mapping'] = w
            other = map_z(variables, given['z2']) if 'z2' in given else w
            first = jnp.arange(module.num_ws) < call.get('inject_index', module.num_ws)
            ws = jnp.where(first[None, :, None], w[:, None], other[:, None])
        if call.get('truncation', 1) < 1:
            ws = truncate(ws, given['truncation_latent'].reshape(-1), call['truncation'])
        noise = noise_of(arrays, f'in/{name}/')
        assert noise or not call.get('randomize_noise', True), f'{name}: noise that nobody wrote down'
        img, inside = synthesise(variables, ws, noise, scale)
        got |= {f'{name}/img': nchw(img), f'{name}/latent': ws}
        got |= {f'{name}/mid/{dotted(layer)}': nchw(out) for layer, out in inside.items()}
        size = list(mspie.output_size(model, scale))
        assert call.get('out_hw', size) == size, f'{name}: out_hw'
    assert_outputs(arrays, got, meta['tolerance'])


# Discriminator --------------------------------------------------------------------------------------------------------


def d_rules(side, pool):
    def block(j):
        return f'b{side >> int(j) - 1}'

    return [
        (r'convs\.0\.0\.conv\.weight_orig', f'b{side}/fromrgb/kernel', conv),
        (r'convs\.0\.1\.bias', f'b{side}/fromrgb/bias', flat),
        (r'convs\.(\d+)\.conv1\.0\.conv\.weight_orig', lambda j: f'{block(j)}/conv0/kernel', conv),
        (r'convs\.(\d+)\.conv1\.1\.bias', lambda j: f'{block(j)}/conv0/bias', flat),
        (r'convs\.(\d+)\.conv2\.0\.kernel', lambda j: f'{block(j)}/conv1/resample_filter', np.asarray),
        (r'convs\.(\d+)\.conv2\.1\.conv\.weight_orig', lambda j: f'{block(j)}/conv1/kernel', conv),
        (r'convs\.(\d+)\.conv2\.2\.bias', lambda j: f'{block(j)}/conv1/bias', flat),
        (r'convs\.(\d+)\.skip\.0\.kernel', lambda j: f'{block(j)}/skip/resample_filter', np.asarray),
        (r'convs\.(\d+)\.skip\.1\.conv\.weight_orig', lambda j: f'{block(j)}/skip/kernel', conv),
        (r'final_conv\.0\.conv\.weight_orig', 'conv/kernel', conv),
        (r'final_conv\.1\.bias', 'conv/bias', flat),
        (
            r'final_linear\.0\.linear\.weight_orig',
            'fc/kernel',
            functools.partial(flattened_dense, side=pool or 4),
        ),
        (r'final_linear\.1\.linear\.weight_orig', 'out/kernel', dense),
        (r'final_linear\.([01])\.bias', lambda i: f'{("fc", "out")[int(i)]}/bias', flat),
    ]


def d_model(meta):
    """The model of a discriminator's file."""
    options, side = meta['constructor'], meta['constructor']['in_size']
    pools = options.get('with_adaptive_pool', False)
    rules = {
        'in_size': 'img_resolution',
        'channel_multiplier': anything,
        'blur_kernel': anything,  # filters are read as arrays
        'mbstd_cfg': lambda chosen: fields(chosen, {'group_size': 'mbstd_group_size', 'channel_groups': (1,)}),
        'with_adaptive_pool': anything,
        'pool_size': lambda size: None if len(set(size)) > 1 else {'d_pool': size[0]} if pools else {},
        'in_channels': 'img_channels',
    }
    return mspie.Config(**{'d_pool': 2 if pools else None} | channels_of(meta, side, 'd_') | fields(options, rules))


def discriminator(arrays, meta):
    """Scores, their gradient and its square, and what the layers put out, by their names in the program."""
    for call in meta['calls']:
        fields(call, dict.fromkeys(('name', 'batch', 'hw', 'note'), anything))
    model = d_model(meta)
    side, module = model.img_resolution, mspie.discriminator(model)
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, side, side, model.img_channels)))
    variables = filled(arrays, d_rules(side, model.d_pool), expected)

    @jax.jit
    def run(images):
        logits, seen = watched(lambda: module.apply(variables, images))
        gradient = jax.grad(lambda x: jnp.sum(module.apply(variables, x)))(images)
        mid = {'convs.0': seen[f'b{side}/fromrgb'][1], 'mbstd_layer': seen['conv'][0], 'final_conv': seen['conv'][1]}
        mid |= {f'convs.{j}': seen[f'b{side >> j - 1}'][1][0] for j in range(1, len(mspie.d_widths(model)))}
        return logits, gradient, mid

    got = {}
    for call in meta['calls']:
        name = call['name']
        logits, gradient, mid = run(nhwc(arrays[f'in/{name}/x']))
        r1 = jnp.mean(jnp.sum(jnp.square(gradient), axis=(1, 2, 3)))
        got |= {f'{name}/score': logits[:, None], f'{name}/grad_x': nchw(gradient), f'{name}/r1_value': r1}
        got |= {f'{name}/mid/{layer}': nchw(out) for layer, out in mid.items()}
    assert_outputs(arrays, got, meta['tolerance'])


# Losses ---------------------------------------------------------------------------------------------------------------


def train_losses(arrays, meta):
    """The path length term and its gradients; the losses of logits, of which DCGAN's is the logistic one."""
    got, golden = {}, {k: v for k, v in arrays.items() if not k.startswith('out/penalty_grad/')}
    if 'in/z' in arrays:
        model = run_model(meta)
        variables = g_variables(model, arrays, meta)
        z, y = jnp.asarray(arrays['in/z']), jnp.asarray(nhwc(arrays['in/y']))
        noise, mean = noise_of(arrays, 'in/'), jnp.float32(arrays['in/mean_path_length'])
        module = mspie.generator(model)

        def penalty(params):
            changed = variables | {'params': params}
            ws = jnp.repeat(module.apply(changed, z, method='map')[:, None], module.num_ws, axis=1)
            value, new = mspie.path_penalty(model, changed, mean, ws, noise, y)
            synthesise = functools.partial(module.apply, changed, method='synthesise')
            return value, (new, losses.path_lengths(lambda ws: synthesise(ws, 0, noise), ws, y))

        run = jax.jit(jax.value_and_grad(penalty, has_aux=True))
        (got['penalty'], (got['new_mean'], got['path_lengths'])), gradient = run(variables['params'])
        got |= {f'penalty_grad/{path}': value for path, value in paths(gradient).items()}
        wanted = rename(select(arrays, 'out/penalty_grad/'), G_RULES)
        golden |= {f'out/penalty_grad/{path}': want for path, want in wanted.items()}
    if 'in/scores' in arrays:
        logits = jnp.asarray(arrays['in/scores'])[:, 0]
        g, d = losses.logistic_g(logits), losses.logistic_d(logits, logits)
        got |= {'logistic_d_real_or_g': g, 'logistic_d_fake': d - g, 'vanilla_real': g, 'vanilla_fake': d - g}
        got |= {'wgan_real': losses.hinge_g(logits), 'wgan_fake': -losses.hinge_g(logits)}  # means with a sign
    assert_outputs(golden, got, meta['tolerance'])


CHECKS = {
    ('positional_encoding_gans', 'ms_g_'): generator,
    ('positional_encoding_gans', 'ms_d_'): discriminator,
    ('positional_encoding_gans', 'stylegan2_g'): generator,
    ('positional_encoding_gans', 'stylegan2_d'): discriminator,
    ('positional_encoding_gans', 'train_losses'): train_losses,
}
