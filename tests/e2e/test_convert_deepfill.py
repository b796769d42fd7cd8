"""DeepFillv2 as its programs release it, written here without them: convert, load, complete; and what is refused."""

import functools
import json
import pathlib
import shutil

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, nhwc

from pegan_jax import convert, inpaint, interop, load
from pegan_jax.cli import main
from pegan_jax.interop import deepfill as importer
from pegan_jax.models import deepfill
from pegan_jax.train.checkpoint import load_networks
from pegan_jax.weights.contents import ForeignFileError

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'deepfill'
OIHW = (3, 2, 0, 1)


@functools.cache
def golden(name):
    with np.load(FIXTURES / f'{name}.npz') as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop('meta')))


def parameters(name, prefix='param/'):
    return {k.removeprefix(prefix): v for k, v in golden(name)[0].items() if k.startswith(prefix)}


def port_file(path, g, d=None, **more):
    """A file of the port: state dicts, optimisers and a counter."""
    storages, rng = foreign.Storages(), np.random.default_rng(0)
    value = {'G': foreign.state_dict(g, storages), 'n_iter': 12}
    for net, state in (('G', g), ('D', d)):
        if state is not None:
            value[net] = foreign.state_dict(state, storages)
            few = dict(list(state.items())[:2])
            value[f'{net}_optim'] = foreign.adam_state(
                few, storages, rng, step=12, lr=1e-4, betas=(0.5, 0.999), as_tensor=True
            )[0]
    foreign.write_zip(path, value | more, storages)
    return path


def exported(layout, params, buffers=None, *, colours='rgb'):
    """Our parameters (of both networks with `buffers`) under the names of a layout."""
    params = {name: dict(layer) for name, layer in params.items()}
    if colours == 'bgr':
        importer.turn_colours(params, 3)
    out = {}
    for theirs, name in importer.names(layout, 'g' if buffers is None else 'd').items():
        layer = params[name]
        if layout == 'official':
            out |= {f'{theirs}/kernel': layer['kernel'], f'{theirs}/bias': layer['bias']}
            out |= {} if buffers is None else {f'{theirs}/kernel_sn/u': buffers[name]['u']}
        else:
            out |= {f'{theirs}.weight': layer['kernel'].transpose(OIHW), f'{theirs}.bias': layer['bias']}
            out |= {} if buffers is None else {f'{theirs}.weight_u': buffers[name]['u'].T}
    return out


def same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for path, x in jax.tree.leaves_with_path(tree):
        np.testing.assert_array_equal(x, functools.reduce(lambda t, k: t[k.key], path, other), str(path))


@functools.cache
def generator(config):
    return jax.jit(
        lambda params, image, mask, sketch: deepfill.Generator(config).apply({'params': params}, image, mask, sketch)
    )


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """The checkpoint that TensorFlow wrote, converted."""
    out = tmp_path_factory.mktemp('official') / 'out'
    return convert(FIXTURES / 'tf_bundle_tiny', out), out


def test_a_checkpoint_of_tensorflow_gives_its_images_in_rgb(official):
    config, out = official
    arrays, meta = golden('tf_bundle_tiny')
    variant = {k: getattr(config.model, k) for k in deepfill.VARIANTS['official']}
    assert variant == deepfill.VARIANTS['official'] and (config.model.cnum, config.model.d_cnum) == (4, 4)
    model = load(out)
    # There, images are BGR, with holes of zeros.
    image, mask = (jnp.asarray(arrays[f'in/{name}']) for name in ('image', 'mask'))
    got = generator(config.model)(model.variables['params'], image[..., ::-1], mask, None)
    assert_close('coarse', got.coarse[..., ::-1], arrays['out/stage1'], meta['tol']['float32'])
    assert_close('refined', got.refined[..., ::-1], arrays['out/stage2'], meta['tol']['float32'])
    wrong = generator(config.model)(model.variables['params'], image, mask, None)
    assert np.abs(np.asarray(wrong.refined) - arrays['out/stage2']).max() > 0.05


def test_its_discriminator_comes_along_with_the_vectors_of_its_norm(official):
    config, out = official
    arrays, meta = golden('tf_bundle_tiny')
    networks = load_networks(out / 'checkpoints')
    used, _ = deepfill.normalised(config.model, networks['d'], networks['d_buffers'])
    x = jnp.asarray(arrays['in/d_in'])
    x = jnp.concatenate([x[..., 2::-1], x[..., 3:]], axis=-1)
    assert_close(
        'd',
        deepfill.Discriminator(config.model).apply({'params': used}, x),
        arrays['out/d_out'],
        meta['tol']['float32'],
    )
    alone = out.with_name('alone')
    convert(FIXTURES / 'tf_bundle_tiny', alone, sampling_only=True)
    assert 'd' not in load_networks(alone / 'checkpoints')
    same(load(alone).variables, load(out).variables)


