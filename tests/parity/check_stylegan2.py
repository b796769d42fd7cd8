"""StyleGAN2, its discriminator, and the training that it shares with StyleGAN3, against golden numbers."""

import functools
import re

import check_stylegan3
import jax
import jax.numpy as jnp
import numpy as np
from checkpoints import conv, dense, filled, flat, flat_nhwc, flattened_dense, paths, rename
from compare import anything, assert_outputs, fields, nhwc, outputs, select, watched

from pegan_jax import losses
from pegan_jax.config import Config, DataConfig, TrainConfig, system_module
from pegan_jax.layers import MappingNetwork, minibatch_std, truncate
from pegan_jax.models import stylegan2, stylegan3, stylegan_training
from pegan_jax.models.discriminator import Discriminator
from pegan_jax.models.stylegan2 import Generator
from pegan_jax.models.stylegan_training import Latents, Lens

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


MAPPING_OPTIONS = {name: name for name in ('num_layers', 'embed_features', 'layer_features', 'activation')}
MAPPING_OPTIONS |= {name: name for name in ('w_dim', 'num_ws', 'lr_multiplier', 'w_avg_beta')}
CALL_OPTIONS = {'truncation_psi': 'psi', 'truncation_cutoff': 'cutoff', 'update_emas': 'update_emas', 'out': anything}


def mapping(arrays, meta):
    """Every call on the same variables; the mean of w is that after the last call that updates it."""
    kwargs, default = meta['kwargs'], {'sg2': 8, 'sg3': 2}[meta['cls'].split('.')[0]]
    chosen = fields(kwargs, MAPPING_OPTIONS | {'z_dim': anything, 'c_dim': anything})
    module = MappingNetwork(**{'num_layers': default} | chosen)
    inputs = arrays['in/z'] if kwargs.get('z_dim') else None, arrays['in/c'] if kwargs.get('c_dim') else None
    variables = filled(arrays, MAPPING_RULES, jax.eval_shape(module.init, jax.random.key(0), *inputs))
    got = {}
    for call in meta['calls']:
        options = fields(call, CALL_OPTIONS)
        updates = options.pop('update_emas', False)
        w, after = module.apply(variables, *inputs, update_emas=updates, mutable=['buffers'])
        got[call['out']] = truncate(w, after['buffers']['w_avg'], **options) if options else w
        if updates:
            got['w_avg_after_update'] = after['buffers']['w_avg']
    assert_outputs(arrays, got, meta['tolerance'])


# Discriminator --------------------------------------------------------------------------------------------

LRELU = {'activation': ('lrelu',)}
D_OPTIONS = {
    'architecture': 'architecture',
    'cmap_dim': 'cmap_dim',
    'conv_clamp': 'conv_clamp',
    'num_fp16_res': anything,  # these numbers have 32 bits
    'block_kwargs': lambda options: fields(
        options,
        LRELU
        | {'resample_filter': 'resample_filter', 'freeze_layers': 'freeze_layers', 'fp16_channels_last': anything},
    ),
    'mapping_kwargs': lambda options: fields(options, LRELU | {'num_layers': 'mapping_layers'}),
    'epilogue_kwargs': lambda options: fields(
        options,
        LRELU | {'mbstd_group_size': 'mbstd_group_size', 'mbstd_num_channels': 'mbstd_num_channels'},
    ),
} | dict.fromkeys(('c_dim', 'img_resolution', 'img_channels', 'channel_base', 'channel_max'), anything)


