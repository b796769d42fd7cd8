"""CIPS against golden numbers of the public implementation: generators, layers, discriminators, training steps."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from checkpoints import conv, dense, filled, flat, flat_nhwc, flattened_dense, nested, paths, rename, scalar
from compare import anything, assert_close, assert_outputs, fields, nchw, nhwc, outputs, select

from pegan_jax import encodings, layers, losses
from pegan_jax.config import Config, DataConfig, OptimConfig, TrainConfig
from pegan_jax.layers import truncate
from pegan_jax.models import cips, cips_generator, stylegan2
from pegan_jax.models.discriminator import Discriminator

# Parameter names ------------------------------------------------------------------------------------------

LAYER = r'(conv1|linears\.\d+(?:\.conv[12])?|to_rgbs\.\d+|to_rgb_last)'
G_RULES = [
    (r'lff\.ffm\.conv\.weight', 'lff/kernel', dense),
    (r'lff\.ffm\.conv\.bias', 'lff/bias', flat),
    (r'emb\.input', 'emb', lambda w: nhwc(w[0])),
    (r'style\.(\d+)\.weight', lambda i: f'mapping/fc{int(i) - 1}/kernel', dense),
    (r'style\.(\d+)\.bias', lambda i: f'mapping/fc{int(i) - 1}/bias', flat),
    (LAYER + r'\.conv\.weight', '{}/weight', dense),
    (LAYER + r'\.conv\.modulation\.weight', '{}/affine/kernel', dense),
    (LAYER + r'\.conv\.modulation\.bias', '{}/affine/bias', flat),
    (LAYER + r'\.noise\.weight', '{}/noise_strength', scalar),
    (LAYER + r'(?:\.activate)?\.bias', '{}/bias', flat),
    (r'(linears\.\d+)\.skip\.0\.weight', '{}/skip/kernel', dense),
]


def d_rules(size, num_first_layers):
    """Rules for a discriminator of a side; residual blocks are numbered on from the first layers."""

    def block(j):
        return f'b{size // 2 ** (int(j) - 1 - num_first_layers)}'

    return [
        (r'convs\.0\.0\.weight', f'b{size}/fromrgb/kernel', conv),
        (r'convs\.0\.1\.bias', f'b{size}/fromrgb/bias', flat),
        (r'convs\.([1-9]\d*)\.0\.weight', lambda i: f'b{size}/first{int(i) - 1}/kernel', conv),
        (r'convs\.([1-9]\d*)\.1\.bias', lambda i: f'b{size}/first{int(i) - 1}/bias', flat),
        (r'convs\.(\d+)\.conv1\.0\.weight', lambda j: f'{block(j)}/conv0/kernel', conv),
        (r'convs\.(\d+)\.conv1\.1\.bias', lambda j: f'{block(j)}/conv0/bias', flat),
        (r'convs\.(\d+)\.conv2\.0\.kernel', lambda j: f'{block(j)}/conv1/resample_filter', np.asarray),
        (r'convs\.(\d+)\.conv2\.1\.weight', lambda j: f'{block(j)}/conv1/kernel', conv),
        (r'convs\.(\d+)\.conv2\.2\.bias', lambda j: f'{block(j)}/conv1/bias', flat),
        (r'convs\.(\d+)\.skip\.0\.kernel', lambda j: f'{block(j)}/skip/resample_filter', np.asarray),
        (r'convs\.(\d+)\.skip\.1\.weight', lambda j: f'{block(j)}/skip/kernel', conv),
        (r'final_conv\.0\.weight', 'b4/conv/kernel', conv),
        (r'final_conv\.1\.bias', 'b4/conv/bias', flat),
        (r'final_linear\.0\.weight', 'b4/fc/kernel', flattened_dense),
        (r'final_linear\.0\.bias', 'b4/fc/bias', flat),
        (r'final_linear\.1\.weight', 'b4/out/kernel', dense),
        (r'final_linear\.1\.bias', 'b4/out/bias', flat),
    ]


def table_of(table, keys):
    """Widths at `keys` of a channel table; None without one, as then the published one holds."""
    return None if table is None else tuple(table[str(key)] for key in keys)


# Generators -----------------------------------------------------------------------------------------------

WIRINGS = {'CIPSskip': {'wiring': 'skip'}, 'CIPSres': {'wiring': 'residual'}}
MAPPING = {'style_dim': 'z_dim', 'n_mlp': 'mapping_layers', 'lr_mlp': 'lr_multiplier'}
G_OPTIONS = MAPPING | {
    'size': 'img_resolution',
    'hidden_size': 'hidden_size',
    'channel_multiplier': 'channel_multiplier',
    'activation': lambda value: {'activation': value or 'lrelu'},
}


def model_of(meta, **more):
    """The model of a file's generator."""
    size = meta['kwargs']['size']
    levels = range(size.bit_length() - 2)
    channels = {'channels': table_of(meta.get('patched_channel_table'), levels)}
    wiring = fields({'cls': meta['cls']}, {'cls': WIRINGS.get})
    return cips.Config(
        **{'d_channels': (8,) * len(levels)} | channels | wiring | fields(meta['kwargs'], G_OPTIONS) | more
    )


