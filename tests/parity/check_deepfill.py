"""DeepFillv2: layers, attention, networks, losses and gradients of the TensorFlow release and of its PyTorch port."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from compare import assert_close, nchw, nhwc, outputs

from pegan_jax import losses, ops
from pegan_jax.models import attention, deepfill
from pegan_jax.pixels import to_uint8

PRESETS = {'official': 'official', 'tf': 'port-tf', 'pt': 'port-pt'}
LAYERS = deepfill.layer_names()
CONVS = [f'conv{i}' for i in range(1, 7)]
HWIO = (2, 3, 1, 0)


def config_of(meta, **options):
    return deepfill.Config(**deepfill.VARIANTS[PRESETS[meta['variant']]], **options)


def layered(arrays, prefix, names):
    """{layer: {'kernel' HWIO, 'bias', maybe 'u' [1, out]}} of arrays whose layers come in the order of `names`."""
    tree = {}
    for key, value in arrays.items():
        if not key.startswith(prefix):
            continue
        path = key.removeprefix(prefix)
        layer, leaf = path.rsplit('.' if '.' in path else '/', 1)
        layer = layer.removesuffix('/kernel_sn')
        if leaf == 'weight':
            leaf, value = 'kernel', value.transpose(HWIO)
        elif leaf == 'weight_u':
            leaf, value = 'u', value.T
        elif leaf == 'fuse_weight':
            assert np.array_equal(value[0, 0], np.eye(3))
            continue
        tree.setdefault(layer, {})[leaf] = jnp.asarray(value)
    assert len(tree) == len(names), (len(tree), len(names))
    return dict(zip(names, tree.values(), strict=True))


def split_norm(tree):
    """Parameters and buffers of the discriminator."""
    params = {name: {k: layer[k] for k in ('kernel', 'bias')} for name, layer in tree.items()}
    return params, {name: {'u': layer['u']} for name, layer in tree.items()}


def images_of(arrays, meta, names):
    """Inputs, those of the port turned to NHWC."""
    turn = (lambda x: x) if meta['layout'].startswith('NHWC') else nhwc
    return [jnp.asarray(turn(arrays[f'in/{name}'])) for name in names]


# Layers ---------------------------------------------------------------------------------------------------------------


def gated_conv(arrays, meta):
    options = meta['ctor'] | {'gated': meta['ctor'].get('gated', True)}
    up = meta['case'].startswith('gdeconv')
    layer = deepfill.Layer(1, options.get('ksize', 3), options.get('stride', 1), options.get('rate', 1), up)
    act = {'elu': jax.nn.elu, 'relu': jax.nn.relu, None: lambda x: x}[options.get('activation', 'elu')]
    (tree,) = layered(arrays, 'param/', ['layer']).values()
    gate = 'full' if options['gated'] else None
    model = config_of(meta)
    conv = deepfill.GatedConv(model, options['cnum_out'], layer, gate, act)
    (x,) = images_of(arrays, meta, ['x'])
    y, state = conv.apply({'params': tree}, x, mutable=['gates'])
    got = {'y': nchw(y)}
    if 'out/gate' in arrays:
        got['gate'] = nchw(state['gates']['gate'][0])
        whole = ops.conv2d(
            x,
            tree['kernel'],
            padding=deepfill.pads(model, x.shape[1:3], layer),
            stride=layer.stride,
            dilation=layer.dilation,
        )
        got['feature_pre'] = nchw((whole + tree['bias'].reshape(1, 1, 1, -1))[..., : options['cnum_out']])
    assert set(got) == outputs(arrays)
    for name, value in got.items():
        assert_close(name, value, arrays[f'out/{name}'], meta['tol']['float32'])


def index_tables(arrays, meta):
    for size, kernel, stride, dilation, out, before, after in arrays['out/same_table']:
        pad = attention.same_padding(size, kernel, stride, dilation)
        assert pad == (before, after), (size, kernel, stride, dilation)
        assert (size + sum(pad) - (kernel - 1) * dilation - 1) // stride + 1 == out
    rows = {
        'mask_official': ('two-step', 'aligned'),
        'mask_port_tf': ('one-step', 'linspace'),
        'mask_port_pt': ('one-step', 'plain'),
    }
    for name in outputs(arrays) - {'same_table'}:
        kind, size = name.split('/')
        size, want = int(size), arrays[f'out/{name}']
        if kind == 'nn_up2':
            got = attention.double(jnp.arange(size).reshape(1, size, 1, 1))[0, :, 0, 0]
        elif kind == 'nn_down2':
            got = attention.nearest_index(size, size // 2, 'aligned')
        else:
            model = deepfill.Config(mask_resize=rows[kind][0], nearest=rows[kind][1])
            got = deepfill.attention_mask(jnp.arange(size).reshape(1, size, 1, 1) * jnp.ones((1, 1, size, 1)), model)
            got = got[0, :, 0, 0]
        np.testing.assert_array_equal(got, want, err_msg=name)


# Attention ------------------------------------------------------------------------------------------------------------


def contextual(arrays, meta):
    options, call = meta['ctor'], meta['call']
    assert (options['ksize'], options['stride'], options['fuse_k']) == (3, 1, 3)
    model = config_of(meta)
    f, b = images_of(arrays, meta, ['f', 'b'])
    got, mask = {}, None
    if call['mask'] and 'in/mask_feat' in arrays:
        mask = attention.thin_out(jnp.asarray(arrays['in/mask_feat']), options['rate'], model.nearest)
    elif call['mask'] and meta['variant'] == 'official':
        at_features = attention.thin_out(jnp.asarray(arrays['in/mask_full']), 4, model.nearest)
        got['mask_feat'] = at_features
        mask = attention.thin_out(at_features, options['rate'], model.nearest)
    elif call['mask']:
        # The port applies the first mask of a batch to all of its images.
        mask = deepfill.attention_mask(nhwc(arrays['in/mask'][:1]), model)
    run = functools.partial(
        attention.contextual_attention,
        rate=options['rate'],
        fuse=options['fuse'],
        nearest=model.nearest,
        softmax_scale=options['softmax_scale'],
        return_weights=True,
    )
    result = jax.jit(run)(f, b, mask)
    tolerance = meta['tol']['float32']
    turn = (lambda x: x) if meta['layout'].startswith('NHWC') else nchw
    got |= {'y': turn(result.y), 'attention': result.weights, 'offset_rel': result.offsets}
    valid = np.ones(result.weights.shape[2]) if mask is None else attention.patches3(mask).sum(axis=2)[0] == 0
    got['valid'] = valid
    if 'out/flow' in arrays:
        picture = attention.flow_picture(result.offsets, options['rate'])
        got['flow'] = picture if meta['variant'] == 'official' else turn((picture + 1) / 2)
    assert outputs(arrays) <= set(got)
    for name in outputs(arrays):
        within = meta['tol']['flow'] if name == 'flow' else tolerance
        assert_close(name, got[name], arrays[f'out/{name}'], {'atol': 0.0} if name == 'offset_rel' else within)
    # Strips of one row give the same.
    strips = jax.jit(functools.partial(run, max_scores=1))(f, b, mask)
    for name in ('y', 'weights', 'offsets'):
        assert_close(f'strips/{name}', getattr(strips, name), getattr(result, name), {'atol': 1e-4, 'rtol': 1e-4})


def fuse_only(arrays, meta):
    fh, fw, bh, bw = (meta['ctor'][k] for k in ('fh', 'fw', 'bh', 'bw'))
    windows, exists = attention.query_windows(fh, fw, fh)
    scores = np.pad(arrays['in/scores'], ((0, 1), (0, 0)))[windows[0]].reshape(1, fh + 2, fw + 2, bh, bw)
    first = attention.sum_diagonals(jnp.asarray(scores))[0, 1:-1].reshape(fh * fw, bh * bw)
    fused = attention.fuse_scores(jnp.asarray(scores), jnp.asarray(exists[0])).reshape(fh * fw, bh * bw)
    assert outputs(arrays) == {'after_first_pass', 'fused'}
    assert_close('after_first_pass', first, arrays['out/after_first_pass'], meta['tol']['float32'])
    assert_close('fused', fused, arrays['out/fused'], meta['tol']['float32'])


def flow_image(arrays, meta):
    levels = (attention.flow_picture(arrays['in/offset_rel'], rate=1).astype(np.float64) + 1) * 127.5
    assert_close('rgb255', levels, arrays['out/rgb255'], meta['tol']['float64'])
    assert np.mean(np.abs(levels - arrays['out/rgb255']) > 0.01) < 0.01  # the floor of a few numbers differs
    np.testing.assert_array_equal(attention.colour_wheel(), arrays['out/wheel'])


# Networks -------------------------------------------------------------------------------------------------------------


def generator(arrays, meta):
    guided = meta['ctor'].get('guided', False)
    model = config_of(meta, cnum=meta['ctor']['cnum'], guided=guided)
    params = layered(arrays, 'param/', LAYERS)
    names = ['image', 'mask', 'edge'] if guided else ['image', 'mask']
    inputs = images_of(arrays, meta, names)
    official = meta['variant'] == 'official'
    turn = (lambda x: x) if official else nchw

    @jax.jit
    def run(params, *inputs):
        module, options = deepfill.Generator(model), {'mutable': ['intermediates']}
        options['capture_intermediates'] = lambda module, _: module.name == 'pmconv6'
        return module.apply({'params': params}, *inputs, **options)

    expected = jax.eval_shape(deepfill.Generator(model).init, jax.random.key(0), *inputs)['params']
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    result, state = run(params, *inputs)
    got = {
        'stage1': turn(result.coarse),
        'stage2': turn(result.refined),
        'composite': turn(deepfill.composite(result.refined, *inputs[:2])),
    }
    picture = attention.flow_picture(result.offsets)
    got['flow'] = picture if official else turn((picture + 1) / 2)
    if official:
        (got['attn_in'],) = state['intermediates']['pmconv6']['__call__']
        features, mask = got['attn_in'], deepfill.attention_mask(inputs[1], model)
        # The unguided files hold what the attention without fusion gives there, beside images made with it.
        got['attn_out'] = attention.contextual_attention(features, features, mask, fuse=guided).y
    assert set(got) == outputs(arrays)
    for name, value in got.items():
        assert_close(name, value, arrays[f'out/{name}'], meta['tol']['flow' if name == 'flow' else 'float32'])
    # The tolerance of the files allows for other orders of sums; this is far closer.
    assert np.abs(got['stage2'] - arrays['out/stage2']).max() < 1e-4


def discriminator(arrays, meta):
    official = meta['variant'] == 'official'
    model = config_of(meta, d_cnum=meta['ctor']['cnum'])
    params, buffers = split_norm(layered_with_norm(arrays, 'param/'))
    (x,) = images_of(arrays, meta, ['x'])
    tolerance = meta['tol']['float32']

    @jax.jit
    def call(params, buffers):
        used, new = deepfill.normalised(model, params, buffers)
        return deepfill.Discriminator(model).apply({'params': used}, x), used, new

    def flat(y):
        """The port flattens channels first."""
        if official:
            return y
        return nchw(y.reshape(len(x), -(-x.shape[1] // 64), -(-x.shape[2] // 64), -1)).reshape(len(x), -1)

    checked = set()

    def check(name, got):
        checked.add(name)
        assert_close(name, got, arrays[f'out/{name}'], tolerance)

    for i in (1, 2):
        y, used, buffers = call(params, buffers)
        check(f'y_call{i}', flat(y))
        for layer in CONVS:
            name = f'discriminator/sn_patch_gan/{layer}/kernel_sn/u' if official else f'{layer}.conv_sn.weight_u'
            if f'out/u_after{i}/{name}' in arrays:
                u = buffers[layer]['u']
                check(f'u_after{i}/{name}', u if official else u.T)
        if model.sn == 'divided':
            params = used
            if i == 1:
                check('w_after1/conv1.conv_sn.weight', used['conv1']['kernel'].transpose(3, 2, 0, 1))
    if official:
        start = split_norm(layered_with_norm(arrays, 'param/'))

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def d_loss(params):
            used, _ = deepfill.normalised(model, params, start[1])
            scores = deepfill.Discriminator(model).apply({'params': used}, x)
            return losses.hinge_d(scores[:1], scores[1:]), losses.hinge_g(scores[1:])

        (loss, g_loss), grads = d_loss(start[0])
        check('d_loss', loss)
        check('g_loss', g_loss)
        for layer, leaves in grads.items():
            for leaf, value in leaves.items():
                name = f'grad_d_loss/discriminator/sn_patch_gan/{layer}/{leaf}'
                if f'out/{name}' in arrays:
                    check(name, value)
    assert checked == outputs(arrays)


def layered_with_norm(arrays, prefix):
    """`layered` of the discriminator, whose files have each layer's u behind all layers or beside it."""
    return layered(arrays, prefix, CONVS)