def discriminator(arrays, meta):
    """Logits, their gradient and its square, what the blocks put out, and the gradient of that square's mean."""
    kwargs = meta['kwargs']
    module = Discriminator(tuple(widths(kwargs)[::-1]), **{'conv_clamp': 256.0} | fields(kwargs, D_OPTIONS))
    images, c = nhwc(arrays['in/img']), arrays['in/c'] if kwargs.get('c_dim') else None
    variables = filled(arrays, D_RULES, jax.eval_shape(module.init, jax.random.key(0), images, c))

    def score(params, images):
        return module.apply({'params': params, 'buffers': variables['buffers']}, images, c)

    @jax.jit
    def everything(params):
        logits, seen = watched(lambda: module.apply(variables, images, c))
        grad = jax.grad(lambda x: jnp.sum(score(params, x)))(images)
        second = jax.grad(lambda p: losses.r1_penalty(functools.partial(score, p), images))(params)
        return logits, seen, grad, second

    logits, seen, grad, second = everything(variables['params'])
    got = {'logits': logits[:, None], 'grad_img': grad, 'r1_penalty': jnp.sum(grad**2, axis=(1, 2, 3))}
    for name in seen:
        if re.fullmatch(r'b\d+', name) and name != 'b4':
            x, rgb = seen[name][1]
            got |= {f'block/{name}_x': x} | ({} if rgb is None else {f'block/{name}_img': rgb})
    if 'mapping' in seen:
        got['cmap'] = seen['mapping'][1]
    if module.mbstd_num_channels:
        x = seen['b8'][1][0]  # also for 'skip', where the files leave out what fromrgb adds
        got['mbstd_out'] = minibatch_std(x, module.mbstd_group_size, module.mbstd_num_channels)[:, 0, 0, x.shape[3] :]
    got |= {f'grad_meanr1/{path}': value for path, value in paths(second).items()}
    wanted = rename(select(arrays, 'out/grad_meanr1/'), D_RULES)
    rest = {k: v for k, v in flat_nhwc(arrays).items() if 'grad_meanr1' not in k}
    golden = rest | {f'out/grad_meanr1/{path}': want for path, want in wanted.items()}
    assert_outputs(golden, got, meta['tolerance'])


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
G_MAPPING_OPTIONS = LRELU | {'num_layers': 'mapping_layers', 'lr_multiplier': 'lr_multiplier'}
G_MAPPING_OPTIONS |= {'w_avg_beta': 'w_avg_beta', 'embed_features': (None,), 'layer_features': (None,)}
G_OPTIONS = LRELU | {
    name: name for name in ('w_dim', 'architecture', 'img_channels', 'use_noise', 'conv_clamp', 'resample_filter')
}
G_OPTIONS |= {'mapping_kwargs': lambda options: fields(options, G_MAPPING_OPTIONS)}
# The last three change no number in 32 bits.
UNUSED = ('z_dim', 'c_dim', 'img_resolution', 'channel_base', 'channel_max')
UNUSED += ('num_fp16_res', 'fused_modconv_default', 'fp16_channels_last')
G_OPTIONS |= dict.fromkeys(UNUSED, anything)


def generator(arrays, meta):
    """Images with and without noise, truncated (by 0.5 if the file does not say) and mixed; what the blocks put out."""
    kwargs = meta['kwargs']
    module = Generator(tuple(widths(kwargs)), **{'conv_clamp': 256.0} | fields(kwargs, G_OPTIONS))
    z, c = arrays['in/z'], arrays['in/c'] if kwargs.get('c_dim') else None
    variables = filled(arrays, G_RULES, jax.eval_shape(module.init, jax.random.key(0), z, c))
    assert module.num_ws == meta.get('num_ws', module.num_ws)
    map_z = functools.partial(module.apply, variables, z, c, method='map')
    told = meta.get('trunc', {})

    @jax.jit
    def everything(mixed):
        synthesise = functools.partial(module.apply, variables, method='synthesise')
        ws, w_avg = map_z(), variables['buffers'].get('mapping', {}).get('w_avg')
        got = {'ws': ws, 'img_noise_const': synthesise(ws), 'img_noise_none': synthesise(ws, 'none')}
        for name in outputs(arrays):
            if (found := re.fullmatch(r'img_trunc(?:_([\d.]+))?(?:_cut(\d+))?', name)) is not None:
                psi = float(found[1] or told.get('truncation_psi', 0.5))
                cutoff = int(found[2]) if found[2] else told.get('truncation_cutoff')
                got[name] = synthesise(truncate(ws, w_avg, psi, cutoff))
        if mixed is None:
            return got, {}
        got['img_ws_mixed'], seen = watched(lambda: synthesise(mixed))
        return got, {name: out for name, (_, out) in seen.items()}

    got, seen = everything(arrays.get('in/ws_mixed'))
    got['img_noise_const_nonfused'] = got['img_noise_const']
    for name, out in seen.items():
        if (block := re.fullmatch(r'synthesis/(b\d+)', name)) is not None:
            x, rgb = out
            got |= {f'block/{block[1]}_x': x} | ({} if rgb is None else {f'block/{block[1]}_img': rgb})
    assert_outputs(flat_nhwc(arrays), got, meta['tolerance'])


# Losses ---------------------------------------------------------------------------------------------------

