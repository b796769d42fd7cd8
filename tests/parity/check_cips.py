"""CIPS against golden numbers of the public implementation: generators, layers, discriminators, training steps."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compare import assert_close, nhwc

from pegan_jax import encodings, layers, losses
from pegan_jax.config import Config, DataConfig, TrainConfig
from pegan_jax.gan import images_of
from pegan_jax.layers import truncate
from pegan_jax.models import cips, cips_generator, stylegan2
from pegan_jax.models.discriminator import Discriminator

# Parameter names ------------------------------------------------------------------------------------------


def flat(w):
    return w.reshape(-1)


def scalar(w):
    return w.reshape(())


def dense(w):
    """(out, in), with any axes of length 1 around them -> [in, out]."""
    w = w[0] if w.ndim == 5 else w
    return w.reshape(w.shape[:2]).T


def conv(w):
    """(out, in, k, k) -> [k, k, in, out]."""
    return w.transpose(2, 3, 1, 0)


def flattened_dense(w):
    """(out, C * 4 * 4), flattened as C, H, W -> [4 * 4 * C, out], flattened as H, W, C."""
    return w.reshape(len(w), -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, len(w))


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
        (r'convs\.([1-9])\.0\.weight', lambda i: f'b{size}/first{int(i) - 1}/kernel', conv),
        (r'convs\.([1-9])\.1\.bias', lambda i: f'b{size}/first{int(i) - 1}/bias', flat),
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


def select(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def rename(named, rules):
    """{official name: array} -> {our path: array}."""
    out = {}
    for name, array in named.items():
        found = [(m, path, change) for rule, path, change in rules if (m := re.fullmatch(rule, name))]
        assert len(found) == 1, f'{len(found)} rules match {name}'
        match, path, change = found[0]
        groups = [re.sub(r'\.(\d)', r'_\1', g).replace('.', '/') for g in match.groups()]
        path = path(*groups) if callable(path) else path.format(*groups)
        assert path not in out, f'{path} is filled twice, the second time by {name}'
        out[path] = change(array)
    return out


def nested(flat_tree):
    """Nested dictionaries of {'a/b': array}."""
    tree = {}
    for path, array in flat_tree.items():
        *parents, leaf = path.split('/')
        node = functools.reduce(lambda t, p: t.setdefault(p, {}), parents, tree)
        node[leaf] = jnp.asarray(array)
    return tree


def nest(flat_tree, *, buffers=False):
    """Nested dictionaries of the entries that are (not) buffers."""
    names = ('resample_filter', 'noise_const')
    return nested({path: array for path, array in flat_tree.items() if path.endswith(names) == buffers})


def paths(tree):
    """{path: leaf} of nested dictionaries."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {'/'.join(p.key for p in path): leaf for path, leaf in leaves}


def check_filled(tree, expected):
    """The converted tree has exactly the paths and shapes that the module would create."""
    got, want = ({k: v.shape for k, v in paths(t).items()} for t in (tree, expected))
    assert got == want, {k: (got.get(k), want.get(k)) for k in got.keys() | want.keys() if got.get(k) != want.get(k)}


# Generators -----------------------------------------------------------------------------------------------


def run_config(meta, **model):
    kwargs, table = meta['kwargs'], meta['patched_channel_table']
    size = kwargs['size']
    model = cips.Config(
        img_resolution=size,
        hidden_size=kwargs['hidden_size'],
        z_dim=kwargs['style_dim'],
        mapping_layers=kwargs['n_mlp'],
        lr_multiplier=kwargs['lr_mlp'],
        channels=tuple(table[str(k)] for k in range(size.bit_length() - 2)),
        wiring={'CIPSskip': 'skip', 'CIPSres': 'residual'}[meta['cls']],
        activation=kwargs['activation'] or 'lrelu',
        **({'d_channels': (8,) * (size.bit_length() - 2)} | model),
    )
    return Config(system='cips', model=model, data=DataConfig(resolution=size), train=TrainConfig(batch_size=4))