# Losses and images ----------------------------------------------------------------------------------------------------


def loss_terms(arrays, meta):
    names = ('pos', 'neg', 'real', 'stage1', 'stage2')
    pos, neg, real, coarse, refined = (jnp.asarray(arrays[f'in/{name}']) for name in names)
    adversarial = losses.hinge_g(neg)
    terms = deepfill.reconstruction(deepfill.Result(coarse, refined, None), real)
    got = {
        'hinge_d': losses.hinge_d(pos, neg),
        'hinge_g': adversarial,
        'ls_d': losses.least_squares_d(pos, neg),
        'ls_g': losses.least_squares_g(neg),
        'ae1': terms[0],
        'ae2': terms[1],
        'ae': sum(terms),
        'g_total': meta['ctor']['gan_loss_alpha'] * adversarial + meta['ctor']['l1_loss_alpha'] * sum(terms),
    }
    assert set(got) == outputs(arrays)
    for name, value in got.items():
        assert_close(name, value, arrays[f'out/{name}'], meta['tol']['float32'])


def composite(arrays, meta):
    real, pred, mask = images_of(arrays, meta | {'layout': 'NCHW'}, ['real', 'pred', 'mask'])
    levels = arrays['in/bytes']
    got = {
        'incomplete': nchw(real * (1 - mask)),
        'complete': nchw(deepfill.composite(pred, real, mask)),
        'd_input_real': nchw(deepfill.d_input(real, mask)),
        'bytes_roundtrip_rounded': to_uint8(levels.astype(np.float32) / 127.5 - 1),
    }
    # The published programs truncate; here images are rounded.
    assert outputs(arrays) == {*got, 'bytes_roundtrip_truncated'}
    assert not np.array_equal(got['bytes_roundtrip_rounded'], arrays['out/bytes_roundtrip_truncated'])
    for name, value in got.items():
        assert_close(name, value, arrays[f'out/{name}'], meta['tol']['float32'])


