"""Golden files may hold less than those here, and other sizes and names; what they hold is compared or fails by name.

Results of a variant are known where a cut of the inputs is a cut of the results: samples of a batch, coordinates,
transforms, calls.
"""

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_outputs, bound, entry, fields, load, watched
from flax import linen as nn
from test_parity import CHECKS, DEFAULT

FILES = sorted(DEFAULT.glob('*/*.npz'), key=lambda path: path.stat().st_size)
# Seconds each; the others show the same.
BY_HAND = set(
    """
    discriminator_orig_cond_cmap filtered_lrelu gen_official_guided_c4_40 gen_original_r16 gen_skip_sin_r8
    generator_r_64_full gp_disc_nobn interpolation_ops layers_1x1 loss_sg2 loss_sg3 loss_step_csg_nobn ms_d_pool
    ms_g_deconv_csg_randkernel orig_random_samples pe_zeroing_res_r8 pyramid resize_antialiased_bicubic
    sg2_generator_orig state_dict_names stylegan2_d stylegan2_g tf_bundle_tiny train_grads_port_tf train_losses
    train_loop_csg train_steps_skip_r8 upfirdn2d
""".split()
)


def smallest(key):
    """The smallest file that a check takes."""
    return next(path for path in FILES if entry(path.parent.name, path.stem, CHECKS) == key)


def one_of_each():
    paths = [smallest(key) for key in CHECKS]
    return [pytest.param(p, id=p.stem, marks=[pytest.mark.hand] if p.stem in BY_HAND else []) for p in paths]


def check(path, arrays, meta):
    CHECKS[entry(path.parent.name, path.stem, CHECKS)](arrays, meta)


# What a file holds and this library lacks -----------------------------------------------------------------------------


@pytest.mark.parametrize('path', one_of_each())
def test_a_result_that_nothing_is_compared_with_fails_by_its_name(path):
    arrays, meta = load(path)
    with pytest.raises(AssertionError, match='unheard_of'):
        check(path, arrays | {'out/unheard_of': np.zeros(3)}, meta)


OPTIONS = {'kwargs', 'constructor', 'ctor', 'disc_kwargs', 'G_kwargs', 'D_kwargs', 'loss_kwargs', 'hyper', 'train_cfg'}
OPTIONS |= {'calls', 'cases', 'phases', 'trunc', 'walk', 'weights'}


def places(node, inside=()):
    """Paths of all dictionaries of options in a meta, of lists only the last one."""
    if isinstance(node, dict):
        if inside and inside[-1] not in ('calls', 'cases', 'phases'):
            yield inside
        for name, value in node.items():
            if inside or name in OPTIONS:
                yield from places(value, (*inside, name))
    elif isinstance(node, list) and node and isinstance(node[-1], dict):
        yield from places(node[-1], (*inside, len(node) - 1))


# Lists of what there is, not of what to do.
NOT_OPTIONS = {('train_losses', 'calls'), ('composite', 'ctor'), ('brush_raster', 'ctor')}


def every_place():
    return [
        pytest.param(path, place, id=f'{path.stem}-{".".join(map(str, place))}')
        for path in map(smallest, CHECKS)
        for place in places(load(path)[1])
        if (path.stem, place[0]) not in NOT_OPTIONS
    ]


@pytest.mark.parametrize(('path', 'place'), every_place())
def test_an_option_that_the_library_lacks_fails_by_its_name(path, place):
    arrays, meta = load(path)
    node = meta
    for name in place:
        node = node[name]
    node['unheard_of'] = 1
    with pytest.raises(AssertionError, match='option unheard_of=1'):
        check(path, arrays, meta)