MODELS = {
    'stylegan2': (stylegan2.generator, stylegan2.synthesise),
    'stylegan3': (stylegan3.Generator, stylegan3.synthesise),
}
SHARED = {k: k for k in ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'channel_base', 'channel_max', 'conv_clamp')}
RUN_G = {
    'stylegan2': SHARED
    | LRELU
    | {
        'img_channels': 'img_channels',
        'architecture': 'architecture',
        'use_noise': lambda on: None if on else {'use_noise': False},  # nobody wrote down which
        'resample_filter': anything,  # read as arrays
        'mapping_kwargs': lambda options: fields(options, G_MAPPING_OPTIONS | {'lr_multiplier': (0.01,)}),
        'num_fp16_res': anything,
        'fused_modconv_default': anything,
    },
    'stylegan3': check_stylegan3.G_OPTIONS,
}
RUN_G_DEFAULTS = {'stylegan2': {'use_noise': True}, 'stylegan3': {}}
RUN_D = {
    'architecture': 'd_architecture',
    'channel_base': 'd_channel_base',
    'channel_max': 'd_channel_max',
    'mapping_kwargs': lambda options: fields(options, LRELU | {'num_layers': 'd_mapping_layers'}),
    'epilogue_kwargs': lambda options: fields(
        options, LRELU | {'mbstd_group_size': 'mbstd_group_size', 'mbstd_num_channels': (1,)}
    ),
    'block_kwargs': lambda options: fields(options, LRELU | {'resample_filter': anything}),
    'cmap_dim': (None,),
    'num_fp16_res': anything,
}
LOSS_OPTIONS = {
    name: name for name in ('r1_gamma', 'pl_weight', 'pl_batch_shrink', 'pl_decay', 'blur_init_sigma', 'blur_fade_kimg')
} | {'style_mixing_prob': (0,), 'pl_no_weight_grad': (False,)}  # where to mix nobody wrote down


def run_of(meta, system, batch_size):
    """A run of the file's networks and losses."""
    g, d = meta['G_kwargs'], meta['D_kwargs']
    same = {name: (g.get(name, default),) for name, default in (('c_dim', 0), ('img_channels', 3), ('conv_clamp', 256))}
    same['img_resolution'] = (g['img_resolution'],)
    options = {'style_mixing_prob': 0.0, 'pl_weight': 0.0, 'pl_interval': 4, 'r1_gamma': 10.0}
    options |= fields(meta['loss_kwargs'], LOSS_OPTIONS)
    if not options.get('blur_fade_kimg', 1):  # there, no fade is a blur for ever
        options |= {'blur_fade_kimg': 1e9}
    model = system_module(system).Config(
        **options | fields(RUN_G_DEFAULTS[system] | g, RUN_G[system]) | fields(d, RUN_D | same)
    )
    data = DataConfig(
        folder='images', resolution=model.img_resolution, channels=model.img_channels, labels=model.c_dim > 0
    )
    return Config(system, model, data, train=TrainConfig(batch_size=batch_size))