def inference(arrays, meta):
    """Crops to multiples of 8 from the top left; any of the mask's channels marks a hole; bytes are truncated there."""
    model = config_of(meta, cnum=meta['ctor']['cnum'])
    height, width = (side // 8 * 8 for side in arrays['in/image01'].shape[1:])
    image = nhwc(arrays['in/image01'])[None, :height, :width] * 2 - 1
    mask = (nhwc(arrays['in/mask'])[None, :height, :width].sum(axis=-1, keepdims=True) > 0).astype(np.float32)
    params = layered(arrays, 'param/', LAYERS)
    result = jax.jit(deepfill.Generator(model).apply)({'params': params}, image, mask)
    got = {
        'inpainted': deepfill.composite(result.refined, image, mask),
        'stage1': result.coarse,
        'stage2': result.refined,
    }
    assert set(got) == outputs(arrays)
    for name, value in got.items():
        assert_close(name, to_uint8(value[0]), arrays[f'out/{name}'], {'atol': meta['tol']['uint8']['max_abs']})


def training_gradients(arrays, meta):
    """Losses and all gradients of a step without its updates: D's first, then G's with D evaluated once more."""
    ctor = meta['ctor']
    model = config_of(meta, cnum=ctor['G']['cnum'], d_cnum=ctor['D']['cnum'])
    g_params = layered(arrays, 'param/G/', LAYERS)
    d_params, buffers = split_norm(layered_with_norm(arrays, 'param/D/'))
    image, mask = images_of(arrays, meta, ['image', 'mask'])
    batch = {'image': image, 'mask': mask, 'sketch': None}

    @jax.jit
    def everything(g_params, d_params, buffers):
        result = deepfill.Generator(model).apply({'params': g_params}, image, mask)
        d_main = functools.partial(deepfill.d_main, model)
        (d_loss, (used, new, _)), d_grads = jax.value_and_grad(d_main, has_aux=True)(
            d_params, buffers, result.refined, batch
        )
        g_main = functools.partial(deepfill.g_main, model)
        g_main = jax.value_and_grad(g_main, argnums=(0, 1), has_aux=True)
        (g_loss, (_, _, metrics)), (g_grads, more) = g_main(g_params, used, new, batch)
        # The file's gradients of D are those of its own loss and of G's, which were added up.
        return result, d_loss, jax.tree.map(jnp.add, d_grads, more), g_loss, g_grads, metrics

    result, d_loss, d_grads, g_loss, g_grads, metrics = everything(g_params, d_params, buffers)
    got = {
        'd_loss': d_loss,
        'g_loss': g_loss,
        'adv': metrics['loss/g_adversarial'],
        'ae1': metrics['loss/l1_coarse'],
        'ae2': metrics['loss/l1_refined'],
        'stage1': nchw(result.coarse),
        'stage2': nchw(result.refined),
    }
    assert set(got) == {name for name in outputs(arrays) if not name.startswith('grad_')}
    for name, value in got.items():
        assert_close(name, value, arrays[f'out/{name}'], meta['tol']['float32'])
    for kind, grads, names in (('d', d_grads, CONVS), ('g', g_grads, LAYERS)):
        wanted = layered(arrays, f'out/grad_{kind}/', names)
        assert jax.tree.structure(grads) == jax.tree.structure(wanted)
        for path, want in jax.tree_util.tree_leaves_with_path(wanted):
            value = functools.reduce(lambda node, key: node[key.key], path, grads)
            assert_close(f'grad_{kind}{jax.tree_util.keystr(path)}', value, want, meta['tol']['float32'])


CHECKS = {
    ('deepfill', 'ca_'): contextual,
    ('deepfill', 'ca_fuse_only'): fuse_only,
    ('deepfill', 'composite'): composite,
    ('deepfill', 'disc_'): discriminator,
    ('deepfill', 'flow_image'): flow_image,
    ('deepfill', 'gconv_'): gated_conv,
    ('deepfill', 'gdeconv_'): gated_conv,
    ('deepfill', 'gen_'): generator,
    ('deepfill', 'index_tables'): index_tables,
    ('deepfill', 'infer_'): inference,
    ('deepfill', 'losses'): loss_terms,
    ('deepfill', 'train_grads'): training_gradients,
}
