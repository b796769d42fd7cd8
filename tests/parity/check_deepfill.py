"""DeepFillv2: layers, attention, networks, losses and gradients of the TensorFlow release and of its PyTorch port."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from checkpoints import check_filled, conv
from compare import anything, assert_close, assert_outputs, fields, nchw, nhwc, outputs, select

from pegan_jax import losses, ops
from pegan_jax.models import attention, deepfill
from pegan_jax.pixels import to_uint8

PRESETS = {'official': 'official', 'tf': 'port-tf', 'pt': 'port-pt'}
LAYERS = {'g': deepfill.layer_names(), 'd': [f'conv{i}' for i in range(1, 7)]}


def config_of(meta, **options):
    return deepfill.Config(**deepfill.VARIANTS[PRESETS[meta['variant']]], **options)


def parts_of(name):
    """(layer, leaf) of a parameter's name in a file, where 'u' is the vector of a spectral norm."""
    layer, leaf = re.fullmatch('(.+?)(?:/kernel_sn)?[./]([a-z_]+)', name).groups()
    return layer, {'weight': 'kernel', 'weight_u': 'u'}.get(leaf, leaf)


def places(names, ours):
    """{layer in a file: ours}: the one in its name, or else the one of the same place in the order."""
    layers = list(dict.fromkeys(parts_of(name)[0] for name in names))
    found = [next((part for part in re.split('[./]', layer) if part in ours), None) for layer in layers]
    if None in found:
        assert len(layers) == len(ours), f'{len(layers)} layers in the file; this library has {len(ours)}'
        found = ours
    return dict(zip(layers, found, strict=True))


def trainable(arrays):
    """Without a constant, which the library has inside."""
    for name in arrays:
        assert not name.endswith('fuse_weight') or np.array_equal(arrays[name][0, 0], np.eye(3)), name
    return {name: value for name, value in arrays.items() if not name.endswith('fuse_weight')}


def layered(arrays, ours):
    """{layer: {'kernel' HWIO, 'bias', maybe 'u' [1, out]}} of the parameters in a file."""
    arrays, tree = trainable(arrays), {}
    found = places(arrays, ours)
    for name, value in arrays.items():
        layer, leaf = parts_of(name)
        change = {'weight': conv, 'weight_u': np.transpose}.get(name.rpartition('.')[2], np.asarray)
        node = tree.setdefault(found[layer], {})
        assert leaf not in node, f'{found[layer]}/{leaf} is filled twice, the second time by {name}'
        node[leaf] = jnp.asarray(change(value))
    return tree


def named(tree, names, found):
    """{name in a file: array} of our tree, in the layout that goes with the name; found: from `places`."""
    out = {}
    for name in names:
        layer, leaf = parts_of(name)
        value = np.asarray(tree[found[layer]][leaf])
        change = {'weight': lambda x: x.transpose(3, 2, 0, 1), 'weight_u': np.transpose}
        out[name] = change.get(name.rpartition('.')[2], np.asarray)(value)
    return out


def split_norm(tree):
    """Parameters and buffers of the discriminator."""
    params = {name: {k: layer[k] for k in ('kernel', 'bias')} for name, layer in tree.items()}
    return params, {name: {'u': layer['u']} for name, layer in tree.items()}


def in_layout(meta, back=False):
    """What turns arrays of a file's layout to NHWC, or back."""
    if meta['layout'].startswith('NHWC'):
        return lambda x: x
    return nchw if back else nhwc


def images_of(arrays, meta):
    """{name: input}, images as NHWC."""
    turn = in_layout(meta)
    return {
        name: jnp.asarray(turn(value) if value.ndim == 4 else value) for name, value in select(arrays, 'in/').items()
    }


# Layers ---------------------------------------------------------------------------------------------------------------

ACTIVATIONS = {'elu': jax.nn.elu, 'relu': jax.nn.relu, None: lambda x: x}