def loss(arrays, meta, system):
    """Losses, statistics, gradients and running means of every phase, each from the same variables.

    A phase is one of four parts, or the sum of two. Behind the fade, sigma is zero and the blur the identity.
    """
    for phase in meta['phases']:
        fields(phase, dict.fromkeys(('id', 'phase', 'gain', 'cur_nimg'), anything))
    batch_size = len(arrays['in/real_img'])
    config = run_of(meta, system, batch_size)
    networks = stylegan_training.networks(config.model, *MODELS[system])
    tolerance, model, gan = meta['tolerance'], config.model, system_module(system).build(config)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    rules = {'g': {'stylegan2': G_RULES, 'stylegan3': check_stylegan3.RULES}[system], 'd': D_RULES}
    nets = {
        net: filled(arrays, rules[net], {'params': params[net], 'buffers': buffers[net]}, f'param/{net.upper()}.')
        for net in 'gd'
    }
    (g, g_buffers), (d, d_buffers) = ((nets[net]['params'], nets[net]['buffers']) for net in 'gd')
    real, real_c = nhwc(arrays['in/real_img']), arrays['in/real_c'] if model.c_dim else None
    z, gen_c = arrays['in/gen_z'], arrays['in/gen_c'] if model.c_dim else None
    keys = jax.random.split(jax.random.key(0), len(z))  # neither model has noise
    latents = Latents(z, z, gen_c, keys, jax.random.key(0))
    few = jax.tree.map(lambda x: x[: max(len(x) // model.pl_batch_shrink, 1)], latents._replace(mixing=keys))
    pl_mean = jnp.float32(meta.get('pl_mean_before', 0.0))

    def lens(nimg):
        return Lens(stylegan_training.blur_sigma(model, nimg, batch_size) if model.blur_init_sigma else None)

    def scores(fake, nimg, real_too):
        kinds = {'fake': (fake, gen_c)} if fake is not None else {}
        kinds |= {'real': (real, real_c)} if real_too else {}
        logits = {
            kind: networks.score(d, d_buffers, stylegan_training.seen(model, images, lens(nimg)), c)
            for kind, (images, c) in kinds.items()
        }
        return {f'Loss/{kind}/{name}': change(value)[:, None] for name, value in logits.items()
                for kind, change in (('scores', jnp.asarray), ('signs', jnp.sign))}  # fmt: skip

    def fakes(g, update_emas):
        ws, new = networks.map(g, g_buffers, z, gen_c, update_emas)
        return networks.synthesise(g, new, ws, keys, update_emas)[0]

    def g_main(p, nimg):
        value, new = stylegan_training.g_main(model, networks, p, g_buffers, (d, d_buffers), latents, lens(nimg))
        return value, {'Loss/G/loss': new['loss/g']} | scores(fakes(p, False), nimg, False)

    def g_pl(p, nimg):
        noise = nhwc(arrays['in/pl_noise'])
        value, (mean, new) = stylegan_training.g_pl(model, networks, p, g_buffers, pl_mean, few, noise)
        return value, {'Loss/pl_penalty': new['loss/pl'], 'Loss/G/reg': value, 'pl_mean_after': mean}

    def d_main(p, nimg):
        value, (after, _, new) = stylegan_training.d_main(
            model, networks, p, d_buffers, (g, g_buffers), real, real_c, latents, lens(nimg)
        )
        return value, {'Loss/D/loss': new['loss/d'], 'after': after} | scores(fakes(g, True), nimg, True)

    def d_r1(p, nimg):
        value, (_, new) = stylegan_training.d_r1(
            model, networks, p, d_buffers, real, real_c, model.r1_gamma, lens(nimg)
        )
        return value, {'Loss/r1_penalty': new['loss/r1'], 'Loss/D/reg': value} | scores(None, nimg, True)

    parts = {
        part: jax.jit(jax.value_and_grad(f, has_aux=True))
        for part, f in (('Gmain', g_main), ('Greg', g_pl), ('Dmain', d_main), ('Dreg', d_r1))
    }
    if not model.pl_weight:
        del parts['Greg']
    # The running means after a phase that generates nothing are those of a later one in the files.
    (_, after), _ = parts['Dmain'](d, 0.0)
    got, golden = {}, {}
    for phase in meta['phases']:
        net, name, gain = phase['phase'][0].lower(), phase['id'], phase['gain']
        chosen = [f for part, f in parts.items() if phase['phase'] in (part, f'{part[0]}both')]
        assert chosen, f'{name}: this library has no phase {phase["phase"]!r}'
        results = [f(g if net == 'g' else d, float(phase['cur_nimg'])) for f in chosen]
        metrics = functools.reduce(dict.__or__, (aux for (_, aux), _ in results), {'pl_mean_after': pl_mean})
        grads = jax.tree.map(lambda *x, gain=gain: gain * sum(x), *(grads for _, grads in results))
        got[f'{name}/pl_mean_after'] = metrics.pop('pl_mean_after')
        buffers = metrics.pop('after', after['after'])
        got |= {f'{name}/report/{key}': value for key, value in metrics.items()}
        got |= {f'{name}/grad/{path}': value for path, value in paths(grads).items()}
        got |= {f'{name}/G_buffer_after/{path}': value for path, value in paths(buffers).items()}
        for kind, table in (('grad', rules[net]), ('G_buffer_after', rules['g'])):
            wanted = rename(select(arrays, f'out/{name}/{kind}/'), table)
            golden |= {f'out/{name}/{kind}/{path}': want for path, want in wanted.items()}
        for key, want in select(arrays, f'out/{name}/').items():
            if not key.startswith(('grad/', 'G_buffer_after/')):
                per_sample = key == 'pl_mean_after' or re.fullmatch('report/Loss/(scores|signs)/(fake|real)', key)
                golden[f'out/{name}/{key}'] = want if per_sample else np.mean(want)

    def rules_of(name):
        # Some second derivatives vanish; what is left of them is rounding.
        rest = 1e-7 if '/grad/' in name else 0.0
        return {'atol': tolerance['rel_to_max'] * np.max(np.abs(golden[f'out/{name}'])) + rest}

    unknown = {name for name in arrays if name.startswith('out/') and name.split('/')[1] not in
               {phase['id'] for phase in meta['phases']}}  # fmt: skip
    assert not unknown, f'nothing to compare with: {sorted(unknown)}'
    assert_outputs(golden, got, rules_of)


CHECKS = {
    ('stylegan3', 'mapping_'): mapping,
    ('stylegan3', 'discriminator_'): discriminator,
    ('stylegan3', 'sg2_generator_'): generator,
    ('stylegan3', 'loss_sg2'): functools.partial(loss, system='stylegan2'),
    ('stylegan3', 'loss_sg3'): functools.partial(loss, system='stylegan3'),
}