def generator_case(arrays, meta):
    config = run_config(meta)
    params = nest(rename(select(arrays, 'param/'), G_RULES))
    gan = cips.build(config)
    check_filled(params, jax.eval_shape(gan.init, jax.random.key(0))[0]['g'])
    return config.model, params, jax.jit(functools.partial(images_of, gan))


def noise_of(arrays, prefix, layers):
    """Per-layer noise (B, 1, H, W) -> [B, H, W, layers]."""
    return np.stack([arrays[f'{prefix}/{i}'][:, 0] for i in range(layers)], axis=-1)


def gen(arrays, meta):
    tolerance = meta['tolerance']
    model, params, sample = generator_case(arrays, meta)
    variables, z = {'params': params}, arrays['in/z']
    module = cips.Generator(model)
    w = module.apply(variables, z, method='map')
    assert_close('w', w, arrays['out/w'], tolerance)

    # All grids as one list of coordinates, which compiles once.
    names = sorted(k.removeprefix('out/rgb0_') for k in arrays if k.startswith('out/rgb0_'))
    grids = {name: nhwc(arrays[f'in/coords_{name}'])[0] for name in names}
    points = np.concatenate([g.reshape(-1, 2) for g in grids.values()])
    layers = len(meta['noise_order'])
    noise = [noise_of(arrays, f'in/noise_{name}', layers).reshape(len(z), -1, layers) for name in names]
    outputs = {
        'rgb': sample(variables, z, grid=points, noise=np.concatenate(noise, axis=1)),
        'rgb0': sample(variables, z, grid=points),
    }
    for kind, rgb in outputs.items():
        start = 0
        for name, grid in grids.items():
            height, width, _ = grid.shape
            got = rgb[:, start : start + height * width].reshape(-1, height, width, 3)
            start += height * width
            assert_close(f'{kind}_{name}', got, nhwc(arrays[f'out/{kind}_{name}']), tolerance)

    if 'in/coords_finecrop' not in arrays:
        return
    w_avg = arrays['in/truncation_latent']
    for psi in (1.0, 0.6, 0.0):
        got = truncate(w, w_avg, psi)
        assert_close(f'trunc_w_{psi}_latent', got, arrays[f'out/trunc_w_{psi}_latent'], tolerance)
        got = jax.jit(functools.partial(cips.images, model))(variables, got)
        assert_close(f'trunc_w_{psi}', got, nhwc(arrays[f'out/trunc_w_{psi}']), tolerance)
    # With z as input the released program truncates z itself, and it ignores a second latent.
    truncated_z = truncate(z, w_avg, 0.6)
    got = sample(variables, truncated_z)
    assert_close('trunc_z_0.6', got, nhwc(arrays['out/trunc_z_0.6']), tolerance)
    assert_close(
        'trunc_z_0.6_latent',
        module.apply(variables, truncated_z, method='map'),
        arrays['out/trunc_z_0.6_latent'],
        tolerance,
    )
    assert_close('two_latents', sample(variables, z), nhwc(arrays['out/two_latents']), tolerance)

    styles = module.apply(variables, w, method='modulate')
    for name, lookup in (('native', 'raw'), ('finecrop', 'raw'), ('crop', 'bilinear')):
        image = functools.partial(cips_generator.synthesise, model, lookup=lookup)
        got = jax.jit(jax.vmap(image, (None, 0, None)))(params, styles, grids[name])
        assert_close(f'train_{name}', got, nhwc(arrays[f'out/train_{name}']), tolerance)
    assert_close(
        'generate',
        jax.jit(functools.partial(cips.generate, model))(params, z, None),
        nhwc(arrays['out/train_native']),
        tolerance,
    )


