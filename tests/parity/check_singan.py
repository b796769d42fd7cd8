"""Comparisons with the golden numbers of SinGAN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compare import assert_close, assert_outputs, nchw, nhwc, outputs

from pegan_jax import editing, losses, ops
from pegan_jax.interop import singan as singan_rules
from pegan_jax.metrics.distribution import frechet_distance
from pegan_jax.models import singan, singan_pyramid


def _config(generator=None, discriminator=None, **changes):
    """The configuration that constructor arguments of the public program mean."""
    g, d = dict(generator or {}), dict(discriminator or {})
    fields = {
        'base_channels': g.get('base_channels', d.get('base_channels', 32)),
        'min_feat_channels': g.get('min_feat_channels', d.get('min_feat_channels', 32)),
        'kernel_size': g.get('kernel_size', 3),
        'num_layers': g.get('num_layers', 5),
        'd_norm': 'norm_cfg' not in d,
        'rules': 'mmgen',
    }
    mode, layer = g.get('padding_mode', 'zero'), g.get('padding', 0) > 0
    if g.get('interp_pad'):
        fields['padding'] = 'interp' if g.get('noise_with_pad') else 'interp-noise'
    elif g.get('noise_with_pad'):
        fields['padding'] = 'noise'
    else:
        fields['padding'] = f'{mode}-layer' if layer else mode
    if 'positional_encoding' in g:
        encoding = g['positional_encoding']
        fields['encoding'] = encoding['type'].lower()[:3]
        if fields['encoding'] == 'spe':
            fields['spe_dim'] = encoding['embedding_dim']
    return singan.Config(**(fields | changes))


def _networks(model, arrays, prefix, scales, block):
    """{'params', 'stats'} of blocks 0 .. scales - 1 from the state dictionary under `prefix`, colours in its order."""
    out = singan_rules.networks(model, arrays, prefix, scales, block)
    for params in out['params'].values():  # back from the order of this library
        head, tail = params['head']['conv'], params['tail']['conv']
        if head['kernel'].shape[2] == 3:
            head['kernel'] = head['kernel'][:, :, ::-1]
        tail['kernel'], tail['bias'] = tail['kernel'][..., ::-1], tail['bias'][::-1]
    return jax.tree.map(jnp.asarray, out)


def _named(tree):
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


def _noises(arrays, tag, count):
    return [jnp.asarray(nhwc(arrays[f'in/{tag}_{s}'])) for s in range(count)]


def generators(arrays, meta):
    count = meta['call']['curr_scale'] + 1
    model = _config(meta['constructor'])
    net = _networks(model, arrays, 'param/', count, singan.g_block)
    got = {}

    @functools.partial(jax.jit, static_argnums=3)
    def run(net, noises, image, train):
        buffers = {'stats': net['stats'], 'amp': jnp.asarray(arrays['in/noise_weights'])}
        return singan.generate(model, net['params'], buffers, noises, image, ratio=0.75, train=train)

    for tag in ('train', 'extrap'):
        if f'in/{tag}/fixed_noise_0' not in arrays:
            continue
        for kind in ('fixed', 'rand'):
            noises = _noises(arrays, f'{tag}/{kind}_noise', count)
            image = None if kind == 'fixed' else jnp.asarray(nhwc(arrays[f'in/{tag}/rand_input_sample']))
            images, _ = run(net, noises, image, False)
            name = 'recon' if kind == 'fixed' else 'rand'
            got[f'{tag}/{name}'] = nchw(images[-1])
            got |= {f'{tag}/{name}_prev_{s}': nchw(images[s]) for s in range(count - 1)}
        key = next((k for k in outputs(arrays) if k.startswith(f'{tag}/bn_train_rand')), None)
        if key is not None:
            images, stats = run(net, noises, image, True)
            got[f'{tag}/bn_train_rand'] = nchw(images[-1])
            got |= {f'{tag}/bn_train_state/{k}': v for k, v in _named(stats).items()}
    counters = {k for k in outputs(arrays) if k.endswith('num_batches_tracked')}
    arrays = {k: v for k, v in arrays.items() if k.removeprefix('out/') not in counters}
    assert_outputs(arrays, got, meta['tolerance'])


def _without_counters(arrays):
    return {k: v for k, v in arrays.items() if not (k.startswith('out/') and k.endswith('num_batches_tracked'))}


def discriminators(arrays, meta):
    scale = meta['call']['curr_scale']
    model = _config(discriminator=meta['constructor'])
    net = _networks(model, arrays, 'param/', meta['constructor']['num_scales'] + 1, singan.d_block)
    params, stats = net['params'][f'block{scale}'], net['stats'][f'block{scale}']
    run = jax.jit(lambda x, train: singan.criticise(model, scale, params, stats, x, train), static_argnums=1)
    got = {}
    for i in range(2):
        x = jnp.asarray(nhwc(arrays[f'in/x_{i}']))
        got[f'eval_{i}'] = nchw(run(x, False)[0])
        out, new = run(x, True)
        got[f'train_{i}'] = nchw(out)
        if model.d_norm:
            got |= {f'train_state_{i}/{k}': v for k, v in _named({f'block{scale}': new}).items()}
    assert_outputs(_without_counters(arrays), got, meta['tolerance'])


def gradient_penalties(arrays, meta):
    model, scale = _config(discriminator=meta['constructor']), meta['call']['curr_scale']
    name = f'block{scale}'
    net = _networks(model, arrays, 'param/', meta['constructor']['num_scales'] + 1, singan.d_block)
    real, fake, alpha = (jnp.asarray(nhwc(arrays[f'in/{k}'])) for k in ('real', 'fake', 'alpha'))
    stats, mixed = net['stats'][name], alpha * real + (1 - alpha) * fake

    def total(params, x):
        return jnp.sum(singan.criticise(model, scale, params, stats, x)[0])

    @functools.partial(jax.jit, static_argnums=1)
    def penalty(params, axis):
        def value(params):
            return 0.1 * losses.unit_gradient_penalty(jax.grad(total, argnums=1)(params, mixed), axis)

        return jax.value_and_grad(value)(params)

    got = {'input_gradient': nchw(jax.jit(jax.grad(total, argnums=1))(net['params'][name], mixed))}
    for mode, axis in (('pixel', -1), ('HWC', (1, 2, 3))):
        value, grads = penalty(net['params'][name], axis)
        got[f'{mode}/gp_times_0.1'] = value
        for key, grad in _named({name: grads}).items():
            if f'out/{mode}/grad/{key}' in arrays:
                got[f'{mode}/grad/{key}'] = grad
            else:  # without a key in the file, it is zero
                assert_close(key, grad, np.zeros(grad.shape), {'atol': 1e-9})
    assert_outputs(arrays, got, meta['tolerance'])


def _step_functions(model, critic, scale, amp, real, fixed):
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
    scale = meta['call']['curr_scale']
    name, count = f'block{scale}', scale + 1
    model, critic = _config(meta['constructor']['generator']), _config(None, meta['constructor']['discriminator'])
    g = _networks(model, arrays, 'param/generator.', count, singan.g_block)
    d = _networks(critic, arrays, 'param/discriminator.', count, singan.d_block)
    real, mix = (jnp.asarray(nhwc(arrays[f'in/{k}'])) for k in ('real', 'alpha'))
    fixed = _noises(arrays, 'fixed_noise', count)
    d_step, g_step = _step_functions(model, critic, scale, jnp.asarray(arrays['in/noise_weights']), real, fixed)
    (_, (_, d_stats, metrics, fake)), grads = d_step(
        d['params'][name], g['params'], g['stats'], d['stats'], _noises(arrays, 'd_rand_noise', count), mix
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
    got |= {f'd/grad/{k}': v for k, v in _named({name: grads}).items()}
    (_, (_, _, metrics, fake, recon)), grads = g_step(
        g['params'][name], g['params'], g['stats'], d['params'], d_stats, _noises(arrays, 'g_rand_noise', count)
    )
    got |= {
        'g/fake_img': nchw(fake),
        'g/recon_img': nchw(recon),
        'g/loss_adv': metrics['loss/g'],
        'g/loss_recon': metrics['loss/recon'],
    }
    got |= {f'g/grad/{k}': v for k, v in _named({name: grads}).items()}
    assert_outputs(arrays, got, meta['tolerance'])


def train_loops(arrays, meta):
    """The public training program, step by step, with its random numbers."""
    cfg = meta['train_cfg']
    model = _config(
        meta['constructor']['generator'],
        meta['constructor']['discriminator'],
        iters_per_scale=cfg['iters_per_scale'],
        d_steps=cfg['disc_steps'],
        g_steps=cfg['generator_steps'],
        lr_decay_iter=cfg['lr_scheduler_args']['milestones'][0],
    )
    critic = _config(None, meta['constructor']['discriminator'])
    assert singan.widths(model, 1) == singan.widths(critic, 1)
    g = _networks(model, arrays, 'param/generator.', 2, singan.g_block)
    d = _networks(critic, arrays, 'param/discriminator.', 2, singan.d_block)
    draws = iter([jnp.asarray(nhwc(arrays[f'in/draw_{i:03d}'])) for i in range(len(meta['draw_kinds']))])
    params = {'g': g['params'], 'd': d['params']}
    buffers = {'g': {'stats': g['stats'], 'amp': jnp.array([1.0, 0.0])}, 'd': d['stats']}
    fixed, logs = [next(draws)], {}
    reals = [jnp.asarray(nhwc(arrays[f'in/real_{s}'])) for s in range(2)]
    for scale, real in enumerate(reals):
        name = f'block{scale}'
        if scale:
            fixed.append(jnp.zeros((1, *model.noise_shape(scale, real.shape[1:3]))))
            params, buffers = singan.grow(model, scale, params, buffers)
        optimizers = {n: singan.adam(model, cfg[f'lr_{n}'], steps, 0.5, 0.999, 1e-8)
                      for n, steps in (('g', model.g_steps), ('d', model.d_steps))}  # fmt: skip
        opt = {n: optimizers[n].init(params[n][name]) for n in ('g', 'd')}
        d_step, g_step = _step_functions(model, critic, scale, buffers['g']['amp'], real, fixed)

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
                logs.setdefault(key, []).append(float(value))
            if scale == 0 and iteration == 0:
                images, buffers['g']['stats'] = singan.generate(
                    model, params['g'], buffers['g'], fixed, ratio=0.75, train=True
                )
                enlarged = ops.resize_nearest(images[-1], reals[1].shape[1:3])
                amp = singan.amplitude(model, enlarged, reals[1])
                buffers['g']['amp'] = buffers['g']['amp'].at[1].set(amp)
    assert next(draws, None) is None
    for key, values in logs.items():
        assert_close(key, values, arrays[f'out/log/{key}'], meta['tolerance']['logs'])
    assert_close('amp', buffers['g']['amp'], arrays['out/noise_weights'], meta['tolerance']['noise_weights'])
    final = {
        f'{net}.{k}': v
        for net, tree in (('generator', 'g'), ('discriminator', 'd'))
        for k, v in (_named(params[tree]) | _named(buffers['g']['stats'] if tree == 'g' else buffers['d'])).items()
    }
    wanted = {k.removeprefix('out/final/') for k in _without_counters(arrays) if k.startswith('out/final/')}
    assert final.keys() == wanted, final.keys() ^ wanted
    for key, value in final.items():
        assert_close(key, value, arrays[f'out/final/{key}'], meta['tolerance']['params'])


def pyramids(arrays, meta):
    for row in meta['size_table']:
        for kind in ('original', 'mmgen'):
            model = singan.Config(
                min_size=row['min_size'], max_size=row['max_size'], scale_factor=row['scale_factor_init'], rules=kind
            )
            found = singan_pyramid.pyramid_sizes(row['H'], row['W'], model)
            assert [list(s) for s in found.sizes] == row[kind]['sizes'], (kind, row, found)
            np.testing.assert_allclose(found.ratio, row[kind]['scale_factor'], rtol=1e-12)
    for kind in ('original', 'mmgen'):
        row = meta[kind]
        model = singan.Config(
            min_size=row['min_size'], max_size=row['max_size'], scale_factor=row['scale_factor_init'], rules=kind
        )
        reals, _ = singan_pyramid.make_pyramid(arrays[f'in/{kind}_image_u8'], model)
        for s, real in enumerate(reals):
            if kind == 'original':
                assert_close(s, nchw(real)[None], arrays[f'out/original_real_{s}'], {'atol': 2e-5})
            else:
                assert_close(s, (real + 1) * 127.5, arrays[f'out/mmgen_real_u8_{s}'], {'atol': 1})
        assert len(reals) == row['stop_scale'] + 1


def antialiased_resizes(arrays, meta):
    got, tolerance = {}, meta['tolerance']
    raw = {'rtol': tolerance['raw']['rtol'], 'atol': tolerance['raw']['atol']}
    for case in meta['cases']:
        i, j = case['image'], case['idx']
        image = arrays[f'in/image_u8_{i}']
        to = {'factor': case['scale']} if case['op'] == 'scale' else {'size': tuple(case['hw'])}
        name = f'{{}}_{i}_{j}' if case['op'] == 'scale' else f'shape_{{}}_{i}_{j}'
        assert_close(name, singan_pyramid.resize_pixels(image, **to), arrays[f'out/{name.format("raw")}'], raw)
        x = jnp.asarray((image.astype(np.float32) / 255 - 0.5) * 2)[None]
        if case['op'] == 'scale':
            got[name.format('tensor')] = nchw(singan_pyramid.resize_quantised(x, **to))
    x = jnp.asarray(nhwc(arrays['in/tensor_outofrange']))
    got['tensor_outofrange_up'] = nchw(singan_pyramid.resize_quantised(x, factor=4 / 3))
    assert_close('u8', singan_pyramid.quantise(x)[0], arrays['out/tensor_outofrange_u8'], {'atol': 0})
    kept = {k: v for k, v in arrays.items() if not (k.startswith('out/') and ('raw' in k or k.endswith('u8')))}
    assert_outputs(kept, got, tolerance['tensor'])


def interpolations(arrays, meta):
    resizes = {
        'bicubic_ac': ops.resize_bicubic_align_corners,
        'bilinear_ac': ops.resize_align_corners,
        'nearest': ops.resize_nearest,
    }
    assert resizes.keys() == meta['ops'].keys()
    got = {
        f'{name}_{case["idx"]}': nchw(resize(jnp.asarray(nhwc(arrays[f'in/x_{case["idx"]}'])), tuple(case['out'])))
        for name, resize in resizes.items()
        for case in meta['cases']
    }
    assert_outputs(arrays, got, meta['tolerance'])


def original_sampling(arrays, meta):
    call = meta['call']
    constructor = meta['constructor']
    model = singan.Config(
        base_channels=constructor['nfc'], min_feat_channels=constructor['min_nfc'],
        num_layers=constructor['num_layer'], kernel_size=constructor['ker_size'],
    )  # fmt: skip
    arrays = {k.replace('param/Gs.', 'param/blocks.'): v for k, v in arrays.items()}
    net = _networks(model, singan_rules.folded(arrays), 'param/', len(call['sizes']), singan.g_block)
    first = call['inject_scale'] or 0
    margin = slice(model.margin, -model.margin)
    noises = [jnp.asarray(nhwc(arrays[f'in/z_{s}'])) for s in range(first, len(call['sizes']))]
    if call['gen_start_scale']:
        rest = [(1, *call['sizes'][s], 3) for s in range(1, call['gen_start_scale'])]
        fixed = [jnp.asarray(nhwc(arrays['in/z_rec_0_padded'])[:, margin, margin]), *map(jnp.zeros, rest)]
        noises[: len(fixed)] = fixed
    buffers = {'stats': net['stats'], 'amp': jnp.asarray(arrays['in/noise_amp'])}
    image = jnp.asarray(nhwc(arrays['in/in_s']))
    images, _ = singan.generate(model, net['params'], buffers, noises, image, ratio=call['scale_factor'], first=first)
    tolerance = meta['tolerance']
    for s, got in enumerate(images, first):
        off = np.abs(nchw(got) - arrays[f'out/I_{s}'])
        assert np.mean(off <= tolerance['atol']) >= tolerance['fraction_within'], (s, np.mean(off <= tolerance['atol']))
        assert off.max() <= tolerance['hard_atol'], (s, off.max())
    # Each block alone, on the input that the file records: no quantisation in between.
    for s, noise in enumerate(noises, first):
        padded = jnp.asarray(nhwc(arrays[f'out/prev_input_{s}']))
        v = buffers['amp'][s] * jnp.pad(noise, ((0, 0), (model.margin,) * 2, (model.margin,) * 2, (0, 0))) + padded
        name = f'block{s}'
        out, _ = singan.run_block(
            model, s, net['params'][name], net['stats'][name], v, padded[:, margin, margin], False
        )
        assert_close(name, nchw(out), arrays[f'out/I_{s}'], {'atol': 2e-5})


def applications(arrays, meta):
    tolerance = meta['tolerance']
    walk, z, first, steps = meta['walk'], *(arrays[f'in/walk_{k}'] for k in ('z_rec', 'first_noise', 'noise'))
    got = editing.walk(
        jnp.asarray(z[0]), jnp.asarray(first[0]), jnp.asarray(steps[:, 0]), alpha=walk['alpha'], beta=walk['beta']
    )
    assert_close('walk', got[:, None], arrays['out/walk_z'], tolerance['walk'])
    for kind, radius in (('harmonization', editing.HARMONISE_RADIUS), ('editing', editing.EDIT_RADIUS)):
        assert_close(kind, editing.soft_mask(arrays['in/mask'], radius), arrays[f'out/mask_{kind}'], tolerance['mask'])
    distance = frechet_distance(arrays['in/sifid_features_real'], arrays['in/sifid_features_fake'])
    assert_close('sifid', distance, arrays['out/sifid'], tolerance['sifid'])
    for row in meta['sr_schedule']:
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