def test_what_is_left_out_is_told(official):
    told = json.loads((official[1] / 'imported.json').read_text())['inferred']
    assert told['layout'] == 'official' and told['colours'] == 'bgr'
    assert told['left_out'] == '16 arrays of optimisers, beta1_power, beta2_power, global_step, lr'


def test_a_guided_checkpoint_is_known_by_its_inputs(tmp_path):
    arrays, meta = golden('gen_official_guided_c4_40')
    index = foreign.write_bundle(tmp_path / 'a', parameters('gen_official_guided_c4_40'))
    config = convert(index, tmp_path / 'out')
    assert config.model.guided and config.data.edges != 'none'
    # The images of this file are in the order of its weights; the converted ones are turned.
    image, mask, edge = (jnp.asarray(arrays[f'in/{name}']) for name in ('image', 'mask', 'edge'))
    params = load(tmp_path / 'out').variables['params']
    got = generator(config.model)(params, image[..., ::-1], mask, edge)
    assert_close('refined', got.refined[..., ::-1], arrays['out/stage2'], meta['tol']['float32'])
    assert not (tmp_path / 'out' / 'checkpoints' / '0' / 'training').exists()


def test_a_file_of_the_ports_own_networks_completes_as_its_program_does(tmp_path):
    arrays, _ = golden('infer_port_pt')
    config = convert(port_file(tmp_path / 'a.pth', parameters('infer_port_pt')), tmp_path / 'out')
    assert {k: getattr(config.model, k) for k in deepfill.VARIANTS['port-pt']} == deepfill.VARIANTS['port-pt']
    # That program cuts sizes down to multiples of 8, truncates bytes, also of known pixels, and takes any mask above 0.
    image = np.rint(nhwc(arrays['in/image01'])[:40, :48] * 255).astype(np.uint8)
    mask = nhwc(arrays['in/mask'])[:40, :48].sum(axis=-1) > 0
    got = inpaint(load(tmp_path / 'out'), image, mask)
    want = arrays['out/inpainted']
    assert np.abs(got.astype(int) - want).max() <= 1 + np.abs(nhwc(arrays['in/image01'])[:40, :48] * 255 - image).max()
    np.testing.assert_array_equal(got[~mask], image[~mask])