def pe_zeroing(arrays, meta):
    tolerance = meta['tolerance']
    _, params, sample = generator_case(arrays, meta)
    grid = nhwc(arrays['in/coords'])[0]
    fourier = encodings.fourier_features(grid, params['lff']['kernel'], params['lff']['bias'])
    embedding = encodings.embedding(params['emb'], grid)
    for i in range(len(arrays['in/z'])):
        assert_close('fourier', fourier, nhwc(arrays['out/fourier'])[i], tolerance)
        assert_close('embedding', embedding, nhwc(arrays['out/embedding'])[i], tolerance)
        both = np.concatenate([fourier, embedding], axis=-1)
        assert_close('encoding', both, nhwc(arrays['out/encoding'])[i], tolerance)
    variants = {
        'rgb': params,
        'rgb_fourier_zeroed': params | {'lff': jax.tree.map(jnp.zeros_like, params['lff'])},
        'rgb_embedding_zeroed': params | {'emb': jnp.zeros_like(params['emb'])},
    }
    for name, changed in variants.items():
        got = sample({'params': changed}, arrays['in/z'], grid=grid)
        assert_close(name, got, nhwc(arrays[f'out/{name}']), tolerance)


# Layers on their own --------------------------------------------------------------------------------------


def layers_1x1(arrays, meta):
    """Every layer of `pixel` at the 4 x 5 positions of three images."""
    tolerance = meta['tolerance']
    x, w, noise = nhwc(arrays['in/x']), arrays['in/w'], arrays['in/noise'][:, 0]
    got = {}

    def params_of(name):
        """Named as a generator's first layer, or its first residual block, would be."""
        prefix = 'linears.1.' if name.startswith('resblock') else 'conv1.'
        bare = name.startswith('modfc')
        named = {prefix + ('conv.' if bare else '') + k: v for k, v in select(arrays, f'param/{name}.').items()}
        (params,) = nest(rename(named, G_RULES)).values()
        return params

    def style_of(params, *, demodulate=True, method='__call__'):
        """U [3, in, out], or its factors; what the layer has besides is not needed for it."""
        module = cips_generator.ModulatedDense(*params['weight'].shape, demodulate=demodulate)
        return module.apply({'params': {'bias': None, 'noise_strength': None} | params}, w, method=method)

    def everywhere(function, *args):
        """Maps a function of a style and of what is at one position over positions, and over images."""
        one = jax.vmap(jax.vmap(function, (None, *(0,) * len(args))), (None, *(0,) * len(args)))
        return lambda style: jax.vmap(one)(style, *args)

    base = cips.Config()
    for name, demodulate in (('modfc', True), ('modfc_nodemod', False), ('to_rgb', False)):
        params = params_of(name)
        layer = {'bias': jnp.zeros(8)} | params
        at = functools.partial(cips_generator.dense, base, layer)
        got[name] = everywhere(at, x)(style_of(params, demodulate=demodulate))
        factors = style_of(params, demodulate=demodulate, method='factor')
        assert_close(f'{name}, factored', everywhere(at, x)(factors), got[name], tolerance)
    got['to_rgb_skip'] = got['to_rgb'] + nhwc(arrays['in/skip'])

    for activation in ('lrelu', 'sin', 'sinrelu'):
        name, model = f'styled_{activation}', cips.Config(activation=activation)
        params = params_of(name)
        at, style = functools.partial(cips_generator.styled, model, params), style_of(params)
        got[name] = everywhere(at, x, noise)(style)
        got[f'{name}_zero_noise'] = everywhere(at, x)(style)

    for name in ('resblock_same', 'resblock_diff'):
        block = params_of(name)
        styles = [style_of(block[conv]) for conv in ('conv1', 'conv2')]

        def at(styles, x, n, block=block):
            y = cips_generator.styled(base, block['conv1'], styles[0], x, n)
            return cips_generator.add_shortcut(
                base, block, x, cips_generator.styled(base, block['conv2'], styles[1], y, -n)
            )

        got[name] = everywhere(at, x, noise)(styles)
        got[f'{name}_zero_noise'] = everywhere(at, x, 0 * noise)(styles)

    got['pixelnorm'] = layers.normalize_2nd_moment(w)
    for name, multiplier, activation in (('fc_lrelu', 0.01, layers.lrelu), ('fc_plain', 1.0, lambda y: y)):
        params = {'kernel': dense(arrays[f'param/{name}.weight']), 'bias': arrays[f'param/{name}.bias']}
        got[name] = activation(layers.EqualDense(8, multiplier).apply({'params': params}, w))
    got['sinrelu_activation'] = cips_generator.activate(nhwc(arrays['in/pre']), 'sinrelu')
    wanted = {k: nhwc(v) if v.ndim == 4 else v for k, v in select(arrays, 'out/').items()}
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        assert_close(name, got[name], want, tolerance)


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