def generator_of(model, arrays, prefix='param/'):
    module = cips.Generator(model)
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, model.z_dim)))
    return module, filled(arrays, G_RULES, expected, prefix)['params']


def per_image(grid, n):
    """Coordinates [n, H, W, 2] for n images of those of a file, (1 or n, 2, H, W)."""
    grid = nhwc(grid)
    return np.broadcast_to(grid, (n, *grid.shape[1:]))


def noise_of(arrays, prefix):
    """Per-layer noise (B, 1, H, W), in the order of execution -> [B, H, W, layers]."""
    found = select(arrays, f'{prefix}/')
    return np.stack([found[str(i)][:, 0] for i in range(len(found))], axis=-1)


def painter(model, module, params):
    """(ws [N, z_dim], grids [N, H, W, 2], noise or None, lookup) -> images NCHW, of points that share one program."""

    @functools.partial(jax.jit, static_argnums=3)
    def run(w, grids, noise, lookup):
        styles = module.apply({'params': params}, w, method='modulate')
        image = functools.partial(cips_generator.synthesise, model, lookup=lookup)
        return jax.vmap(image, (None, 0, 0, 0))(params, styles, grids, noise)

    return lambda w, grids, noise=None, lookup='bilinear': nchw(run(w, grids, noise, lookup))


def all_at_once(paint, w, grids, noises=None):
    """Images of {name: grids}, as one list of points, which compiles once."""
    n = len(w)
    points = np.concatenate([g.reshape(n, -1, 1, 2) for g in grids.values()], axis=1)
    noise = noises and np.concatenate([noises[k].reshape(n, -1, 1, noises[k].shape[-1]) for k in grids], axis=1)
    rgb, got = paint(w, points, noise), {}
    for name, grid in grids.items():
        height, width = grid.shape[1:3]
        got[name], rgb = rgb[:, :, : height * width].reshape(n, -1, height, width), rgb[:, :, height * width :]
    return got


