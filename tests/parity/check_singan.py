"""Comparisons with the golden numbers of SinGAN."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compare import anything, assert_close, assert_outputs, fields, nchw, nhwc, outputs, select

from pegan_jax import editing, losses, ops
from pegan_jax.interop import singan as singan_rules
from pegan_jax.metrics.gaussians import fit, frechet_distance
from pegan_jax.models import singan, singan_pyramid

COUNTERS = [r'(.*\.)?num_batches_tracked']  # nothing here counts batches
BLOCKS = {name: name for name in ('base_channels', 'min_feat_channels', 'kernel_size', 'num_layers')}
BLOCKS |= {'num_scales': anything, 'type': anything, 'in_channels': 'img_channels'}


def encoded(options):
    rules = {'embedding_dim': 'spe_dim', 'div_half_dim': 'spe_div_half_dim', 'center_shift': 'spe_center_shift'}
    rules |= {'padding_idx': (0,), 'init_size': anything}
    kind = {'CSG': 'csg', 'SPE': 'spe', 'SPE2d': 'spe'}.get(options['type'])
    rest = {name: value for name, value in options.items() if name != 'type'}
    return None if kind is None else {'encoding': kind} | fields(rest, rules if kind == 'spe' else {})


def g_config(options, **changes):
    """The configuration that arguments of the public generators mean."""
    whole = {'kernel_size': 3, 'padding_mode': 'zero', 'padding': 0, 'interp_pad': False, 'noise_with_pad': False}
    whole |= options
    rules = (
        BLOCKS
        | {
            'out_channels': (whole.get('in_channels', 3),),
            # Only convolutions that are padded by half of their size keep the size of an image.
            'padding': (0, whole['kernel_size'] // 2),
            'padding_mode': ('zero', 'reflect'),
            'pad_at_head': lambda on: None if on and whole['padding'] else {},
            'first_stage_in_channels': anything,  # the encoding's
            'positional_encoding': lambda options: {} if options is None else encoded(options),
            'allow_no_residual': (False,),
        }
        | dict.fromkeys(('interp_pad', 'noise_with_pad'), anything)
    )
    if whole['interp_pad']:
        padding = 'interp' if whole['noise_with_pad'] else 'interp-noise'
    elif whole['noise_with_pad']:
        padding = 'noise'
    else:
        padding = f'{whole["padding_mode"]}-layer' if whole['padding'] else whole['padding_mode']
    return singan.Config(
        **{'padding': padding, 'rules': 'mmgen', 'spe_center_shift': None} | fields(whole, rules) | changes
    )


def d_config(options, **changes):
    """The configuration that arguments of the public critic mean."""

    def norm(options):
        return {'d_norm': options is not None} if (options or {}).get('type', 'BN') == 'BN' else None

    rules = BLOCKS | {'norm_cfg': norm, 'padding': (0,)}
    return singan.Config(**{'rules': 'mmgen'} | fields(options, rules) | changes)


def networks_of(model, arrays, prefix, block):
    """{'params', 'stats'} of all blocks in the state dictionary under `prefix`, colours in its order."""
    count = 1 + max(int(re.match(r'blocks\.(\d+)', name)[1]) for name in select(arrays, prefix) if name.startswith('b'))
    out = singan_rules.networks(model, arrays, prefix, count, block)
    singan_rules.turn_colours(model, out['params'], block)  # back from the order of this library
    return jax.tree.map(jnp.asarray, out)


def named(tree):
    """Parameters (or running statistics) of blocks by their public names, NCHW."""
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        block, layer, kind, name = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
        layer = layer.replace('body', 'body.block')
        name = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}.get(name, name)
        value = np.asarray(leaf)
        out[f'blocks.{block.removeprefix("block")}.{layer}.{kind}.{name}'] = (
            value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        )
    return out


def noises_of(arrays, tag, count):
    return [jnp.asarray(nhwc(arrays[f'in/{tag}_{s}'])) for s in range(count)]


def generators(arrays, meta):
    """Reconstructions and random images of all sets of sizes, of every scale; and the latter in training mode."""
    count = meta['call']['curr_scale'] + 1
    model = g_config(meta['constructor'])
    net, got = networks_of(model, arrays, 'param/', singan.g_block), {}

    @functools.partial(jax.jit, static_argnums=3)
    def run(net, noises, image, train):
        buffers = {'stats': net['stats'], 'amp': jnp.asarray(arrays['in/noise_weights'])}
        return singan.generate(model, net['params'], buffers, noises, image, ratio=0.75, train=train)

    def images(tag, name, found):
        scales = {f'{tag}/{name}_prev_{s}': nchw(image) for s, image in enumerate(found[:-1])}
        return {f'{tag}/{name}': nchw(found[-1])} | scales

    # One set of sizes, in/<tag>/..., after the other.
    for tag in sorted({name.split('/')[1] for name in arrays if name.startswith('in/') and name.count('/') > 1}):
        if f'in/{tag}/fixed_noise_0' in arrays:
            got |= images(tag, 'recon', run(net, noises_of(arrays, f'{tag}/fixed_noise', count), None, False)[0])
        if f'in/{tag}/rand_noise_0' in arrays:
            noises, image = noises_of(arrays, f'{tag}/rand_noise', count), arrays.get(f'in/{tag}/rand_input_sample')
            image = None if image is None else jnp.asarray(nhwc(image))
            got |= images(tag, 'rand', run(net, noises, image, False)[0])
            if any(name.startswith(f'{tag}/bn_train') for name in outputs(arrays)):
                found, stats = run(net, noises, image, True)
                got[f'{tag}/bn_train_rand'] = nchw(found[-1])
                got |= {f'{tag}/bn_train_state/{k}': v for k, v in named(stats).items()}
    assert_outputs(arrays, got, meta['tolerance'], COUNTERS)


def discriminators(arrays, meta):
    scale = meta['call']['curr_scale']
    model, name = d_config(meta['constructor']), f'block{scale}'
    net, got = networks_of(model, arrays, 'param/', singan.d_block), {}
    params, stats = net['params'][name], net['stats'][name]
    run = jax.jit(lambda x, train: singan.criticise(model, scale, params, stats, x, train), static_argnums=1)
    for i, x in select(arrays, 'in/x_').items():
        x = jnp.asarray(nhwc(x))
        got[f'eval_{i}'] = nchw(run(x, False)[0])
        out, new = run(x, True)
        got[f'train_{i}'] = nchw(out)
        if model.d_norm:
            got |= {f'train_state_{i}/{k}': v for k, v in named({name: new}).items()}
    assert_outputs(arrays, got, meta['tolerance'], COUNTERS)


def gradient_penalties(arrays, meta):
    """Penalties by a norm at every pixel and by one per sample. Parameters whose gradient no file has get none."""
    model, call = d_config(meta['constructor']), meta['call']
    scale, weight = call['curr_scale'], call.get('loss_weight', 0.1)
    name = f'block{scale}'
    net = networks_of(model, arrays, 'param/', singan.d_block)
    real, fake, alpha = (jnp.asarray(nhwc(arrays[f'in/{k}'])) for k in ('real', 'fake', 'alpha'))
    stats, mixed = net['stats'][name], alpha * real + (1 - alpha) * fake

    def total(params, x):
        return jnp.sum(singan.criticise(model, scale, params, stats, x)[0])

    @functools.partial(jax.jit, static_argnums=1)
    def penalty(params, axis):
        def value(params):
            return weight * losses.unit_gradient_penalty(jax.grad(total, argnums=1)(params, mixed), axis)

        return jax.value_and_grad(value)(params)

    got = {'input_gradient': nchw(jax.jit(jax.grad(total, argnums=1))(net['params'][name], mixed))}
    axes = {'pixel': -1, 'HWC': (1, 2, 3)}
    for mode in fields(call.get('modes', axes), {mode: mode for mode in axes}):
        value, grads = penalty(net['params'][name], axes[mode])
        got[f'{mode}/gp_times_{weight}'] = value
        grads = {f'{mode}/grad/{key}': grad for key, grad in named({name: grads}).items()}
        got |= grads
        if any(f'out/{key}' in arrays for key in grads):
            for key, grad in grads.items():
                if f'out/{key}' not in arrays:
                    assert_close(key, grad, np.zeros(grad.shape), {'atol': 1e-9})
    assert_outputs(arrays, got, meta['tolerance'])


def step_functions(model, critic, scale, amp, real, fixed):
    """Losses of one update with given noise, as `singan.build` makes them with drawn noise: mmgen's train mode.

    critic: the configuration with the widths of the critics.
    """
    name = f'block{scale}'

    def run(params, stats, noises):
        buffers = {'stats': stats, 'amp': amp}
        images, stats = singan.generate(model, params, buffers, noises, ratio=0.75, train=True)
        return images[-1], stats

    def d_loss(block, g, g_stats, d_stats, noises, mix):
        fake, g_stats = run(g, g_stats, noises)
        loss, (new, metrics) = singan.d_loss(critic, scale, block, d_stats[name], real, fake, mix)
        return loss, (g_stats, {**d_stats, name: new}, metrics, fake)

    def g_loss(block, g, g_stats, d, d_stats, noises):
        fake, g_stats = run({**g, name: block}, g_stats, noises)
        fake_map, new = singan.criticise(critic, scale, d[name], d_stats[name], fake)
        recon, g_stats = run({**g, name: block}, g_stats, fixed)
        loss, metrics = singan.g_loss(model, fake_map, recon, real)
        return loss, (g_stats, {**d_stats, name: new}, metrics, fake, recon)

    return jax.jit(jax.value_and_grad(d_loss, has_aux=True)), jax.jit(jax.value_and_grad(g_loss, has_aux=True))


def loss_steps(arrays, meta):
    """A step of D and one of G, without the update in between."""
    fields(meta['constructor'], {'generator': anything, 'discriminator': anything})
    scale = meta['call']['curr_scale']
    name, count = f'block{scale}', scale + 1
    rules = {'gan': (1,), 'gp': 'gp_weight', 'recon': 'recon_weight'}
    weights = {k: float(v) for k, v in fields(meta['call'].get('weights'), rules).items()}
    model = g_config(meta['constructor']['generator'], **weights)
    critic = d_config(meta['constructor']['discriminator'], **weights)
    g = networks_of(model, arrays, 'param/generator.', singan.g_block)
    d = networks_of(critic, arrays, 'param/discriminator.', singan.d_block)
    real, mix = (jnp.asarray(nhwc(arrays[f'in/{k}'])) for k in ('real', 'alpha'))
    fixed = noises_of(arrays, 'fixed_noise', count)
    d_step, g_step = step_functions(model, critic, scale, jnp.asarray(arrays['in/noise_weights']), real, fixed)
    (_, (_, d_stats, metrics, fake)), grads = d_step(
        d['params'][name], g['params'], g['stats'], d['stats'], noises_of(arrays, 'd_rand_noise', count), mix
    )
    fake_map, _ = singan.criticise(critic, scale, d['params'][name], d['stats'][name], fake)
    real_map, _ = singan.criticise(critic, scale, d['params'][name], d['stats'][name], real)
    got = {
        'd/fake_img': nchw(fake),
        'd/pred_fake': nchw(fake_map),
        'd/pred_real': nchw(real_map),
        'd/loss_fake': metrics['critic/fake'],
        'd/loss_real': -metrics['critic/real'],
        'd/loss_gp': metrics['loss/gp'],
    }
    got |= {f'd/grad/{k}': v for k, v in named({name: grads}).items()}
    (_, (_, _, metrics, fake, recon)), grads = g_step(
        g['params'][name], g['params'], g['stats'], d['params'], d_stats, noises_of(arrays, 'g_rand_noise', count)
    )
    got |= {
        'g/fake_img': nchw(fake),
        'g/recon_img': nchw(recon),
        'g/loss_adv': metrics['loss/g'],
        'g/loss_recon': metrics['loss/recon'],
    }
    got |= {f'g/grad/{k}': v for k, v in named({name: grads}).items()}
    assert_outputs(arrays, got, meta['tolerance'])


def scheduled(options):
    found = fields(options, {'milestones': 'lr_decay_iter', 'gamma': (0.1,)})
    return {k: v[0] for k, v in found.items()} if len(found.get('lr_decay_iter', (0,))) == 1 else None


def train_loops(arrays, meta):
    """The public training program, step by step, with its random numbers."""
    fields(meta['constructor'], {'generator': anything, 'discriminator': anything})
    cfg, adam = meta['train_cfg'], meta.get('adam', {'betas': [0.5, 0.999], 'eps': 1e-8})
    rules = {'iters_per_scale': 'iters_per_scale', 'disc_steps': 'd_steps', 'generator_steps': 'g_steps'}
    rules |= {'noise_weight_init': 'noise_amp', 'lr_scheduler_args': scheduled}
    rules |= dict.fromkeys(('lr_d', 'lr_g', 'first_fixed_noises_ch'), anything)
    model = g_config(meta['constructor']['generator'], **fields(cfg, rules))
    critic = d_config(meta['constructor']['discriminator'])
    reals = [jnp.asarray(nhwc(arrays[f'in/real_{s}'])) for s in range(len(select(arrays, 'in/real_')))]
    g = networks_of(model, arrays, 'param/generator.', singan.g_block)
    d = networks_of(critic, arrays, 'param/discriminator.', singan.d_block)
    recorded = select(arrays, 'in/draw_')
    draws = iter([jnp.asarray(nhwc(recorded[i])) for i in sorted(recorded)])
    params = {'g': g['params'], 'd': d['params']}
    amp = jnp.zeros(len(reals)).at[0].set(1.0)
    buffers = {'g': {'stats': g['stats'], 'amp': amp}, 'd': d['stats']}
    fixed, logs = [next(draws)], {}
    for scale, real in enumerate(reals):
        name = f'block{scale}'
        if scale:
            assert singan.widths(model, scale) == singan.widths(critic, scale)  # which are copied, G's tell of both
            fixed.append(jnp.zeros((1, *model.noise_shape(scale, real.shape[1:3]))))
            params, buffers = singan.grow(model, scale, params, buffers)
        optimizers = {n: singan.adam(model, cfg[f'lr_{n}'], steps, *adam['betas'], adam['eps'])
                      for n, steps in (('g', model.g_steps), ('d', model.d_steps))}  # fmt: skip
        opt = {n: optimizers[n].init(params[n][name]) for n in ('g', 'd')}
        d_step, g_step = step_functions(model, critic, scale, buffers['g']['amp'], real, fixed)

        def update(net, grads, name=name, opt=opt, optimizers=optimizers, params=params):
            deltas, opt[net] = optimizers[net].update(grads, opt[net])
            params[net] = {**params[net], name: optax.apply_updates(params[net][name], deltas)}

        for iteration in range(model.iters_per_scale):
            for _ in range(model.d_steps):
                noises = [next(draws) for _ in range(scale + 1)]
                (_, (buffers['g']['stats'], buffers['d'], metrics, _)), grads = d_step(
                    params['d'][name], params['g'], buffers['g']['stats'], buffers['d'], noises, next(draws)
                )
                update('d', grads)
            row = dict(metrics)
            for _ in range(model.g_steps):
                noises = [next(draws) for _ in range(scale + 1)]
                (_, (buffers['g']['stats'], buffers['d'], metrics, _, _)), grads = g_step(
                    params['g'][name], params['g'], buffers['g']['stats'], params['d'], buffers['d'], noises
                )
                update('g', grads)
            row |= metrics
            values = {
                'loss_disc_fake_g': row['loss/g'],
                'loss_mse': row['loss/recon'],
                'loss': row['loss/d'],
                'loss_disc_fake': row['critic/fake'],
                'loss_disc_real': -row['critic/real'],
                'loss_gp': row['loss/gp'],
                'curr_stage': scale,
            }
            for key, value in values.items():
                logs.setdefault(f'log/{key}', []).append(float(value))
            if iteration == 0 and scale + 1 < len(reals):
                images, buffers['g']['stats'] = singan.generate(
                    model, params['g'], buffers['g'], fixed, ratio=0.75, train=True
                )
                enlarged = ops.resize_nearest(images[-1], reals[scale + 1].shape[1:3])
                next_amp = singan.amplitude(model, enlarged, reals[scale + 1])
                buffers['g']['amp'] = buffers['g']['amp'].at[scale + 1].set(next_amp)
    assert next(draws, None) is None
    got = logs | {'noise_weights': buffers['g']['amp']}
    for net, tree, stats in (
        ('generator', params['g'], buffers['g']['stats']),
        ('discriminator', params['d'], buffers['d']),
    ):
        got |= {f'final/{net}.{k}': v for k, v in (named(tree) | named(stats)).items()}
    kinds = {'log': 'logs', 'noise_weights': 'noise_weights', 'final': 'params'}
    assert_outputs(arrays, got, lambda name: meta['tolerance'][kinds[name.split('/')[0]]], COUNTERS)


def pyramid_of(row, kind):
    """The configuration of a row of a table, and what follows from it for the row."""
    model = singan.Config(
        min_size=row['min_size'], max_size=row['max_size'], scale_factor=row['scale_factor_init'], rules=kind
    )
    found = singan_pyramid.pyramid_sizes(row['H'], row['W'], model)
    return model, {
        'sizes': [list(size) for size in found.sizes],
        'scale_factor': found.ratio,
        'stop_scale': len(found.sizes) - 1,
    }


def pyramids(arrays, meta):
    """Sizes and ratios for a table of images, and the pyramids of images."""
    kinds, got = ('original', 'mmgen'), {}

    def compare(row, kind, expected):
        _, found = pyramid_of(row, kind)
        for name in expected.keys() & found.keys():
            if name == 'scale_factor':
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
            else:
                assert found[name] == expected[name], (kind, row, found)

    for row in meta.get('size_table', []):
        for kind in kinds:
            if kind in row:
                compare(row, kind, row[kind])
    for kind in kinds:
        if kind in meta:
            model, _ = pyramid_of(meta[kind], kind)
            compare(meta[kind], kind, meta[kind])
            reals, _ = singan_pyramid.make_pyramid(arrays[f'in/{kind}_image_u8'], model)
            for s, real in enumerate(reals):
                if kind == 'original':
                    got[f'original_real_{s}'] = nchw(real)[None]
                else:
                    got[f'mmgen_real_u8_{s}'] = (real + 1) * 127.5
    assert_outputs(arrays, got, lambda name: meta['tolerance'][name.partition('_')[0]])


def antialiased_resizes(arrays, meta):
    """By a factor or to a shape, of levels without any rounding; of tensors by way of truncated levels."""
    got, tensor = {}, {}
    for case in meta['cases']:
        fields(case, dict.fromkeys(('image', 'idx', 'scale', 'hw', 'out_hw'), anything) | {'op': ('scale', 'to_shape')})
        image = arrays[f'in/image_u8_{case["image"]}']
        scaled = case['op'] == 'scale'
        to = {'factor': case['scale']} if scaled else {'size': tuple(case['hw'])}
        name = f'{{}}_{case["image"]}_{case["idx"]}' if scaled else f'shape_{{}}_{case["image"]}_{case["idx"]}'
        got[name.format('raw')] = singan_pyramid.resize_pixels(image, **to)
        x = jnp.asarray((image.astype(np.float32) / 255 - 0.5) * 2)[None]
        tensor[name.format('tensor')] = nchw(singan_pyramid.resize_quantised(x, **to))
    if 'in/tensor_outofrange' in arrays:
        x = jnp.asarray(nhwc(arrays['in/tensor_outofrange']))
        told = re.search(r'scale (\d+)/(\d+)', meta.get('outofrange', 'scale 4/3'))
        tensor['tensor_outofrange_up'] = nchw(singan_pyramid.resize_quantised(x, factor=int(told[1]) / int(told[2])))
        got['tensor_outofrange_u8'] = singan_pyramid.quantise(x)[0]

    def rules_of(name):
        return {'exact': True} if name.endswith('u8') else meta['tolerance']['tensor' if name in tensor else 'raw']

    assert_outputs(arrays, got | tensor, rules_of)


def interpolations(arrays, meta):
    resizes = {
        'bicubic_ac': ops.resize_bicubic_align_corners,
        'bilinear_ac': ops.resize_align_corners,
        'nearest': ops.resize_nearest,
    }
    fields(meta['ops'], dict.fromkeys(resizes, anything))
    for case in meta['cases']:
        fields(case, dict.fromkeys(('idx', 'shape', 'out'), anything))
    got = {
        f'{name}_{case["idx"]}': nchw(
            resizes[name](jnp.asarray(nhwc(arrays[f'in/x_{case["idx"]}'])), tuple(case['out']))
        )
        for name in meta['ops']
        for case in meta['cases']
    }
    assert_outputs(arrays, got, meta['tolerance'])


def original_sampling(arrays, meta):
    """The loop of the original program: every scale, and each block alone on the input that the file records.

    Between scales images pass through 8 bits, where a rounding may flip a level, so that only most pixels must agree.
    """
    fields(
        meta['call'],
        dict.fromkeys(('scale_v', 'scale_h', 'gen_start_scale', 'inject_scale', 'scale_factor', 'sizes'), anything),
    )
    call, tolerance = meta['call'], meta['tolerance']
    rules = {
        'nfc': 'base_channels',
        'min_nfc': 'min_feat_channels',
        'num_layer': 'num_layers',
        'ker_size': 'kernel_size',
    }
    model = singan.Config(**fields(meta['constructor'], rules))
    arrays = {k.replace('param/Gs.', 'param/blocks.'): v for k, v in arrays.items()}
    net = networks_of(model, singan_rules.folded(arrays), 'param/', singan.g_block)
    first = call.get('inject_scale') or 0
    margin = slice(model.margin, -model.margin)
    noises = [jnp.asarray(nhwc(arrays[f'in/z_{s}'])) for s in range(first, len(call['sizes']))]
    if call.get('gen_start_scale'):
        rest = [(1, *call['sizes'][s], model.img_channels) for s in range(1, call['gen_start_scale'])]
        fixed = [jnp.asarray(nhwc(arrays['in/z_rec_0_padded'])[:, margin, margin]), *map(jnp.zeros, rest)]
        noises[: len(fixed)] = fixed
    buffers = {'stats': net['stats'], 'amp': jnp.asarray(arrays['in/noise_amp'])}
    image = jnp.asarray(nhwc(arrays['in/in_s']))
    images, _ = singan.generate(model, net['params'], buffers, noises, image, ratio=call['scale_factor'], first=first)
    got = {f'I_{s}': nchw(image) for s, image in enumerate(images, first)}
    for name in outputs(arrays) & got.keys():
        off = np.abs(got[name] - arrays[f'out/{name}'])
        assert np.mean(off <= tolerance['atol']) >= tolerance['fraction_within'], (
            name,
            np.mean(off <= tolerance['atol']),
        )
        assert off.max() <= tolerance['hard_atol'], (name, off.max())
    for s, noise in enumerate(noises, first):
        if f'out/prev_input_{s}' in arrays:
            padded = jnp.asarray(nhwc(arrays[f'out/prev_input_{s}']))
            v = buffers['amp'][s] * jnp.pad(noise, ((0, 0), (model.margin,) * 2, (model.margin,) * 2, (0, 0))) + padded
            params, stats = (net[part][f'block{s}'] for part in ('params', 'stats'))
            out, _ = singan.run_block(model, s, params, stats, v, padded[:, margin, margin], False)
            got[f'I_{s}'] = nchw(out)
    # The inputs that the file records are not compared: they are those with which its images are made again.
    assert_outputs(arrays, got, {'atol': 2e-5}, [r'prev_input_\d+'])


def applications(arrays, meta):
    """What editing is made of: a random walk, soft masks, a distance of features, the steps of super-resolution."""
    tolerance, got = meta['tolerance'], {}
    if 'in/walk_z_rec' in arrays:
        rules = {'alpha': 'alpha', 'beta': 'beta', 'frames': anything, 'init': anything}
        z, first, steps = (jnp.asarray(arrays[f'in/walk_{k}']) for k in ('z_rec', 'first_noise', 'noise'))
        walked = editing.walk(z[0], first[0], steps[:, 0], **fields(meta['walk'], rules))
        got['walk_z'] = walked[:, None]
    if 'in/mask' in arrays:
        for kind, radius in (('harmonization', editing.HARMONISE_RADIUS), ('editing', editing.EDIT_RADIUS)):
            got[f'mask_{kind}'] = editing.soft_mask(arrays['in/mask'], radius)
    if 'in/sifid_features_real' in arrays:
        maps = (arrays[f'in/sifid_features_{kind}'] for kind in ('real', 'fake'))
        got['sifid'] = frechet_distance(*(fit(x, ddof=1) for x in maps))
    assert_outputs(arrays, got, lambda name: tolerance[name.partition('_')[0]])
    for row in meta.get('sr_schedule', []):
        repeats, step = singan_pyramid.sr_schedule(row['sr_factor'])
        assert repeats == row['iterations']
        np.testing.assert_allclose(step, row['step'], rtol=1e-12)


CHECKS = {
    ('singan', 'applications_misc'): applications,
    ('singan', 'disc_'): discriminators,
    ('singan', 'gen_'): generators,
    ('singan', 'gp_disc'): gradient_penalties,
    ('singan', 'interpolation_ops'): interpolations,
    ('singan', 'loss_step'): loss_steps,
    ('singan', 'orig_'): original_sampling,
    ('singan', 'pyramid'): pyramids,
    ('singan', 'resize_'): antialiased_resizes,
    ('singan', 'train_loop'): train_loops,
}