@pytest.mark.parametrize(
    ('file', 'place', 'value'),
    [
        ('stylegan3/synthesis_layer_1', ('kwargs', 'use_fp16'), True),
        ('stylegan3/discriminator_resnet_cond', ('kwargs', 'mapping_kwargs', 'activation'), 'relu'),
        ('stylegan3/sg2_generator_orig', ('kwargs', 'mapping_kwargs', 'embed_features'), 7),
        ('stylegan3/loss_sg2', ('loss_kwargs', 'style_mixing_prob'), 0.9),
        ('stylegan3/loss_sg2', ('G_kwargs', 'use_noise'), True),
        ('stylegan3/loss_sg3', ('D_kwargs', 'img_resolution'), 32),
        ('positional_encoding_gans/ms_g_i_nopad_csg', ('constructor', 'interp_pad'), 2),
        ('positional_encoding_gans/ms_g_e_spe_interp', ('constructor', 'up_config', 'align_corners'), False),
        ('positional_encoding_gans/ms_g_e_spe_interp', ('constructor', 'head_pos_encoding', 'center_shift'), 1),
        ('positional_encoding_gans/ms_d_pool', ('constructor', 'pool_size'), [2, 3]),
        ('deepfill/ca_all_masked', ('ctor', 'ksize'), 5),
        ('deepfill/gconv_pt_k3_s2_odd', ('ctor', 'activation'), 'softsign'),
        ('singan/gen_csg', ('constructor', 'padding'), 2),
        ('cips/layers_1x1', ('kwargs', 'kernel_size'), 3),
    ],
)  # fmt: skip
def test_a_value_that_the_library_lacks_fails_by_the_name_of_its_option(file, place, value):
    path = DEFAULT / f'{file}.npz'
    arrays, meta = load(path)
    node = meta
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    with pytest.raises(AssertionError, match=f'option {place[-1]}='):
        check(path, arrays, meta)


# What a file may leave out, or have otherwise -------------------------------------------------------------------------


def without(arrays, *patterns):
    return {name: value for name, value in arrays.items() if not any(re.fullmatch(p, name) for p in patterns)}


def first_sample(arrays, *patterns):
    """The first one of the batch in all inputs and results, but for those that match."""
    return {
        name: value if name.startswith('param/') or any(re.fullmatch(p, name) for p in patterns) else value[:1]
        for name, value in arrays.items()
    }


def cips_crops(arrays, meta):
    """One sample; windows that are not square; another name; no truncation, no training mode, and no noise for one."""
    arrays = without(arrays, r'out/(trunc|train|two|w$).*', 'in/truncation_latent', 'in/noise_crop/.*', 'out/rgb_crop')
    out = {}
    for name, value in first_sample(arrays).items():
        if '_outrange' in name or '_finer2x' in name:
            value = value[..., 1:6, 2:9]
        out[name.replace('_scatter', '_elsewhere')] = value
    return out, {k: v for k, v in meta.items() if k not in ('noise_order', 'notes')}


def cips_other_psi(arrays, meta):
    """Half of the way that 0.6 leaves is 0.3: names tell the strength."""
    arrays = without(arrays, 'out/(rgb|train|two|trunc_z|trunc_w_(1|0.0)).*', 'out/trunc_w_0.6', 'in/(coords|noise)_.*')
    centre = arrays['in/truncation_latent'][None]
    return arrays | {
        'in/truncation_latent': centre,
        'out/trunc_w_0.3_latent': (centre + arrays.pop('out/trunc_w_0.6_latent')) / 2,
    }, meta


def cips_layers(arrays, meta):
    arrays = first_sample(arrays)
    return without(arrays, 'out/(styled_sin|resblock_diff|pixelnorm|sinrelu_activation)', 'in/pre'), meta


def cips_real_only(arrays, meta):
    return without(arrays, 'in/fake', 'out/(score_fake|d_loss|g_loss|grad_d_loss.*)'), meta


def cips_grids(arrays, meta):
    arrays = without(arrays, '(in|out)/.*item1.*', 'in/draw_bounds.*', 'out/(float|integer)_(4|5)')
    return arrays | {'out/float_8': arrays['out/float_8'][:1]}, meta | {'sizes': [1, 2, 8, 16]}


def cips_embedding(arrays, meta):
    return {name: value[:, :, :, :-1] if '_scatter' in name or name == 'out/scatter' else value
            for name, value in without(arrays, '(in|out)/(coords_)?(train_)?native', 'out/train_native').items()
            }, {k: v for k, v in meta.items() if k != 'kwargs'}  # fmt: skip


