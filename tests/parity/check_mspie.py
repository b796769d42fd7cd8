"""MS-PIE and the StyleGAN2 of mmgen against golden numbers: generators, discriminators, losses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from check_cips import check_filled, conv, dense, flat, flattened_dense, nested, paths, rename, select
from compare import assert_close, nchw, nhwc

from pegan_jax import losses
from pegan_jax.layers import truncate
from pegan_jax.models import mspie


def quarter(kernel):
    """Of upsampling the file has four times the filter."""
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


def run_model(meta):
    """The model of a file."""
    options, side = meta['constructor'], meta['constructor']['out_size']
    levels = side.bit_length() - 2
    encoding = (options.get('head_pos_encoding') or {'type': 'const'})['type'].lower()
    upsampling = 'deconv'
    if options.get('deconv2conv'):
        upsampling = 'conv-resize' if options.get('up_after_conv') else 'resize-conv'
    return mspie.Config(
        img_resolution=side,
        z_dim=options['style_channels'],
        mapping_layers=options['num_mlps'],
        channels=tuple(meta['channels'][str(4 << i)] for i in range(levels)),
        d_channels=(8,) * levels,
        head=encoding,
        interpolate_head=options.get('interp_head', False),
        upsampling=upsampling,
        resize=options.get('up_config', {}).get('mode', 'bilinear'),
        padding=not options.get('no_pad', False),
    )


def g_variables(model, arrays, meta):
    source = select(arrays, 'param/')
    if not model.padding and model.upsampling == 'conv-resize':
        # The noise of its files does not fit their layers (the specification says so); no call takes it.
        for q in range(1, 2 * len(model.channels) - 1, 2):
            noise = source[f'injected_noise_{q}']
            source[f'injected_noise_{q}'] = np.pad(noise, ((0, 0), (0, 0), (1, 1), (1, 1)))
        assert not any(call['mode'] == 'buffers' for call in meta['calls'])
    named = rename({k: v for k, v in source.items() if k != 'head_pos_enc._float_tensor'}, G_RULES)
    expected = jax.eval_shape(mspie.generator(model).init, jax.random.key(0), jnp.zeros((1, model.z_dim)))
    names = paths(expected['buffers'])
    variables = {
        'params': nested({k: v for k, v in named.items() if k not in names}),
        'buffers': nested({k: v for k, v in named.items() if k in names}),
    }
    for collection, tree in variables.items():
        check_filled(tree, expected[collection])
    return variables


def noise_of(arrays, prefix, layers):
    """(B, 1, H, W) of each layer."""
    return tuple(jnp.asarray(arrays[f'{prefix}noise_{i}'][:, 0]) for i in range(layers))


def generator(arrays, meta):
    model, tolerance = run_model(meta), meta['tolerance']
    variables, layers = g_variables(model, arrays, meta), mspie.generator(model).num_ws - 1
    module = mspie.generator(model)
    constant = functools.partial(
        module.bind({}).synthesis.input_at, const=variables['params']['synthesis'].get('const')
    )
    map_latents = jax.jit(functools.partial(mspie.map_latents, model))

    @functools.partial(jax.jit, static_argnames='scale')
    def synthesise(variables, ws, noise, scale):
        capture = functools.partial(module.apply, capture_intermediates=lambda m, _: isinstance(m, nn.Module))
        img, state = capture(variables, ws, scale, noise or 'const', method='synthesise')
        return img, state['intermediates']['synthesis'], constant(scale)

    for call in meta['calls']:
        mode, name, scale = call['mode'], call['name'], call.get('chosen_scale', 0)
        scale = tuple(scale) if isinstance(scale, list) else scale
        given = {k: jnp.asarray(v) for k, v in select(arrays, f'in/{name}/').items()}
        ws, got = given.get('latent'), {}
        if ws is None:
            w, other = (map_latents(variables, given.get(k, given['z'])) for k in ('z', 'z2'))
            first = jnp.arange(layers + 1) < call.get('inject_index', layers + 1)
            ws, got['mid/style_mapping'] = jnp.where(first[None, :, None], w[:, None], other[:, None]), w
        if mode == 'trunc':
            ws = truncate(ws, given['truncation_latent'][0], call['truncation'])
        noise = () if mode == 'buffers' else noise_of(arrays, f'in/{name}/', layers)
        img, inside, head = synthesise(variables, ws, noise, scale)
        got |= {'img': nchw(img), 'latent': ws, 'mid/head': nchw(head)[None]}
        for layer in ('conv1', 'to_rgb1', 'convs_0', 'convs_1'):
            got[f'mid/{layer.replace("convs_", "convs.")}'] = nchw(inside[layer]['__call__'][0])
        # The file's to_rgbs have the upsampled colours added.
        wanted = {k: v for k, v in select(arrays, f'out/{name}/').items() if k != 'mid/to_rgbs.0'}
        assert {'img'} <= wanted.keys() <= got.keys(), wanted.keys() ^ got.keys()
        for key, want in wanted.items():
            assert_close(f'{name}/{key}', got[key], want, tolerance)
        assert list(mspie.output_size(model, scale)) == call['out_hw']


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
        (r'final_linear\.0\.linear\.weight_orig', 'fc/kernel', pooled_dense if pool else flattened_dense),
        (r'final_linear\.1\.linear\.weight_orig', 'out/kernel', dense),
        (r'final_linear\.([01])\.bias', lambda i: f'{("fc", "out")[int(i)]}/bias', flat),
    ]


def pooled_dense(w):
    """(out, C * 2 * 2), flattened as C, H, W -> [2 * 2 * C, out], flattened as H, W, C."""
    return w.reshape(len(w), -1, 2, 2).transpose(2, 3, 1, 0).reshape(-1, len(w))


def discriminator(arrays, meta):
    options, side = meta['constructor'], meta['constructor']['in_size']
    widths = tuple(meta['channels'][str(4 << i)] for i in range(side.bit_length() - 2))
    pool = 2 if options.get('with_adaptive_pool') else None
    group = options.get('mbstd_cfg', {}).get('group_size', 4)
    module = mspie.Discriminator(widths, pool, group)
    named = rename(select(arrays, 'param/'), d_rules(side, pool))
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    names = paths(expected['buffers'])
    variables = {
        'params': nested({k: v for k, v in named.items() if k not in names}),
        'buffers': nested({k: v for k, v in named.items() if k in names}),
    }
    for collection, tree in variables.items():
        check_filled(tree, expected[collection])

    @jax.jit
    def run(images):
        def score(x):
            return module.apply(variables, x)

        capture = functools.partial(module.apply, capture_intermediates=lambda m, _: isinstance(m, nn.Module))
        logits, state = capture(variables, images)
        gradient = jax.grad(lambda x: jnp.sum(score(x)))(images)
        return logits, gradient, state['intermediates']

    for call in meta['calls']:
        name = call['name']
        images = nhwc(arrays[f'in/{name}/x'])
        logits, gradient, inside = run(images)
        r1 = jnp.mean(jnp.sum(jnp.square(gradient), axis=(1, 2, 3)))
        got = {'score': logits[:, None], 'grad_x': nchw(gradient), 'r1_value': r1}
        got['mid/convs.0'] = nchw(inside[f'b{side}']['fromrgb']['__call__'][0])
        got['mid/convs.1'] = nchw(inside[f'b{side}']['__call__'][0][0])
        got['mid/final_conv'] = nchw(inside['conv']['__call__'][0])
        wanted = {k: v for k, v in select(arrays, f'out/{name}/').items() if k != 'mid/mbstd_layer'}
        assert {'score', 'grad_x', 'r1_value'} <= wanted.keys() <= got.keys(), wanted.keys()
        for key, want in wanted.items():
            assert_close(f'{name}/{key}', got[key], want, meta['tolerance'])


# Losses ---------------------------------------------------------------------------------------------------------------


def train_losses(arrays, meta):
    model, tolerance = run_model(meta), meta['tolerance']
    variables = g_variables(model, arrays, meta)
    z, y = jnp.asarray(arrays['in/z']), jnp.asarray(nhwc(arrays['in/y']))
    noise = noise_of(arrays, 'in/', mspie.generator(model).num_ws - 1)
    mean = jnp.float32(arrays['in/mean_path_length'])

    def penalty(params):
        changed = variables | {'params': params}
        ws = jnp.repeat(mspie.map_latents(model, changed, z)[:, None], mspie.generator(model).num_ws, axis=1)
        value, new = mspie.path_penalty(model, changed, mean, ws, noise, y)
        synthesise = functools.partial(mspie.generator(model).apply, changed, method='synthesise')
        return value, (new, losses.path_lengths(lambda ws: synthesise(ws, 0, noise), ws, y))

    (value, (new, lengths)), gradient = jax.jit(jax.value_and_grad(penalty, has_aux=True))(variables['params'])
    logits = jnp.asarray(arrays['in/scores'])[:, 0]
    got = {
        'path_lengths': lengths,
        'penalty': value,
        'new_mean': new,
        'logistic_d_real_or_g': losses.logistic_g(logits),
    }
    got['logistic_d_fake'] = losses.logistic_d(logits, logits) - losses.logistic_g(logits)
    for key, have in got.items():
        assert_close(key, have, arrays[f'out/{key}'], tolerance)
    wanted = rename(select(arrays, 'out/penalty_grad/'), G_RULES)
    assert len(wanted) == 3
    for path, want in wanted.items():
        assert_close(path, paths(gradient)[path], want, tolerance)
    # Cross entropy with logits is the logistic loss, and the critic's loss a mean with a sign; both are DCGAN's and
    # PGGAN's.
    assert_close('vanilla_real', losses.logistic_g(logits), arrays['out/vanilla_real'], tolerance)
    assert_close('vanilla_fake', got['logistic_d_fake'], arrays['out/vanilla_fake'], tolerance)


CHECKS = {
    ('positional_encoding_gans', 'ms_g_'): generator,
    ('positional_encoding_gans', 'ms_d_'): discriminator,
    ('positional_encoding_gans', 'stylegan2_g'): generator,
    ('positional_encoding_gans', 'stylegan2_d'): discriminator,
    ('positional_encoding_gans', 'train_losses'): train_losses,
}