def gated_conv(arrays, meta):
    """The layer; what it makes of the feature half before its activation; and the gate."""
    rules = {'ksize': 'kernel', 'stride': 'stride', 'rate': 'dilation', 'cnum_in': anything, 'cnum_out': anything}
    rules |= {'activation': lambda name: {} if name in ACTIVATIONS else None, 'gated': anything}
    options, up = meta['ctor'], meta['case'].startswith('gdeconv')
    layer = deepfill.Layer(**{'width': 1, 'up': up} | fields(options, rules))
    features, model = options['cnum_out'], config_of(meta)
    tree = layered(select(arrays, 'param/'), ['layer'])['layer']
    gate = 'full' if options.get('gated', True) else None
    act = ACTIVATIONS[options.get('activation', 'elu')]
    x, turn = images_of(arrays, meta)['x'], in_layout(meta, back=True)
    y, state = deepfill.GatedConv(model, features, layer, gate, act).apply({'params': tree}, x, mutable=['gates'])
    got = {'y': y}
    if gate:
        enlarged = ops.double(x) if up else x
        whole = ops.conv2d(
            enlarged,
            tree['kernel'],
            padding=deepfill.pads(model, enlarged.shape[1:3], layer),
            stride=layer.stride,
            dilation=layer.dilation,
        )
        got['gate'] = state['gates']['gate'][0]
        got['feature_pre'] = (whole + tree['bias'].reshape(1, 1, 1, -1))[..., :features]
    assert_outputs(arrays, {name: turn(value) for name, value in got.items()}, meta['tol']['float32'])