def mmgen_calls(arrays, meta):
    """Without what layers put out, in another order, with one call fewer."""
    gone = meta['calls'][1]['name']
    calls = [call for call in reversed(meta['calls']) if call['name'] != gone]
    return without(arrays, 'out/.*/(mid|latent).*', f'(in|out)/{gone}/.*'), meta | {'calls': calls}


def grey(arrays, meta):
    """The first colour alone, of a generator of which every colour depends on its own numbers at the end."""
    colours = r'param/to_?rgb.*(\.conv\.weight_orig|(?<!modulation)\.bias)|out/.*/(img|mid/to_rgb.*)'
    arrays = {
        name: np.take(value, [0], 0 if name.startswith('param/torgb') else 1) if re.fullmatch(colours, name) else value
        for name, value in without(arrays, 'out/.*/mid/(?!to_rgb).*').items()
    }
    return arrays, meta | {'constructor': meta['constructor'] | {'out_channels': 1}}


def mapping_calls(arrays, meta):
    """Results by other names, and one sample."""
    arrays = without(first_sample(arrays, '.*w_avg.*'), 'out/w_update', 'out/w_avg_after_update')
    calls = [call | {'out': f'result{i}'} for i, call in enumerate(meta['calls'][:-1])]
    for old, new in zip(meta['calls'], calls, strict=False):
        arrays[f'out/{new["out"]}'] = arrays.pop(f'out/{old["out"]}')
    return arrays, meta | {'calls': calls}


def layer_alone(arrays, meta):
    return without(arrays, 'in/dy', 'out/(grad/.*|y_update|magnitude.*)'), {
        k: v for k, v in meta.items() if k != 'derived'
    }


def images_alone(arrays, meta):
    arrays = without(first_sample(arrays, '.*transform/(?!.*img).*', 'in/transform.*'),
                     'in/ws_mixed', 'out/(layer|block|after_update|img_ws_mixed|img_update).*')  # fmt: skip
    return arrays, {k: v for k, v in meta.items() if k not in ('layers', 'num_ws', 'layer_output_stride')}


def scores_alone(arrays, meta):
    return without(arrays, 'out/(cmap|mbstd_out|block.*|r1_penalty|grad_meanr1/.*weight)'), meta


def deepfill_layer(arrays, meta):
    return without(first_sample(arrays), 'out/(gate|feature_pre)'), meta


def deepfill_images(arrays, meta):
    return without(arrays, 'out/(attn_in|attn_out|flow|composite)', 'in/xin'), meta


def fewer_updates(arrays, meta):
    """A mask that is not square, and only some of the results."""
    arrays = {name: value[..., :-2, :] for name, value in without(arrays, 'out/mask_after[1-4]').items()}
    return arrays, meta


def other_tags(arrays, meta):
    arrays = without(arrays, 'out/train/recon.*', 'in/train/fixed.*', 'out/.*bn_train.*')
    return {name.replace('/extrap/', '/wide/'): value for name, value in arrays.items()}, meta


def one_image(arrays, meta):
    return without(arrays, 'in/(image_u8_1|tensor.*)', 'out/(raw|shape_raw|tensor)_1_.*', 'out/tensor_out.*'), meta | {
        'cases': [case for case in meta['cases'] if case['image'] == 0]
    }


def no_walk(arrays, meta):
    return without(arrays, 'in/walk.*', 'out/walk_z', 'out/mask_editing'), {
        k: v for k, v in meta.items() if k not in ('walk', 'sr_schedule')
    }


def fewer_cases(arrays, meta):
    """All cases but the first."""
    first, *rest = meta['cases']
    return without(arrays, f'(in|out)/{first["id"]}(/.*)?'), meta | {'cases': rest}


def one_transform(arrays, meta):
    return without(arrays, 'in/dy', 'out/grad/.*', '(in/transform|out/x)/(?!affine).*'), meta