def test_a_file_with_converted_weights_has_its_own_preset_and_colours_on_request(tmp_path):
    g, d = (parameters('train_grads_port_tf', f'param/{net}/') for net in ('G', 'D'))
    source = port_file(tmp_path / 'a.pth', g, d)
    config = convert(source, tmp_path / 'rgb')
    assert {k: getattr(config.model, k) for k in deepfill.VARIANTS['port-tf']} == deepfill.VARIANTS['port-tf']
    origin = json.loads((tmp_path / 'rgb' / 'imported.json').read_text())
    assert origin['inferred']['colours'] == 'rgb' and origin['inferred']['left_out'] == '12 arrays of optimisers'
    turned = convert(source, tmp_path / 'bgr', colours='bgr')
    assert turned == config
    rgb, bgr = (load_networks(tmp_path / name / 'checkpoints') for name in ('rgb', 'bgr'))
    importer.turn_colours(bgr['g'], 3)
    importer.turn_colours(bgr['d'], 3)
    same(bgr['g'], rgb['g'])
    same(bgr['d'], rgb['d'])
    np.testing.assert_array_equal(rgb['g']['conv1']['kernel'], g['conv1.conv.weight'].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(rgb['d_buffers']['conv3']['u'], d['conv3.conv_sn.weight_u'].T)


def test_all_layouts_are_ways_to_write_the_same_numbers(tmp_path, official):
    """TensorFlow -> ours -> port, in both of its layouts -> ours -> TensorFlow, exactly."""
    networks = load_networks(official[1] / 'checkpoints')
    g, d, buffers = networks['g'], networks['d'], networks['d_buffers']
    for layout in ('port-tf', 'port-pt'):
        state = exported(layout, g)
        if layout == 'port-pt':
            state['stage2.contextual_attention.fuse_weight'] = np.eye(3, dtype=np.float32)[None, None]
        path = port_file(tmp_path / f'{layout}.pth', state, exported(layout, d, buffers))
        config = convert(path, tmp_path / layout)
        again = load_networks(tmp_path / layout / 'checkpoints')
        same({k: again[k] for k in ('g', 'd', 'd_buffers')}, {'g': g, 'd': d, 'd_buffers': buffers})
        assert config.model.fuse == (layout == 'port-pt')
    back = exported('official', g, colours='bgr') | exported('official', d, buffers, colours='bgr')
    original, _ = interop.read(FIXTURES / 'tf_bundle_tiny')
    assert len(back) == 84 + 18
    for name, array in back.items():
        np.testing.assert_array_equal(array, original[name])


def test_with_the_same_options_the_layouts_are_the_same_function(tmp_path, official):
    config, out = official
    path = port_file(tmp_path / 'a.pth', exported('port-pt', load(out).variables['params']))
    tree, _ = interop.read(path)
    _, told = interop.infer(tree)
    assert told['layout'] == 'port-pt' and told['padding'] == 'symmetric'
    params = interop.importer_of(tree).load(tree).sampling['params']
    image, mask = (jnp.asarray(golden('tf_bundle_tiny')[0][f'in/{name}']) for name in ('image', 'mask'))
    run = generator(config.model)
    np.testing.assert_array_equal(
        run(params, image, mask, None).refined, run(load(out).variables['params'], image, mask, None).refined
    )


def test_the_command_line_takes_any_name_of_the_checkpoint(tmp_path, capsys):
    folder = tmp_path / 'release'
    shutil.copytree(FIXTURES / 'tf_bundle_tiny', folder)
    (folder / 'checkpoint').rename(folder / 'checkpoint.txt')
    for name in ('', 'snap-1234', 'snap-1234.index'):
        assert main(['inspect', '--model', str(folder / name)]) == 0
        printed = capsys.readouterr().out
        assert 'inpaint_net/allconv17/kernel' in printed and 'cnum = 4' in printed and 'left_out = 16' in printed
    assert main(['convert', str(folder / 'snap-1234'), '--out', str(tmp_path / 'out'), '--colours', 'bgr']) == 0
    assert 'deepfill, with these settings' in capsys.readouterr().out
    assert main(['convert', str(folder), '--activation', 'sin', '--out', str(tmp_path / 'other')]) == 1
    assert '--activation does not apply to this file, which is one of deepfill' in capsys.readouterr().err
    data = folder / 'snap-1234.data-00000-of-00001'
    data.write_bytes(data.read_bytes()[:-8])
    assert main(['convert', str(folder), '--out', str(tmp_path / 'other')]) == 1
    assert 'cut off' in capsys.readouterr().err and not (tmp_path / 'other').exists()


@pytest.mark.parametrize(
    'change, match',
    [
        (lambda a: a.pop('inpaint_net/allconv17/bias'), 'not filled: params/allconv17/bias'),
        (
            lambda a: a.update({'inpaint_net/other/kernel': np.zeros(2, np.float32)}),
            'left over: inpaint_net/other/kernel',
        ),
        (lambda a: a.update({'inpaint_net/conv3/bias': np.zeros(2, np.float32)}), 'wrong shape: .*conv3/bias'),
        (lambda a: a.update({'inpaint_net/conv3/bias': np.full(8, np.nan, np.float32)}), 'not finite'),
        (lambda a: a.pop('discriminator/sn_patch_gan/conv2/kernel_sn/u'), 'not filled: buffers/conv2/u'),
        (lambda a: a.pop('discriminator/sn_patch_gan/conv1/bias'), 'the discriminator is not complete'),
        (lambda a: a.update({'inpaint_net/conv1/kernel': np.zeros((5, 5, 7, 4), np.float32)}), '7 input channels'),
        (lambda a: a.update({'inpaint_net/conv1/kernel': np.zeros((5, 5, 5, 6), np.float32)}), 'model.cnum=6'),
        (lambda a: a.update({'inpaint_net/conv1/kernel': np.zeros(5, np.float32)}), r'the shape \(5,\)'),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, change, match):
    tree, _ = interop.read(FIXTURES / 'tf_bundle_tiny')
    arrays = dict(tree)
    change(arrays)
    with pytest.raises(ForeignFileError, match=match):
        convert(foreign.write_bundle(tmp_path / 'a', arrays), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    with pytest.raises(ValueError, match="colours='grey'"):
        convert(FIXTURES / 'tf_bundle_tiny', tmp_path / 'out', colours='grey')


def test_the_official_size_is_recognised():
    """Channels 48 and 64, sketches or not: what a release has, without its numbers."""
    for guided in (False, True):
        model = deepfill.Config(guided=guided)
        plane = jax.ShapeDtypeStruct((1, 256, 256, 1), jnp.float32)
        image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
        init = functools.partial(deepfill.Generator(model).init, jax.random.key(0))
        shapes = jax.eval_shape(init, image, plane, plane if guided else None)['params']
        params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        assert sum(x.size for x in jax.tree.leaves(params)) == 4_052_478 + 1200 * guided
        config, told = importer.infer(exported('official', params))
        assert (config.model.cnum, config.model.guided, told['colours']) == (48, guided, 'bgr')