def gen_original(arrays, meta):
    tolerance, kwargs, table = meta['tolerance'], meta['kwargs'], meta['patched_channel_table']
    widths = tuple(table[str(2**k)] for k in range(2, kwargs['size'].bit_length()))
    # The mean of w is not in this program's checkpoints.
    options = {'mapping_layers': kwargs['n_mlp'], 'lr_multiplier': kwargs['lr_mlp'], 'w_avg_beta': None}
    module = stylegan2.Generator(widths, w_dim=kwargs['style_dim'], **options)
    named = rename(select(arrays, 'param/'), sg2_rules())
    variables = {'params': nest(named), 'buffers': nest(named, buffers=True)}
    z, other = arrays['in/z'], arrays['in/z2']
    expected = jax.eval_shape(module.init, jax.random.key(0), z)
    for collection, tree in variables.items():
        check_filled(tree, expected[collection])

    synthesise = jax.jit(functools.partial(module.apply, method='synthesise'))
    ws, other = (module.apply(variables, v, method='map') for v in (z, other))
    got = {'latents': ws, 'rgb': synthesise(variables, ws)}
    got['rgb_trunc0.5'] = synthesise(variables, truncate(ws, arrays['in/truncation_latent'][0], 0.5))
    got['rgb_mix2'] = synthesise(variables, jnp.concatenate([ws[:, :2], other[:, 2:]], axis=1))
    wanted = {k: nhwc(v) if v.ndim == 4 else v for k, v in select(arrays, 'out/').items()}
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        assert_close(name, got[name], want, tolerance)


# Discriminator --------------------------------------------------------------------------------------------


def disc(arrays, meta):
    tolerance, size = meta['tolerance'], meta['kwargs']['size']
    first = meta['kwargs']['n_first_layers']
    table = meta['patched_channel_table']
    widths = tuple(table[str(size >> i)] for i in range(size.bit_length() - 2))
    rules = d_rules(size, first)
    named = rename(select(arrays, 'param/'), rules)
    params, buffers = nest(named), nest(named, buffers=True)
    module = Discriminator(widths, num_first_layers=first)
    real, fake = nhwc(arrays['in/real']), nhwc(arrays['in/fake'])
    expected = jax.eval_shape(module.init, jax.random.key(0), real)
    check_filled(params, expected['params'])
    check_filled(buffers, expected['buffers'])

    def score(params, images):
        return module.apply({'params': params, 'buffers': buffers}, images)

    def d_loss(params):
        scores = score(params, real), score(params, fake)
        return losses.logistic_d(*scores), (*scores, losses.logistic_g(scores[1]))

    def r1_step(params):
        r1 = losses.r1_penalty(functools.partial(score, params), real)
        return 10 / 2 * r1 * 16, r1

    @jax.jit
    def everything(params):
        (loss, (score_real, score_fake, g_loss)), grad_d_loss = jax.value_and_grad(d_loss, has_aux=True)(params)
        (_, r1), grad_r1_step = jax.value_and_grad(r1_step, has_aux=True)(params)
        scalars = {'score_real': score_real, 'score_fake': score_fake, 'd_loss': loss, 'g_loss': g_loss, 'r1': r1}
        scalars['grad_score_input'] = jax.grad(lambda x: jnp.sum(score(params, x)))(real)
        return scalars, {'grad_d_loss': grad_d_loss, 'grad_r1_step': grad_r1_step}

    values, grads = everything(params)
    for name, got in values.items():
        want = arrays[f'out/{name}']
        want = nhwc(want) if want.ndim == 4 else want.reshape(got.shape)
        assert_close(name, got, want, tolerance)
    for kind, tree in grads.items():
        wanted = rename(select(arrays, f'out/{kind}/'), rules)
        assert wanted
        for path, want in wanted.items():
            assert_close(f'{kind}/{path}', paths(tree)[path], want, tolerance)