@pytest.mark.parametrize(
    ('file', 'variant'),
    [
        ('cips/gen_skip_r8', cips_crops),
        ('cips/gen_res_r8', cips_other_psi),
        ('cips/layers_1x1', cips_layers),
        ('cips/disc_r8_b4', cips_real_only),
        ('cips/coords_grids_crops', cips_grids),
        ('cips/coord_embedding_r8', cips_embedding),
        ('positional_encoding_gans/stylegan2_g', mmgen_calls),
        ('positional_encoding_gans/pggan_g_unfused', mmgen_calls),
        ('positional_encoding_gans/pggan_g_unfused', grey),
        ('positional_encoding_gans/stylegan2_g', grey),
        ('stylegan3/mapping_sg2_1', mapping_calls),
        ('stylegan3/synthesis_layer_3', layer_alone),
        ('stylegan3/synthesis_input_1', one_transform),
        ('stylegan3/sg2_generator_orig', images_alone),
        ('stylegan3/discriminator_orig_cond_cmap', scores_alone),
        ('stylegan3/filtered_lrelu', fewer_cases),
        ('deepfill/gconv_pt_k3_s2_odd', deepfill_layer),
        ('deepfill/gen_official_guided_c4_40', deepfill_images),
        ('deepfill/pconv_mask_updates', fewer_updates),
        ('singan/gen_csg', other_tags),
        ('singan/resize_antialiased_bicubic', one_image),
        ('singan/applications_misc', no_walk),
    ],
)
def test_a_file_may_hold_less_and_other_sizes(file, variant):
    path = DEFAULT / f'{file}.npz'
    arrays, meta = load(path)
    names = set(arrays)
    changed, told = variant(arrays, copy.deepcopy(meta))
    assert set(changed) != names
    check(path, changed, told)
    # And what it holds is compared.
    name = next(name for name in changed if name.startswith('out/') and np.size(changed[name]))
    with pytest.raises(AssertionError, match=name.split('/')[-1]):
        check(path, changed | {name: changed[name] + np.float32(1 + np.abs(changed[name]).max())}, told)


# The tools ------------------------------------------------------------------------------------------------------------


def test_options_become_fields_or_fail_by_name():
    rules = {'size': 'img_resolution', 'norm': ('BN', None), 'off': lambda on: None if on else {'padding': 'zero'}}
    assert fields({'size': [2, 3], 'norm': None, 'off': False}, rules) == {'img_resolution': (2, 3), 'padding': 'zero'}
    assert fields(None, rules) == {}
    for options in ({'siez': 2}, {'norm': 'GN'}, {'off': True}):
        (name,) = options
        with pytest.raises(AssertionError, match=f'option {name}='):
            fields(options, rules)


def test_every_result_of_a_file_is_compared():
    arrays, got = {'in/x': 1.0, 'out/a': np.ones(2), 'out/b': np.ones(1)}, {'a': np.ones(2), 'b': np.ones(1), 'c': 5.0}
    assert_outputs(arrays, got, {'atol': 0.0})
    assert_outputs(arrays, {'a': np.ones(2)}, {'atol': 0.0}, ['b'])
    assert_outputs(arrays, got | {'b': [1.5]}, lambda name: {'atol': 1.0 if name == 'b' else 0.0})
    for wrong in ({'a': np.ones(2)}, got | {'b': [1.5]}):
        with pytest.raises(AssertionError, match='b'):
            assert_outputs(arrays, wrong, {'atol': 0.0})
    with pytest.raises(AssertionError, match='no results'):
        assert_outputs({'in/x': 1.0}, got, {'atol': 0.0})


def test_other_words_for_tolerances():
    np.testing.assert_array_equal(bound(np.ones(2), {'max_abs': 1, 'note': 'levels'}), [1, 1])
    np.testing.assert_array_equal(bound(np.ones(2), {'exact': True}), [0, 0])
    with pytest.raises(AssertionError):
        assert_close('x', [1.0], [1.0 + 1e-9], {'exact': True})


def test_modules_are_watched_inside_of_jitted_functions():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1, name='second')(nn.Dense(2, name='first')(x))

    module, x = Two(), jnp.ones((1, 3))
    variables = module.init(jax.random.key(0), x)
    y, seen = jax.jit(lambda v, x: watched(lambda: module.apply(v, x)))(variables, x)
    assert seen.keys() == {'', 'first', 'second'}
    np.testing.assert_array_equal(seen['second'][0], seen['first'][1])
    np.testing.assert_array_equal(seen['second'][1], y)