def index_tables(arrays, meta):
    rows = {
        'mask_official': ('two-step', 'aligned'),
        'mask_port_tf': ('one-step', 'linspace'),
        'mask_port_pt': ('one-step', 'plain'),
    }
    got = {}
    for name in outputs(arrays):
        kind, _, size = name.partition('/')
        if kind == 'same_table':
            got[name] = []
            for size, kernel, stride, dilation, *_ in arrays['out/same_table'].tolist():
                pad = attention.same_padding(size, kernel, stride, dilation)
                out = (size + sum(pad) - (kernel - 1) * dilation - 1) // stride + 1
                got[name].append([size, kernel, stride, dilation, out, *pad])
        elif kind == 'nn_up2':
            got[name] = ops.double(np.arange(int(size)).reshape(1, -1, 1, 1))[0, :, 0, 0]
        elif kind == 'nn_down2':
            got[name] = attention.nearest_index(int(size), int(size) // 2, 'aligned')
        elif kind in rows:
            model, side = deepfill.Config(mask_resize=rows[kind][0], nearest=rows[kind][1]), int(size)
            mask = np.broadcast_to(np.arange(side).reshape(1, side, 1, 1), (1, side, side, 1))
            got[name] = deepfill.attention_mask(mask, model)[0, :, 0, 0]
    assert_outputs(arrays, got, meta['tol'])


# Attention ------------------------------------------------------------------------------------------------------------


def attention_inputs(arrays, meta, model, rate):
    """(f, b, mask as the attention needs it, or None, and the mask at the features, if the file resizes it twice)."""
    given = images_of(arrays, meta)
    f, b = given['f'], given['b']
    thin = functools.partial(attention.thin_out, rule=model.nearest)
    if 'mask_feat' in given:
        return f, b, thin(given['mask_feat'], rate), None
    if 'mask_full' in given:
        at_features = thin(given['mask_full'], given['mask_full'].shape[1] // b.shape[1])
        return f, b, thin(at_features, rate), at_features
    if 'mask' in given:
        # The port applies the first mask of a batch to all of its images.
        mask = given['mask'][:1]
        return f, b, thin(mask, mask.shape[1] // b.shape[1] * rate), None
    return f, b, None, None


def contextual(arrays, meta):
    rules = {'rate': 'rate', 'fuse': 'fuse', 'softmax_scale': 'softmax_scale', 'n_down': anything}
    rules |= {'ksize': (3,), 'stride': (1,), 'fuse_k': (3,), 'return_flow': anything}
    options, model = {'rate': 2} | fields(meta['ctor'], rules), config_of(meta)
    f, b, mask, at_features = attention_inputs(arrays, meta, model, options['rate'])
    assert meta['call'].get('mask', mask is not None) == (mask is not None), 'option mask'
    run = functools.partial(attention.contextual_attention, nearest=model.nearest, return_weights=True, **options)
    result, turn = jax.jit(run)(f, b, mask), in_layout(meta, back=True)
    got = {'y': turn(result.y), 'attention': result.weights, 'offset_rel': result.offsets}
    valid = np.ones(result.weights.shape[2]) if mask is None else attention.patches3(mask).sum(axis=2)[0] == 0
    got |= {'valid': valid} | ({} if at_features is None else {'mask_feat': at_features})
    if 'out/flow' in arrays:
        picture = attention.flow_picture(result.offsets, options['rate'])
        got['flow'] = turn(picture if meta['variant'] == 'official' else (picture + 1) / 2)
    within = {'flow': meta['tol'].get('flow'), 'offset_rel': {'exact': True}, 'valid': {'exact': True}}
    assert_outputs(arrays, got, lambda name: within.get(name, meta['tol']['float32']))
    # Strips of one row give the same.
    strips = jax.jit(functools.partial(run, max_scores=1))(f, b, mask)
    for name in ('y', 'weights', 'offsets'):
        assert_close(f'strips/{name}', getattr(strips, name), getattr(result, name), {'atol': 1e-4, 'rtol': 1e-4})


def fuse_only(arrays, meta):
    fields(meta['ctor'], dict.fromkeys(('fh', 'fw', 'bh', 'bw'), anything) | {'fuse_k': (3,)})
    fh, fw, bh, bw = (meta['ctor'][k] for k in ('fh', 'fw', 'bh', 'bw'))
    (q_at, q_exists), (k_at, k_exists) = attention.strips(fh, fw, fh), attention.strips(bh, bw, bh)
    scores = jnp.asarray(np.pad(arrays['in/scores'], ((0, 1), (0, 1)))[q_at[0][:, None, :, None, None], k_at[0]])
    first = attention.add_columns(scores)[1:-1, 0, :, 1:-1].reshape(fh * fw, bh * bw)
    fused = attention.fuse_scores(scores, q_exists[0], k_exists[0]).reshape(fh * fw, bh * bw)
    assert_outputs(arrays, {'after_first_pass': first, 'fused': fused}, meta['tol']['float32'])


def flow_image(arrays, meta):
    levels = (attention.flow_picture(arrays['in/offset_rel'], rate=1).astype(np.float64) + 1) * 127.5
    got = {'rgb255': levels, 'wheel': attention.colour_wheel()}
    assert_outputs(arrays, got, lambda name: {'exact': True} if name == 'wheel' else meta['tol']['float64'])
    if 'out/rgb255' in arrays:  # the floor of a few numbers differs
        assert np.mean(np.abs(levels - arrays['out/rgb255']) > 0.01) < 0.01


# Networks -------------------------------------------------------------------------------------------------------------


def generator_options(options):
    """Fields from the arguments of a generator, whose inputs are the image, a sketch, ones and the mask."""
    channels = options.get('cnum_out', 3)
    guided = options.get('guided', options.get('cnum_in') == channels + 3)
    rules = {'cnum': 'cnum', 'guided': anything, 'cnum_in': (channels + 2 + guided,), 'cnum_out': 'img_channels'}
    return {'guided': guided} | fields(options, rules | {'return_flow': anything})


def generator(arrays, meta):
    """Both stages, what they are pasted to, the flow of the attention, and what it sees and gives."""
    model = config_of(meta, **generator_options(meta['ctor']))
    params, given = layered(select(arrays, 'param/'), LAYERS['g']), images_of(arrays, meta)
    inputs = [given[name] for name in (('image', 'mask', 'edge') if model.guided else ('image', 'mask'))]
    turn = in_layout(meta, back=True)

    @jax.jit
    def run(params, *inputs):
        module, options = deepfill.Generator(model), {'mutable': ['intermediates']}
        options['capture_intermediates'] = lambda module, _: module.name == 'pmconv6'
        return module.apply({'params': params}, *inputs, **options)

    check_filled(params, jax.eval_shape(deepfill.Generator(model).init, jax.random.key(0), *inputs)['params'])
    result, state = run(params, *inputs)
    (features,), picture = state['intermediates']['pmconv6']['__call__'], attention.flow_picture(result.offsets)
    got = {
        'stage1': result.coarse,
        'stage2': result.refined,
        'composite': deepfill.composite(result.refined, *inputs[:2]),
        'flow': picture if meta['variant'] == 'official' else (picture + 1) / 2,
        'attn_in': features,
    }
    got = {name: turn(value) for name, value in got.items()}
    if 'out/attn_out' in arrays:
        # Some files hold what the attention without fusion gives there, beside images made with it.
        attend = functools.partial(
            attention.contextual_attention, features, features, deepfill.attention_mask(inputs[1], model),
            nearest=model.nearest,
        )  # fmt: skip
        either = [turn(attend(fuse=fuse).y) for fuse in (model.fuse, False)]
        got['attn_out'] = min(either, key=lambda y: np.abs(y - arrays['out/attn_out']).max())
    assert_outputs(arrays, got, lambda name: meta['tol']['flow' if name == 'flow' else 'float32'])


def discriminator(arrays, meta):
    """Scores, norms and stored weights call by call; losses of two of the scores, and the gradient through the norm."""
    official = meta['variant'] == 'official'
    x, call, wanted = images_of(arrays, meta)['x'], meta['call'], outputs(arrays)
    # The image, the mask, and a sketch that a guided one sees as well.
    rules = {'cnum': 'd_cnum', 'cnum_in': (x.shape[-1],), 'cin': (x.shape[-1],)}
    model = config_of(meta, **fields(meta['ctor'], rules))
    found = places(select(arrays, 'param/'), LAYERS['d'])
    start = split_norm(layered(select(arrays, 'param/'), LAYERS['d']))
    params, buffers = start

    @jax.jit
    def run(params, buffers):
        used, new = deepfill.normalised(model, params, buffers)
        return deepfill.Discriminator(model).apply({'params': used}, x), used, new

    def flat(y):
        """The port flattens channels first."""
        if official:
            return y
        return nchw(y.reshape(len(x), -(-x.shape[1] // 64), -(-x.shape[2] // 64), -1)).reshape(len(x), -1)

    got = {}
    for i in range(1, call.get('calls', 1) + 1):
        y, used, buffers = run(params, buffers)
        got[f'y_call{i}'] = flat(y)
        if model.sn == 'divided':
            params = used
        for kind, tree in (('u', buffers), ('w', params)):
            names = [name.partition('/')[2] for name in wanted if name.startswith(f'{kind}_after{i}/')]
            got |= {f'{kind}_after{i}/{name}': value for name, value in named(tree, names, found).items()}
    if 'pos' in call:
        first, second = (int(re.search(r'\d+', call[name])[0]) for name in ('pos', 'neg'))

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def d_loss(params):
            used, _ = deepfill.normalised(model, params, start[1])
            scores = deepfill.Discriminator(model).apply({'params': used}, x)
            pos, neg = scores[first : first + 1], scores[second : second + 1]
            return losses.hinge_d(pos, neg), losses.hinge_g(neg)

        (got['d_loss'], got['g_loss']), grads = d_loss(start[0])
        names = [name.removeprefix('grad_d_loss/') for name in wanted if name.startswith('grad_d_loss/')]
        got |= {f'grad_d_loss/{name}': value for name, value in named(grads, names, found).items()}
    assert_outputs(arrays, got, meta['tol']['float32'])


# Losses and images ----------------------------------------------------------------------------------------------------


def loss_terms(arrays, meta):
    names = ('pos', 'neg', 'real', 'stage1', 'stage2')
    pos, neg, real, coarse, refined = (jnp.asarray(arrays[f'in/{name}']) for name in names)
    rules = {'gan_loss_alpha': 'gan_weight', 'l1_loss_alpha': 'l1_weight'}
    model = deepfill.Config(**{k: float(v) for k, v in fields(meta['ctor'], rules).items()})
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
        'g_total': model.gan_weight * adversarial + model.l1_weight * sum(terms),
    }
    assert_outputs(arrays, got, meta['tol']['float32'])


def composite(arrays, meta):
    """Images with holes, completed ones, what D sees of real ones; and bytes, which are rounded, not truncated here."""
    given = {name: nhwc(value) for name, value in select(arrays, 'in/').items() if value.ndim == 4}
    real, pred, mask = (given[name] for name in ('real', 'pred', 'mask'))
    got = {
        'incomplete': real * (1 - mask),
        'complete': deepfill.composite(pred, real, mask),
        'd_input_real': deepfill.d_input(real, mask),
        'd_input_fake': deepfill.d_input(deepfill.composite(pred, real, mask), mask),
    }
    got = {name: nchw(value) for name, value in got.items()}
    if 'in/bytes' in arrays:
        got['bytes_roundtrip_rounded'] = to_uint8(arrays['in/bytes'].astype(np.float32) / 127.5 - 1)
    assert_outputs(arrays, got, meta['tol']['float32'], ['bytes_roundtrip_truncated'])


def inference(arrays, meta):
    """Crops to multiples of 8 from the top left; any of the mask's channels marks a hole; bytes are truncated there."""
    model = config_of(meta, **generator_options(meta['ctor']))
    height, width = (side // 8 * 8 for side in arrays['in/image01'].shape[1:])
    image = nhwc(arrays['in/image01'])[None, :height, :width] * 2 - 1
    mask = (nhwc(arrays['in/mask'])[None, :height, :width].sum(axis=-1, keepdims=True) > 0).astype(np.float32)
    params = layered(select(arrays, 'param/'), LAYERS['g'])
    result = jax.jit(deepfill.Generator(model).apply)({'params': params}, image, mask)
    got = {
        'inpainted': deepfill.composite(result.refined, image, mask),
        'stage1': result.coarse,
        'stage2': result.refined,
    }
    assert_outputs(arrays, {name: to_uint8(value[0]) for name, value in got.items()}, meta['tol']['uint8'])


def training_gradients(arrays, meta):
    """Losses and all gradients of a step without its updates: D's first, then G's with D evaluated once more."""
    fields(meta['ctor'], {'G': anything, 'D': anything})
    g = generator_options(meta['ctor']['G'])
    d = fields(meta['ctor']['D'], {'cnum': 'd_cnum', 'cnum_in': (g.get('img_channels', 3) + 1 + g['guided'],)})
    model = config_of(meta, **g, **d)
    g_params = layered(select(arrays, 'param/G/'), LAYERS['g'])
    d_params, buffers = split_norm(layered(select(arrays, 'param/D/'), LAYERS['d']))
    given = images_of(arrays, meta)
    batch = {'image': given['image'], 'mask': given['mask'], 'sketch': given['edge'] if model.guided else None}

    @jax.jit
    def everything(g_params, d_params, buffers):
        result = deepfill.Generator(model).apply({'params': g_params}, *batch.values())
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
    turn = in_layout(meta, back=True)
    got = {
        'd_loss': d_loss,
        'g_loss': g_loss,
        'adv': metrics['loss/g_adversarial'],
        'ae1': metrics['loss/l1_coarse'],
        'ae2': metrics['loss/l1_refined'],
        'stage1': turn(result.coarse),
        'stage2': turn(result.refined),
    }
    for net, grads in (('d', d_grads), ('g', g_grads)):
        found = places(trainable(select(arrays, f'param/{net.upper()}/')), LAYERS[net])
        values = named(grads, select(arrays, f'out/grad_{net}/'), found)
        got |= {f'grad_{net}/{name}': value for name, value in values.items()}
    assert_outputs(arrays, got, meta['tol']['float32'])


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