def gen(arrays, meta):
    """Every grid with and without noise, truncation of w and z, two latents, and the embedding as training reads it."""
    model = model_of(meta)
    module, params = generator_of(model, arrays)
    paint, z = painter(model, module, params), arrays['in/z']
    map_z = jax.jit(functools.partial(module.apply, {'params': params}, method='map'))
    w, wanted = map_z(z), outputs(arrays)
    native = np.asarray(cips.image_grid(model, model.size))
    # Files of 16 pixels leave this window out, whose place those of 8 show.
    side = model.img_resolution
    window = np.asarray(cips.image_grid(model, (2 * side,) * 2))[side // 2 : side // 2 + side, 3 : side + 3]
    grids = {name: nchw(grid)[None] for name, grid in (('native', native), ('finecrop', window))}
    grids = {name: per_image(grid, len(z)) for name, grid in (grids | select(arrays, 'in/coords_')).items()}
    native, got = np.broadcast_to(native[None], (len(z), *native.shape)), {'w': w}
    for kind in ('rgb', 'rgb0'):
        chosen = {name: grid for name, grid in grids.items() if f'{kind}_{name}' in wanted}
        if chosen:
            noises = {name: noise_of(arrays, f'in/noise_{name}') for name in chosen} if kind == 'rgb' else None
            got |= {f'{kind}_{name}': image for name, image in all_at_once(paint, w, chosen, noises).items()}

    # With z as input the released program truncates z itself, and it ignores a second latent.
    for name in wanted:
        found = re.fullmatch(r'trunc_(w|z)_([\d.]+)(_latent)?', name)
        if found:
            space, psi = found[1], min(float(found[2]), 1.0)  # there, more than 1 is 1
            w_avg = arrays['in/truncation_latent'].reshape(-1)
            used = truncate(w, w_avg, psi) if space == 'w' else map_z(truncate(z, w_avg, psi))
            got[name] = used if found[3] else paint(used, native)
    if 'two_latents' in wanted:
        got['two_latents'] = paint(w, native)

    for name in sorted(select(arrays, 'out/train_')):
        raw = grids[name].shape[1:3] == model.size
        got[f'train_{name}'] = paint(w, grids[name], None, 'raw' if raw else 'bilinear')
    if 'train_native' in wanted:
        image = jax.jit(functools.partial(cips.generate, model))(params, z, None)
        assert_close('generate', nchw(image), arrays['out/train_native'], meta['tolerance'])
    assert_outputs(arrays, got, meta['tolerance'])


def pe_zeroing(arrays, meta):
    model = model_of(meta)
    module, params = generator_of(model, arrays)
    z = arrays['in/z']
    grids = per_image(arrays['in/coords'], len(z))
    fourier = encodings.fourier_features(grids, params['lff']['kernel'], params['lff']['bias'])
    embedding = jax.vmap(encodings.embedding, (None, 0))(params['emb'], grids)
    got = {'fourier': fourier, 'embedding': embedding, 'encoding': np.concatenate([fourier, embedding], axis=-1)}
    got = {name: nchw(value) for name, value in got.items()}
    variants = {
        'rgb': params,
        'rgb_fourier_zeroed': params | {'lff': jax.tree.map(jnp.zeros_like, params['lff'])},
        'rgb_embedding_zeroed': params | {'emb': jnp.zeros_like(params['emb'])},
    }

    @jax.jit
    def run(params):
        w = module.apply({'params': params}, z, method='map')
        styles = module.apply({'params': params}, w, method='modulate')
        return jax.vmap(functools.partial(cips_generator.synthesise, model), (None, 0, 0))(params, styles, grids)

    got |= {name: nchw(run(changed)) for name, changed in variants.items()}
    assert_outputs(arrays, got, meta['tolerance'])


# Layers on their own --------------------------------------------------------------------------------------


def layers_1x1(arrays, meta):
    """Every layer of `pixel` at all positions of all images."""
    fields(meta['kwargs'], {k: anything for k in ('in_channel', 'out_channel', 'style_dim')} | {'kernel_size': (1,)})
    given = flat_nhwc(select(arrays, 'in/'))
    x, w, noise, base, got = given['x'], given['w'], given['noise'][..., 0], cips.Config(), {}

    def params_of(name):
        """Named as a generator's first layer, or its first residual block, would be."""
        prefix = 'linears.1.' if name.startswith('resblock') else 'conv1.'
        bare = name.startswith('modfc')
        named = {prefix + ('conv.' if bare else '') + k: v for k, v in select(arrays, f'param/{name}.').items()}
        (params,) = nested(rename(named, G_RULES)).values()
        return params

    def style_of(params, *, demodulate=True, method='__call__'):
        """U [N, in, out], or its factors; what the layer has besides is not needed for it."""
        module = cips_generator.ModulatedDense(*params['weight'].shape, demodulate=demodulate)
        return module.apply({'params': {'bias': None, 'noise_strength': None} | params}, w, method=method)

    def everywhere(function, *args):
        """Maps a function of a style and of what is at one position over positions, and over images."""
        one = jax.vmap(jax.vmap(function, (None, *(0,) * len(args))), (None, *(0,) * len(args)))
        return lambda style: jax.vmap(one)(style, *args)

    def modulated(name):
        params, demodulate = params_of(name), name == 'modfc'
        layer = {'bias': jnp.zeros(params['weight'].shape[1])} | params
        at = functools.partial(cips_generator.dense, base, layer)
        result = everywhere(at, x)(style_of(params, demodulate=demodulate))
        factors = style_of(params, demodulate=demodulate, method='factor')
        assert_close(f'{name}, factored', everywhere(at, x)(factors), result, meta['tolerance'])
        return result

    def styled(name, noise):
        model, params = cips.Config(activation=name.removeprefix('styled_')), params_of(name)
        at = functools.partial(cips_generator.styled, model, params)
        return everywhere(at, x, *noise)(style_of(params))

    def block(name, noise):
        block = params_of(name)
        styles = [style_of(block[conv]) for conv in ('conv1', 'conv2')]

        def at(styles, x, n):
            y = cips_generator.styled(base, block['conv1'], styles[0], x, n)
            y = cips_generator.styled(base, block['conv2'], styles[1], y, -n)
            return cips_generator.add_shortcut(base, block, x, y)

        return everywhere(at, x, *(noise or (np.zeros(x.shape[:-1], np.float32),)))(styles)

    def equalised(name):
        multiplier, act = {'fc_lrelu': (0.01, layers.lrelu), 'fc_plain': (1.0, lambda y: y)}[name]
        params = {'kernel': dense(arrays[f'param/{name}.weight']), 'bias': arrays[f'param/{name}.bias']}
        return act(layers.EqualDense(len(params['bias']), multiplier).apply({'params': params}, w))

    for name in outputs(arrays):
        layer = name.removesuffix('_zero_noise')
        given_noise = () if layer != name else (noise,)
        if name in ('modfc', 'modfc_nodemod', 'to_rgb'):
            got[name] = modulated(name)
        elif name == 'to_rgb_skip':
            got[name] = modulated('to_rgb') + given['skip']
        elif name.startswith('styled_'):
            got[name] = styled(layer, given_noise)
        elif name.startswith('resblock_'):
            got[name] = block(layer, given_noise)
        elif name in ('fc_lrelu', 'fc_plain'):
            got[name] = equalised(name)
        elif name == 'pixelnorm':
            got[name] = layers.normalize_2nd_moment(w)
        elif name.endswith('_activation'):
            got[name] = cips_generator.activate(given['pre'], name.removesuffix('_activation'))
    got = {name: nchw(value) if value.ndim == 4 else value for name, value in got.items()}
    assert_outputs(arrays, got, meta['tolerance'])


# The StyleGAN2 baseline -----------------------------------------------------------------------------------

SG2_NAMES = [
    (r'conv1', lambda: 'b4.conv1'),
    (r'convs\.(\d+)', lambda i: f'b{8 * 2 ** (int(i) // 2)}.conv{int(i) % 2}'),
    (r'to_rgb1', lambda: 'b4.torgb'),
    (r'to_rgbs\.(\d+)', lambda i: f'b{8 * 2 ** int(i)}.torgb'),
]


def sg2_rules():
    rules = [rule for rule in G_RULES if rule[0].startswith('style')]
    rules += [
        (r'input\.input', 'synthesis/b4/const', lambda v: nhwc(v[0])),
        (r'noises\.noise_0', 'synthesis/b4/conv1/noise_const', lambda v: v[0, 0]),
        (
            r'noises\.noise_([1-9]\d*)',
            lambda i: f'synthesis/b{8 * 2 ** ((int(i) - 1) // 2)}/conv{(int(i) - 1) % 2}/noise_const',
            lambda v: v[0, 0],
        ),
    ]
    for rule, name in SG2_NAMES:

        def path(*groups, leaf, name=name):
            layer = name(*groups).replace('.', '/')
            # The filter of a to-RGB layer is its block's.
            return f'synthesis/{layer.removesuffix("/torgb") if leaf == "resample_filter" else layer}/{leaf}'

        rules += [
            (rule + suffix, functools.partial(path, leaf=leaf), change)
            for suffix, leaf, change in (
                (r'\.conv\.weight', 'weight', lambda v: conv(v[0])),
                (r'\.conv\.modulation\.weight', 'affine/kernel', dense),
                (r'\.conv\.modulation\.bias', 'affine/bias', flat),
                (r'\.(?:conv\.blur|upsample)\.kernel', 'resample_filter', lambda v: v / 4),
                (r'\.noise\.weight', 'noise_strength', scalar),
                (r'(?:\.activate)?\.bias', 'bias', flat),
            )
        ]
    return rules


def published_width(side, multiplier):
    """Width of StyleGAN2's maps of a side, in this program."""
    return min(512, 16384 * multiplier // side)


def widths_of(meta, table, sides):
    multiplier = meta.get('channel_multiplier', 2)
    return table_of(table, sides) or tuple(published_width(side, multiplier) for side in sides)


def gen_original(arrays, meta):
    options = dict(meta['kwargs'])
    size, multiplier = options.pop('size'), {'channel_multiplier': options.pop('channel_multiplier', 2)}
    sides = [4 << i for i in range(size.bit_length() - 2)]
    # Filters are read as arrays. The mean of w is not in this program's checkpoints.
    rules = MAPPING | {'style_dim': 'w_dim', 'blur_kernel': anything}
    module = stylegan2.Generator(
        widths_of(multiplier, meta.get('patched_channel_table'), sides), w_avg_beta=None, **fields(options, rules)
    )
    z, other = arrays['in/z'], arrays.get('in/z2')
    variables = filled(arrays, sg2_rules(), jax.eval_shape(module.init, jax.random.key(0), z))
    synthesise = jax.jit(functools.partial(module.apply, method='synthesise'))
    map_z = functools.partial(module.apply, variables, method='map')
    ws = map_z(z)
    got = {'latents': ws, 'rgb': nchw(synthesise(variables, ws))}
    for name in outputs(arrays):
        if (found := re.fullmatch(r'rgb_trunc([\d.]+)', name)) is not None:
            used = truncate(ws, arrays['in/truncation_latent'].reshape(-1), float(found[1]))
        elif (found := re.fullmatch(r'rgb_mix(\d+)', name)) is not None:
            used = jnp.concatenate([ws[:, : int(found[1])], map_z(other)[:, int(found[1]) :]], axis=1)
        else:
            continue
        got[name] = nchw(synthesise(variables, used))
    assert_outputs(arrays, got, meta['tolerance'])


# Discriminator --------------------------------------------------------------------------------------------


def d_options(options):
    """(side, channels of the input, first layers, multiplier) of a discriminator."""
    rules = {name: name for name in ('size', 'input_size', 'n_first_layers', 'channel_multiplier')}
    found = fields(options, rules | {'blur_kernel': anything})  # filters are read as arrays
    defaults = {'input_size': 3, 'n_first_layers': 0, 'channel_multiplier': 2}
    return SimpleNamespace(**defaults | found)


def halved(side):
    """side, side / 2, ..., 4."""
    return [side >> i for i in range(side.bit_length() - 2)]


def disc(arrays, meta):
    """Scores, losses and their gradients, and the R1 step, with a weight of 10 every 16 steps if the file has none."""
    options = d_options(meta['kwargs'])
    rules = d_rules(options.size, options.n_first_layers)
    table = meta.get('patched_channel_table')
    widths = widths_of({'channel_multiplier': options.channel_multiplier}, table, halved(options.size))
    module = Discriminator(widths, num_first_layers=options.n_first_layers)
    given = {name: nhwc(value) for name, value in select(arrays, 'in/').items()}
    images = next(iter(given.values()))
    variables = filled(arrays, rules, jax.eval_shape(module.init, jax.random.key(0), images))
    weight, interval = meta.get('r1_weight', 10), meta.get('d_reg_every', 16)

    def score(params, images):
        return module.apply({'params': params, 'buffers': variables['buffers']}, images)

    @jax.jit
    def everything(params):
        scores = {name: score(params, images) for name, images in given.items()}
        got = {f'score_{name}': value[:, None] for name, value in scores.items()}
        grads = {}
        if {'real', 'fake'} <= given.keys():

            def d_loss(params):
                return losses.logistic_d(*(score(params, given[name]) for name in ('real', 'fake')))

            got['d_loss'], grads['grad_d_loss'] = jax.value_and_grad(d_loss)(params)
        if 'fake' in given:
            got['g_loss'] = losses.logistic_g(scores['fake'])
        if 'real' in given:

            def r1_step(params):
                r1 = losses.r1_penalty(functools.partial(score, params), given['real'])
                return weight / 2 * r1 * interval, r1

            (_, got['r1']), grads['grad_r1_step'] = jax.value_and_grad(r1_step, has_aux=True)(params)
            got['grad_score_input'] = jnp.moveaxis(jax.grad(lambda x: jnp.sum(score(params, x)))(given['real']), 3, 1)
        return got, grads

    got, grads = everything(variables['params'])
    golden = {name: value for name, value in arrays.items() if not re.match('out/grad_(d_loss|r1_step)/', name)}
    for kind, tree in grads.items():
        golden |= {f'out/{kind}/{k}': v for k, v in rename(select(arrays, f'out/{kind}/'), rules).items()}
        got |= {f'{kind}/{path}': grad for path, grad in paths(tree).items()}
    assert_outputs(golden, got, meta['tolerance'])


# Training -------------------------------------------------------------------------------------------------


def run_of(meta):
    """The run of a file, and the rules of its discriminator's names."""
    hyper, d = dict(meta['hyper']), d_options(meta['disc_kwargs'])
    lr, batch = hyper.pop('lr'), hyper.pop('batch')
    rules = {
        'r1': lambda value: {'r1_gamma': float(value)},
        'd_reg_every': 'r1_interval',
        'g_reg_every': 'g_reg_interval',
        'ema_decay': 'ema_decay',
        'img2dis': lambda value: {'d_sees_coords': not value},
        'adam_eps': (1e-8,),
    }
    # What follows from those, and is compared with what this library makes of them.
    known = ('iterations', 'lr_g', 'lr_d', 'betas_g', 'betas_d')
    model = model_of(
        meta,
        d_channels=widths_of(meta, meta.get('disc_patched_channel_table'), halved(d.size)),
        **fields(hyper, rules | dict.fromkeys(known, anything)),
    )
    config = Config(
        system='cips',
        model=model,
        data=DataConfig(resolution=model.img_resolution),
        optim=OptimConfig(g_lr=lr, d_lr=lr),
        train=TrainConfig(batch_size=batch),
    )
    assert d.input_size == (5 if model.d_sees_coords else 3), f'option input_size={d.input_size} with img2dis'
    assert d.n_first_layers == 0, f'option n_first_layers={d.n_first_layers}: no run of this library has such layers'
    return config, d_rules(d.size, 0)


def train_steps(arrays, meta):
    config, rules = run_of(meta)
    tolerance, model, gan = meta['tolerance'], config.model, cips.build(config)
    rules = {'g.': G_RULES, 'd.': rules, 'g_ema.': G_RULES}
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    expected = {'g': {'params': params['g']}, 'd': {'params': params['d'], 'buffers': buffers['d']}}
    before = {net: filled(arrays, r, expected[net[0]], f'param/{net}') for net, r in rules.items()}
    state = SimpleNamespace(
        params={'g': before['g.']['params'], 'd': before['d.']['params']},
        buffers=before['d.']['buffers'],
        ema=before['g_ema.']['params'],
    )
    state.opt = {net: gan.optimizers[net].init(state.params[net]) for net in ('g', 'd')}
    intervals = [(u.net, u.interval) for u in gan.updates]
    assert intervals == [('d', 1), ('d', model.r1_interval), ('g', 1)]

    @functools.partial(jax.jit, static_argnums=0)
    def update(net, opt, params, grads):
        deltas, opt = gan.optimizers[net].update(grads, opt, params)
        return opt, optax.apply_updates(params, deltas)

    def apply(net, grads):
        state.opt[net], state.params[net] = update(net, state.opt[net], state.params[net], grads)

    d_main, d_r1, g_main = (
        jax.jit(jax.value_and_grad(functools.partial(f, model), has_aux=True))
        for f in (cips.d_main, cips.d_r1, cips.g_main)
    )
    got, golden = {}, {k: v for k, v in arrays.items() if not re.match(r'out/(\d+/grad_g|after)', k)}
    for i in range(meta['hyper']['iterations']):
        real = nhwc(arrays[f'in/{i}/real'])
        noise = {net: noise_of(arrays, f'in/{i}/noise_{net}') for net in 'dg'}
        z = {net: arrays[f'in/{i}/z_{net}'] for net in 'dg'}
        (got[f'{i}/d_loss'], _), grads = d_main(
            state.params['d'], state.buffers, state.params['g'], real, z['d'], noise['d']
        )
        apply('d', grads)
        if i % model.r1_interval == 0:
            (_, metrics), grads = d_r1(state.params['d'], state.buffers, real)
            got[f'{i}/r1'] = metrics['loss/r1']
            apply('d', jax.tree.map(lambda g: model.r1_interval * g, grads))
        (got[f'{i}/g_loss'], _), grads = g_main(state.params['g'], state.params['d'], state.buffers, z['g'], noise['g'])
        got |= {f'{i}/grad_g/{path}': grad for path, grad in paths(grads).items()}
        wanted = rename(select(arrays, f'out/{i}/grad_g/'), G_RULES)
        golden |= {f'out/{i}/grad_g/{path}': want for path, want in wanted.items()}
        apply('g', grads)
        state.ema = optax.incremental_update(state.params['g'], state.ema, 1 - gan.ema(0, i))

    after = {'g.': state.params['g'], 'd.': state.params['d'] | {}, 'g_ema.': state.ema}
    for net, tree in after.items():
        wanted = rename(select(arrays, f'out/after/{net}'), rules[net])
        golden |= {f'out/after/{net}{path}': want for path, want in wanted.items()}
        now = paths(tree) | (paths(state.buffers) if net == 'd.' else {})
        got |= {f'after/{net}{path}': value for path, value in now.items()}
        errors = [np.abs(np.asarray(now[k]) - want).reshape(-1) for k, want in wanted.items() if k in now]
        if errors:
            median = np.median(np.concatenate(errors))
            assert median <= tolerance['params_median_atol'], (net, median)

    def rules_of(name):
        if name.startswith('after/'):
            return {'atol': tolerance['params_atol']}
        return {'rel_to_max': tolerance['grad_rtol']} if '/grad_g/' in name else {'rtol': tolerance['losses_rtol']}

    assert_outputs(golden, got, rules_of)


CHECKS = {
    ('cips', 'gen_skip'): gen,
    ('cips', 'gen_res'): gen,
    ('cips', 'gen_original'): gen_original,
    ('cips', 'layers_1x1'): layers_1x1,
    ('cips', 'disc'): disc,
    ('cips', 'train_steps'): train_steps,
    ('cips', 'pe_zeroing'): pe_zeroing,
}