# Training -------------------------------------------------------------------------------------------------


def train_steps(arrays, meta):
    size, tolerance, hyper = meta['kwargs']['size'], meta['tolerance'], meta['hyper']
    table = meta['disc_patched_channel_table']
    config = run_config(meta, d_channels=tuple(table[str(size >> i)] for i in range(size.bit_length() - 2)))
    model, gan = config.model, cips.build(config)
    rules = {'g.': G_RULES, 'd.': d_rules(size, 0), 'g_ema.': G_RULES}
    before = {net: rename(select(arrays, f'param/{net}'), r) for net, r in rules.items()}
    state = SimpleNamespace(
        params={'g': nest(before['g.']), 'd': nest(before['d.'])},
        buffers=nest(before['d.'], buffers=True),
        ema=nest(before['g_ema.']),
    )
    state.opt = {net: gan.optimizers[net].init(state.params[net]) for net in ('g', 'd')}
    intervals = [(u.net, u.interval) for u in gan.updates]
    assert intervals == [('d', 1), ('d', hyper['d_reg_every']), ('g', 1)]
    assert gan.ema(0, 0) == hyper['ema_decay']

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
    layers = len(meta['noise_order'])
    for i in range(hyper['iterations']):
        real = nhwc(arrays[f'in/{i}/real'])
        noise = {net: noise_of(arrays, f'in/{i}/noise_{net}', layers) for net in 'dg'}
        z = {net: arrays[f'in/{i}/z_{net}'] for net in 'dg'}
        (loss, _), grads = d_main(state.params['d'], state.buffers, state.params['g'], real, z['d'], noise['d'])
        assert_close(f'{i}/d_loss', loss, arrays[f'out/{i}/d_loss'], {'rtol': tolerance['losses_rtol']})
        apply('d', grads)
        interval = gan.updates[1].interval
        if i % interval == 0:
            (_, metrics), grads = d_r1(state.params['d'], state.buffers, real)
            assert_close(f'{i}/r1', metrics['loss/r1'], arrays[f'out/{i}/r1'], {'rtol': tolerance['losses_rtol']})
            apply('d', jax.tree.map(lambda g, k=interval: k * g, grads))
        (loss, _), grads = g_main(state.params['g'], state.params['d'], state.buffers, z['g'], noise['g'])
        assert_close(f'{i}/g_loss', loss, arrays[f'out/{i}/g_loss'], {'rtol': tolerance['losses_rtol']})
        for path, want in rename(select(arrays, f'out/{i}/grad_g/'), G_RULES).items():
            assert_close(f'{i}/grad_g/{path}', paths(grads)[path], want, {'rel_to_max': tolerance['grad_rtol']})
        apply('g', grads)
        state.ema = optax.incremental_update(state.params['g'], state.ema, 1 - gan.ema(0, i))

    for net, tree in (('g.', state.params['g']), ('d.', state.params['d']), ('g_ema.', state.ema)):
        wanted = rename(select(arrays, f'out/after/{net}'), rules[net])
        wanted = {k: v for k, v in wanted.items() if not k.endswith('resample_filter')}
        got = paths(tree)
        assert got.keys() == wanted.keys()
        for path, want in wanted.items():
            assert_close(f'after/{net}{path}', got[path], want, {'atol': tolerance['params_atol']})
        errors = np.concatenate([np.abs(np.asarray(got[k]) - wanted[k]).reshape(-1) for k in wanted])
        assert np.median(errors) <= tolerance['params_median_atol'], (net, np.median(errors))


CHECKS = {
    ('cips', 'gen_skip'): gen,
    ('cips', 'gen_res'): gen,
    ('cips', 'gen_original'): gen_original,
    ('cips', 'layers_1x1'): layers_1x1,
    ('cips', 'disc'): disc,
    ('cips', 'train_steps'): train_steps,
    ('cips', 'pe_zeroing'): pe_zeroing,
}
