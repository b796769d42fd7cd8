"""Models that are given away: files, programs without this library, official names, the hub."""

import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import sys

import hub_server
import jax
import numpy as np
import pytest
from jax import export
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import pegan_jax
from pegan_jax import config as configs
from pegan_jax import convert, hub, load, sample, sharing
from pegan_jax.cli import main
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError
from pegan_jax.train import exported
from pegan_jax.train.checkpoint import Checkpoints, read_networks
from pegan_jax.train.state import create_state
from pegan_jax.weights import contents, reader
from pegan_jax.weights.contents import ForeignFileError

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / 'tests' / 'checkpoints' / 'stylegan2_port_tiny.pt'


@pytest.fixture(scope='module')
def golden():
    """A function: file name -> {name: array} of the official program's state dict."""

    def read(name):
        with np.load(ROOT / 'tests' / 'fixtures' / 'cips' / f'{name}.npz') as file:
            return {k.removeprefix('param/'): file[k] for k in file if k.startswith('param/')}

    return read


@functools.cache
def model_of(spec, *overrides):
    """A model with random numbers in place of weights, which need no program."""
    config = configs.load_config(spec, overrides)
    gan = configs.system_module(config.system).build(config)
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def drawn(path, x):  # images have to depend on latents, by mappings that multiply their weights by 0.01
        scale = 30 if 'mapping' in jax.tree_util.keystr(path) else 0.3
        return (scale * rng.standard_normal(x.shape)).astype(x.dtype)

    variables = jax.tree_util.tree_map_with_path(drawn, {'params': params['g'], 'buffers': buffers['g']})
    return Model(config, gan, variables, 7, ('a', 'b')[: gan.c_dim], 56)


def assert_same(got, want, wanted_variables=None):
    assert (got.config, got.step, got.images) == (exported.without_paths(want.config), want.step, want.images)
    assert (got.classes, got.imported) == (want.classes, want.imported)
    jax.tree.map(np.testing.assert_array_equal, got.variables, wanted_variables or want.variables)
    assert jax.tree.structure(got.variables) == jax.tree.structure(want.variables)


@pytest.fixture(scope='module')
def cips():
    return model_of('cips:tiny', 'data.folder=/home/somebody/faces', 'train.init_from=/home/somebody/run')


@pytest.fixture(scope='module')
def workdir(cips, tmp_path_factory):
    """A run's folder that holds the model."""
    folder = tmp_path_factory.mktemp('run')
    checkpoints = Checkpoints(folder / 'checkpoints')
    checkpoints.save_items(7, {'sampling': cips.variables}, {'config': configs.to_dict(cips.config), 'images': 56})
    checkpoints.close()
    (folder / 'config.json').write_text(configs.to_json(cips.config))
    about = {'evaluation': {'date': '2026-11-26T10:00:00+00:00'}}
    lines = [{'step': 7, 'swd': 1.0}, {'step': 7, 'fid10k': 12.345, **about}, {'step': 6, 'fid10k': 9.0, **about}]
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return folder


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'spec', ['cips:tiny', 'stylegan3:r,tiny', 'pggan:tiny', 'deepfill:tiny', 'singan:tiny', 'cips:tiny of one image']
)
def test_an_exported_model_is_the_model(spec, tmp_path):
    spec, _, one_image = spec.partition(' of ')
    if one_image := one_image or spec == 'singan:tiny':
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)).save(tmp_path / 'photo.png')
    labelled = ['model.c_dim=2', 'data.labels=True'] if spec == 'pggan:tiny' else []
    of_image = [f'data.image={tmp_path / "photo.png"}'] if one_image else []
    model = model_of(spec, *labelled, *of_image)
    model = dataclasses.replace(model, imported={'file': 'x.pt', 'licence': 'ask its author'})
    file = sharing.export(model, tmp_path / 'given')
    assert file == tmp_path / 'given' / 'model.safetensors'
    (tmp_path / 'photo.png').unlink(missing_ok=True)  # whoever gets the model does not have it
    for place in (file, file.parent, str(file)):
        assert_same(load(place), model)
    assert configs.load_config(str(tmp_path / 'given' / 'config.json')) == load(file).config


def test_nothing_private_goes_with_it(cips, tmp_path):
    file = sharing.export(cips, tmp_path)
    assert not any(b'somebody' in path.read_bytes() for path in tmp_path.iterdir())
    assert load(file).config.data.folder == 'faces' and load(file).config.train.init_from == 'run'


def test_files_of_training_are_neither_named_nor_needed(tmp_path):
    model = model_of('pconv:tiny')
    files = {'vgg': '/home/somebody/vgg16.pth', 'masks': 'folder', 'mask_folder': '/home/somebody/masks'}
    config = dataclasses.replace(model.config, model=dataclasses.replace(model.config.model, **files))
    file = sharing.export(dataclasses.replace(model, config=config), tmp_path)
    assert b'somebody' not in file.read_bytes()
    found = load(file)
    assert (found.config.model.vgg, found.config.model.mask_folder) == ('vgg16.pth', 'masks')
    jax.tree.map(np.testing.assert_array_equal, found.variables, model.variables)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_sixteen_bits_are_half_of_the_bytes_and_come_back_as_float32(cips, tmp_path, dtype):
    whole, half = sharing.export(cips, tmp_path / 'a'), sharing.export(cips, tmp_path / 'b.safetensors', dtype=dtype)
    assert half == tmp_path / 'b.safetensors'
    sizes = [sum(x.nbytes for x in reader.read(path).values()) for path in (whole, half)]
    assert sizes[1] < 0.51 * sizes[0]

    def round_off(x):
        return x.astype(exported.HALVES[dtype] if x.ndim else x.dtype).astype(np.float32)

    assert_same(load(half), cips, jax.tree.map(round_off, cips.variables))
    assert {x.dtype for x in jax.tree.leaves(load(half).variables)} == {np.dtype('float32')}


def test_a_number_too_large_for_float16_is_refused_and_nothing_is_written(cips, tmp_path):
    variables = jax.tree.map(np.copy, cips.variables)
    variables['params']['emb'][0, 0, 0] = 1e6
    model = dataclasses.replace(cips, variables=variables)
    with pytest.raises(UserError, match=r'params/emb holds 1e\+06, too large for float16; use bfloat16'):
        sharing.export(model, tmp_path / 'a.safetensors', dtype='float16')
    assert not list(tmp_path.iterdir())
    sharing.export(model, tmp_path / 'a.safetensors', dtype='bfloat16')


def without(name):
    return lambda arrays, header: (({k: v for k, v in arrays.items() if k != name}), header)


def with_array(name, array):
    return lambda arrays, header: ({**arrays, name: array}, header)


def with_header(name, text):
    return lambda arrays, header: (arrays, {**header, name: text})


def with_setting(name, value):
    def change(arrays, header):
        config = json.loads(header['config'])
        config['model'][name] = value
        return arrays, {**header, 'config': json.dumps(config)}

    return change


@pytest.mark.parametrize(
    'change, match',
    [
        (
            lambda arrays, header: (arrays, {}),
            r'is not a model that export wrote; .* convert /.*a\.safetensors --out DIR',
        ),
        (with_header('pegan_jax', '2'), 'another version'),
        (without('params/emb'), 'not filled: params/emb'),
        (with_array('params/more', np.zeros(3, np.float32)), 'left over: params/more'),
        (with_array('params/emb', np.zeros((4, 4), np.float32)), 'wrong shape: params/emb'),
        (with_array('params/lff/bias', np.full(16, np.nan, np.float32)), 'not finite: params/lff/bias'),
        (with_array('params/emb/x', np.zeros(3, np.float32)), 'does not describe a model|left over'),
        (with_header('config', '{'), 'does not describe a model'),
        (with_header('config', '{"system": "cips"}'), 'does not describe a model'),
        (with_header('config', '{"system": "os", "model": {}}'), 'does not describe a model.*unknown system'),
        (with_header('config', '[]'), 'does not describe a model'),
        (with_header('step', '"7"'), 'a header in which step is something else'),
        (with_header('empty', '7'), 'does not describe a model'),
        (with_header('classes', '[7]'), 'a header in which classes'),
        (with_header('imported', '[]'), 'a header in which imported'),
        (with_header('imported', '[' * 100_000), 'does not describe a model'),
        (with_setting('mapping_layers', 3000), 'mapping_layers=3000; at most 50 is read'),
        (with_setting('channels', [8] * 3000), 'has 3000 numbers in channels; at most 100 are read'),
        (with_setting('img_resolution', 10**400), 'img_resolution=a int; at most 16,384 is read'),
    ],
)
def test_a_file_that_is_something_else_is_refused(cips, tmp_path, capsys, change, match):
    file = sharing.export(cips, tmp_path / 'a.safetensors')
    with safe_open(file, 'np') as opened:
        header = opened.metadata()
    arrays, header = change(load_file(file), header)
    save_file(arrays, file, header)
    with pytest.raises(ForeignFileError, match=match):
        load(file)
    assert main(['sample', '--model', str(file), '--seeds', '0', '--out', str(tmp_path / 'x.png')]) == 1
    assert capsys.readouterr().err.count('\n') == 1


def test_a_damaged_file_is_refused(cips, tmp_path):
    file = sharing.export(cips, tmp_path / 'a.safetensors')
    content = file.read_bytes()
    for damaged in (
        content[:-5],
        content[:5],
        b'',
        b'\xff' * 64,
        content[:8] + b'[' + content[9:],
        b'PK\x03\x04' + content,
    ):
        file.write_bytes(damaged)
        with pytest.raises(ForeignFileError):
            load(file)
    (tmp_path / 'b.pt').write_bytes(content)
    with pytest.raises(UserError, match=r'convert .*b\.pt --out DIR'):
        load(tmp_path / 'b.pt')


def test_commands_take_it_like_a_run(workdir, cips, tmp_path, capsys):
    out = tmp_path / 'given'
    assert main(['export', '--model', str(workdir), '--out', str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / 'model.safetensors')
    assert_same(load(out), cips)
    places = [workdir, out, out / 'model.safetensors']
    for i, place in enumerate(places):
        assert main(['sample', '--model', str(place), '--seeds', '0,1', '--out', str(tmp_path / f'{i}.png')]) == 0
    assert len({(tmp_path / f'{i}.png').read_bytes() for i in range(3)}) == 1
    capsys.readouterr()
    told = []
    for place in places:
        assert main(['inspect', '--model', str(place)]) == 0
        told.append(capsys.readouterr().out.partition('\nparams/')[2])
    assert told[0] and told[0] == told[1] == told[2]
    assert main(['evaluate', '--model', str(places[2]), '--metrics', 'eqt4_int']) == 0
    assert sorted(p.name for p in out.iterdir()) == ['config.json', 'model.safetensors']
    capsys.readouterr()
    assert main(['sample', '--model', str(out), '--step', '6', '--seeds', '0', '--out', str(tmp_path / 'x.png')]) == 1
    assert 'holds step 7 alone, not 6' in capsys.readouterr().err
    for words, told in (
        (['--out', str(workdir)], 'is the folder of a run'),
        (['--out', str(tmp_path / '0.png')], 'is a file; choose a folder'),
        (['--out', str(tmp_path / '0.png/a.safetensors')], 'is a file, so nothing can be written below it'),
        (['--out', str(tmp_path / 'y'), '--platforms', 'cpu'], 'goes with --format stablehlo'),
    ):
        assert main(['export', '--model', str(workdir), *words]) == 1
        assert told in capsys.readouterr().err


def test_a_file_is_known_by_its_suffix_and_a_folder_by_having_none(cips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path('checkpoints').mkdir()  # of something else: no run is here
    for out, file in (
        ('m.safetensors', 'm.safetensors'),
        ('UP.SAFETENSORS', 'UP.SAFETENSORS'),
        ('psi0.7', 'psi0.7/model.safetensors'),
    ):
        assert str(sharing.export(cips, out)) == file
        assert_same(load(file), cips)
    pathlib.Path('there.pt').mkdir()
    assert sharing.export(cips, 'there.pt') == pathlib.Path('there.pt/model.safetensors')
    there = sorted(pathlib.Path().iterdir())
    for out, told in (
        ('g_ema.pt', r'g_ema\.pt: no \.pt is written .* FILE\.safetensors, or name a folder without \.pt\.$'),
        ('m.stablehlo', r'write FILE\.safetensors, add --format stablehlo, or name a folder without \.stablehlo'),
    ):
        with pytest.raises(UserError, match=told):
            sharing.export(cips, out)
    with pytest.raises(UserError, match=r'write FILE\.stablehlo, add --format safetensors, or'):
        sharing.export_program(cips, 'm2.safetensors')
    pathlib.Path('config.json').write_text('{}')
    with pytest.raises(UserError, match='is the folder of a run'):
        sharing.export(cips, 'm2.safetensors')
    assert sorted(p for p in pathlib.Path().iterdir() if p.name != 'config.json') == there


def test_training_begins_with_it(workdir, cips, tmp_path):
    file = sharing.export(cips, tmp_path / 'a.safetensors')
    template = jax.eval_shape(functools.partial(create_state, cips.gan, 0))
    of_file, of_run = (read_networks(template, str(place)) for place in (file, workdir))
    jax.tree.map(np.testing.assert_array_equal, of_file, of_run)
    assert 'd' not in of_file[0] and of_file[1] == []
    np.testing.assert_array_equal(of_file[0]['ema']['emb'], cips.variables['params']['emb'])


# Programs -------------------------------------------------------------------------------------------------------------

STRANGER = """
import sys
sys.modules['pegan_jax'] = None  # any import of it raises
import jax, numpy as np
from jax import export
folder = sys.argv[1]
with np.load(f'{folder}/in.npz') as given:
    given = dict(given)
cips = export.deserialize(open(f'{folder}/cips.stablehlo', 'rb').read())
assert cips.platforms == ('cpu', 'tpu')
found = {f'cips{n}': cips.call(given['z'][:n], np.float32(0.7)) for n in (1, 3)}
pggan = export.deserialize(open(f'{folder}/pggan/model.stablehlo', 'rb').read())
found['pggan'] = pggan.call(given['z_pggan'], given['label'])
deepfill = export.deserialize(open(f'{folder}/deepfill.stablehlo', 'rb').read())
found['deepfill'] = deepfill.call({'image': given['image'], 'mask': given['mask']})
assert not any(name.startswith(('pegan_jax.', 'flax', 'optax')) for name in sys.modules)
np.savez(f'{folder}/out.npz', **found)
"""


@pytest.mark.slow
def test_a_program_runs_without_this_library(workdir, cips, tmp_path, capsys):
    words = ['--format', 'stablehlo', '--platforms', 'cpu,tpu', '--out', str(tmp_path / 'cips.stablehlo')]
    assert main(['export', '--model', str(workdir), *words]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == ['z: float32 [N, 16]', 'truncation_psi: float32 []', str(tmp_path / 'cips.stablehlo')]
    pggan = model_of('pggan:tiny', 'model.c_dim=2', 'data.labels=True')
    deepfill = model_of('deepfill:tiny')
    assert 'label' in sharing.export_program(pggan, tmp_path / 'pggan').arguments
    sharing.export_program(deepfill, tmp_path / 'deepfill.stablehlo')
    rng, (height, width) = np.random.default_rng(0), deepfill.config.data.size
    image = rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    mask = np.zeros((2, height, width, 1), np.float32)
    mask[:, 4:12, 4:12] = 1
    z, label = pggan.sampler.draw([0, 1]), np.eye(2, dtype=np.float32)
    np.savez(tmp_path / 'in.npz', z=cips.sampler.draw([0, 1, 2]), z_pggan=z, label=label, image=image, mask=mask)
    subprocess.run([sys.executable, '-c', STRANGER, str(tmp_path)], check=True, cwd=tmp_path)
    with np.load(tmp_path / 'out.npz') as file:
        found = dict(file)
    want = sample(cips, [0, 1, 2], truncation_psi=0.7)
    assert np.abs(want - sample(cips, [0, 1, 2])).max() > 1e-2 and np.abs(want[0] - want[1]).max() > 1e-2
    np.testing.assert_allclose(found['cips3'], want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found['cips1'], want[:1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found['pggan'], sample(pggan, [0, 1], label=[0, 1]), rtol=0, atol=1e-5)
    want = deepfill.complete({'image': image, 'mask': mask})
    # Where two patches are nearly equally like a third, the softmax of attention makes much of their rounding.
    wrong = np.abs(found['deepfill'] - want)
    assert wrong.mean() < 5e-5 and wrong.max() < 1e-2, (wrong.mean(), wrong.max())


def test_the_lines_of_the_page_call_it(cips, tmp_path):
    page = (ROOT / 'docs' / 'sharing.md').read_text()
    lines = page.partition('```python\n')[2].partition('```')[0].replace('64', '16')  # the latents of this model
    sharing.export_program(cips, tmp_path)
    blocked = "import sys\nsys.modules['pegan_jax'] = None\n"
    subprocess.run(
        [sys.executable, '-c', f"{blocked}{lines}\nnp.save('out.npy', images)"], check=True, cwd=tmp_path
    )  # fmt: skip
    want = sample(cips, [3], truncation_psi=0.7)
    np.testing.assert_allclose(np.load(tmp_path / 'out.npy'), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('spec', ['creps:tiny', 'stylegan3:t,tiny', 'stylegan2:tiny', 'mspie:tiny', 'dcgan:tiny'])
def test_every_system_makes_a_program_of_a_free_number_of_images(spec, tmp_path):
    program = sharing.export_program(model_of(spec), tmp_path)
    assert program.arguments['z'].split()[1] == '[N,'


def test_convolutions_of_many_channels_take_a_free_number_of_images_too(tmp_path):
    model = model_of('stylegan2:tiny', 'model.channel_base=1024', 'model.channel_max=64')
    file = sharing.export_program(model, tmp_path, platforms=('cpu',)).file
    z, program = model.sampler.draw([0, 1, 2]), export.deserialize(file.read_bytes())
    want = sample(model, [0, 1, 2], truncation_psi=0.7)
    assert np.abs(want[0] - want[1]).max() > 1e-2
    for count in (1, 3):
        found = program.call(z[:count], np.float32(0.7))
        np.testing.assert_allclose(found, want[:count], rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    'spec, options, match',
    [
        ('cips:tiny', {'platforms': ('gpu',)}, "platforms has 'gpu'; there are cpu, cuda, rocm, tpu"),
        ('cips:tiny', {'noise': 'nonsense'}, "noise='nonsense'; a program has 'const' or 'none'"),
        ('cips:tiny', {'noise': 'random'}, "noise='random'; a program has 'const' or 'none'"),
        ('dcgan:tiny', {'noise': 'const'}, "noise='const': dcgan has no noise of its own; leave it out"),
        ('deepfill:tiny', {'noise': 'none'}, "noise='none': deepfill has no noise of its own; leave it out"),
    ],
)
def test_a_program_with_other_settings_is_refused(spec, options, match, tmp_path):
    with pytest.raises(UserError, match=match):
        sharing.export_program(model_of(spec), tmp_path / 'a', **options)
    assert not (tmp_path / 'a').exists()


# Official names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'fixture', ['gen_skip_r8', 'gen_skip_r16', 'gen_skip_sin_r8', 'gen_skip_sinrelu_r8', 'gen_res_r8', 'gen_res_sin_r8']
)
def test_a_generator_of_cips_goes_back_to_the_official_file(tmp_path, golden, fixture):
    official = golden(fixture)
    save_file({k: np.ascontiguousarray(v) for k, v in official.items()}, tmp_path / 'a.safetensors')
    activation = 'sinrelu' if 'sinrelu' in fixture else 'sin' if 'sin' in fixture else None
    convert(tmp_path / 'a.safetensors', tmp_path / 'model', activation=activation)
    model = load(tmp_path / 'model')
    assert model.imported['file'] == 'a.safetensors'
    back = load_file(sharing.export_official(model, tmp_path / 'back.safetensors'))
    assert back.keys() == official.keys()
    for name, array in official.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name, strict=True)


def test_a_generator_of_the_port_goes_back_to_its_file(tmp_path):
    tree = reader.read(CHECKPOINT)
    official = {**contents.arrays(tree['g_ema']), 'latent_avg': tree['latent_avg']}
    convert(CHECKPOINT, tmp_path / 'model')
    assert main(
        ['export', '--model', str(tmp_path / 'model'), '--format', 'official', '--out', str(tmp_path / 'a.safetensors')]
    ) == 0  # fmt: skip
    back = load_file(tmp_path / 'a.safetensors')
    assert back.keys() == official.keys()
    for name, array in official.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name, strict=True)
    convert(tmp_path / 'a.safetensors', tmp_path / 'again')
    jax.tree.map(np.testing.assert_array_equal, *(load(tmp_path / n).variables for n in ('model', 'again')))


def test_the_two_forms_lie_beside_each_other_in_a_folder(cips, tmp_path):
    sharing.export(cips, tmp_path)
    assert sharing.export_official(cips, tmp_path) == tmp_path / 'g_ema.safetensors'
    assert_same(load(tmp_path), cips)


UNCLAMPED, GREY = ['model.conv_clamp=None'], ['model.img_channels=1', 'data.channels=1']


def sized(size):
    return [f'model.img_resolution={size}', f'data.resolution={size}']


@pytest.mark.parametrize(
    'spec, overrides, match',
    [
        ('cips:tiny', ['model.lr_multiplier=1.0'], r'model.lr_multiplier=1.0 is not 0.01'),
        ('stylegan2:tiny', [], r'model.conv_clamp=256.0 is not None'),
        ('stylegan2:tiny', [*UNCLAMPED, *sized('(16,32)')], r'model.img_resolution=\(16, 32\) is not 16'),
        ('stylegan2:tiny', [*UNCLAMPED, *sized('24')], r'model.img_resolution=24 is not 16'),
        ('stylegan2:tiny', [*UNCLAMPED, *GREY], r'model.img_channels=1 is not 3'),
        ('cips:tiny', sized('(16,32)'), r'model.img_resolution=\(16, 32\) is not 16'),
        ('cips:tiny', GREY, r'model.img_channels=1 is not 3'),
        ('pggan:tiny', [], 'weights of pggan are not written for another program'),
    ],
)
def test_a_model_that_the_official_program_does_not_have_is_refused(tmp_path, spec, overrides, match):
    with pytest.raises(UserError, match=match):
        sharing.export_official(model_of(spec, *overrides), tmp_path / 'a.safetensors')
    assert not list(tmp_path.iterdir())


# The hub --------------------------------------------------------------------------------------------------------------


def forget():
    """So that the package reads its settings, which are variables of the environment, again."""
    for name in [name for name in sys.modules if name.partition('.')[0] == 'huggingface_hub']:
        del sys.modules[name]


@pytest.fixture(scope='module')
def online(tmp_path_factory):
    """A hub on this machine, and no other."""
    folder = tmp_path_factory.mktemp('hub')
    with hub_server.running() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv('HF_ENDPOINT', server.address)
        patch.setenv('HF_HOME', str(folder))
        patch.setenv('HF_TOKEN', 'hf_of_a_test')
        patch.setenv('HF_HUB_DISABLE_TELEMETRY', '1')
        patch.setenv('HF_HUB_DISABLE_XET', '1')
        for name in ('HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_HUB_OFFLINE', 'HUGGING_FACE_HUB_TOKEN'):
            patch.delenv(name, raising=False)
        forget()
        from huggingface_hub import constants

        assert constants.ENDPOINT == server.address
        yield server
    forget()


@pytest.fixture
def offline(online, monkeypatch, tmp_path):
    """No network, and an empty cache. Returns: its folder."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))
    forget()
    yield tmp_path / 'cache'
    forget()


def test_what_is_pushed_is_loaded(online, workdir, cips, tmp_path, capsys):
    words = ['push', '--model', str(workdir), '--to', 'hf://user/worlds', '--licence', 'cc-by-4.0']
    assert main([*words, '--private']) == 0
    assert capsys.readouterr().out.strip() == f'{online.address}/user/worlds/commit/{hub_server.COMMIT}'
    files = online.files['user/worlds']
    assert sorted(files) == ['README.md', 'config.json', 'model.safetensors', 'samples.png']
    assert online.made['user/worlds']['visibility'] == 'private'
    assert not any(b'somebody' in content for content in files.values())
    card = files['README.md'].decode()
    assert card.startswith('---\nlibrary_name: pegan_jax\nlicense: cc-by-4.0\npipeline_tag: unconditional-image-gen')
    assert "pegan_jax.load('hf://user/worlds')" in card
    assert '| fid10k | 12.35 |  | 2026-11-26 |' in card and '| swd' not in card
    assert_same(load('hf://user/worlds'), cips)
    assert_same(load('hf://user/worlds@main'), cips)
    assert main(['sample', '--model', 'hf://user/worlds', '--seeds', '0', '--out', str(tmp_path / 'a.png')]) == 0
    template = jax.eval_shape(functools.partial(create_state, cips.gan, 0))
    assert read_networks(template, 'hf://user/worlds')[1] == []
    files['README.md'] = b'---\nlicense: mit\n---\nmy own words'
    assert main(words) == 0
    assert files['README.md'].endswith(b'my own words')  # a card that is there stays


def test_a_public_repository_does_not_get_what_was_to_be_private(online):
    model = model_of('deepfill:tiny')  # which has no pictures to make
    online.files['user/public'] = {}
    with pytest.raises(UserError, match='hf://user/public is there already, and public; make it private in its'):
        sharing.push(model, 'hf://user/public', licence='mit', private=True)
    assert not online.files['user/public']
    sharing.push(model, 'hf://user/public', licence='mit')
    for _ in range(2):  # the second time it is there, and private
        sharing.push(model, 'hf://user/hidden', licence='mit', private=True)


def test_a_branch_that_is_not_there_is_made(online):
    model = model_of('deepfill:tiny')
    for _ in range(2):
        sharing.push(model, 'hf://user/branched@v2', licence='mit')
    assert online.branches['user/branched'] == {'main', 'v2'}
    assert_same(load('hf://user/branched@v2'), model)


def test_the_cache_of_this_machine_is_enough(offline, cips, tmp_path):
    revision, place = 'b' * 40, offline / 'models--user--faces'
    file = sharing.export(cips, tmp_path / 'a.safetensors')
    (place / 'blobs').mkdir(parents=True)
    (place / 'refs').mkdir()
    (place / 'snapshots' / revision).mkdir(parents=True)
    file.rename(place / 'blobs' / 'cafe')
    (place / 'refs' / 'main').write_text(revision)
    (place / 'snapshots' / revision / 'model.safetensors').symlink_to('../../blobs/cafe')
    assert_same(load('hf://user/faces'), cips)
    assert_same(load(f'hf://user/faces@{revision}'), cips)
    with pytest.raises(UserError, match='hf://user/other is not in the cache of this machine, and the hub cannot be'):
        load('hf://user/other')
    with pytest.raises(UserError, match=r'hf://user/faces: .*[Oo]ffline'):
        sharing.push(cips, 'hf://user/faces', licence='mit')


def test_what_the_hub_says_becomes_a_line_that_says_what_to_do(online, cips, capsys):
    online.files['user/photos'] = {'cat.jpg': b''}
    for place, match in (
        ('hf://user/none', 'shows no model of this name. .* hf auth login'),
        ('hf://user/photos', 'holds no model of this library'),
        ('hf://user/photos@v3', 'no such revision'),
        ('hf://user', 'is no model of the hub; write hf://user/name'),
        ('hf://user/../name', 'is no model of the hub'),
    ):
        with pytest.raises(UserError, match=match):
            load(place)
    with pytest.raises(UserError, match="licence='CC BY' is no name of the hub, such as"):
        sharing.push(cips, 'hf://user/photos', licence='CC BY')
    online.refuses = 403
    try:
        with pytest.raises(UserError, match=r'does not let you do this\. Log in'):
            sharing.push(cips, 'hf://user/photos', licence='mit')
    finally:
        online.refuses = None
    assert list(online.files['user/photos']) == ['cat.jpg']
    with pytest.raises(SystemExit):
        main(['sample', '--model', 'hf://user', '--seeds', '0', '--out', 'a.png'])
    assert 'write hf://user/name' in capsys.readouterr().err


def test_a_full_disk_is_not_the_network(online):
    for error in (OSError(28, 'No space left on device', '/cache/blob'), PermissionError(13, 'denied', '/cache')):
        with pytest.raises(type(error), match=error.filename) as caught, hub.told('hf://user/name'):
            raise error
        assert not isinstance(caught.value, UserError)
    with pytest.raises(UserError, match='check the network'), hub.told('hf://user/name'):
        raise ConnectionError(111, 'refused')


def test_convert_says_that_a_file_of_the_hub_is_fetched_first(tmp_path, capsys):
    told = 'convert takes a file on this machine: download it first, with hf download user/name FILE'
    with pytest.raises(UserError, match=told):
        convert('hf://user/name', tmp_path / 'out')
    assert main(['convert', 'hf://user/name@v1', '--out', str(tmp_path / 'out')]) == 1
    assert told in capsys.readouterr().err


def test_without_its_package_the_error_says_what_to_install(monkeypatch, cips):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    for action in (lambda: load('hf://user/name'), lambda: sharing.push(cips, 'hf://user/name', licence='mit')):
        with pytest.raises(UserError, match=r"pip install 'pegan_jax\[hub\]'"):
            action()


def test_a_card_tells_of_classes_and_of_the_licence_of_converted_weights():
    model = model_of('pggan:tiny', 'model.c_dim=2', 'data.labels=True')
    model = dataclasses.replace(model, imported={'file': 'x.pt', 'licence': 'Ask its author.'})
    card = sharing.card(model, 'user/name', 'other', [])
    assert 'seeds=[0, 1, 2], label=0)' in card and '--seeds 0-31 --class 0 --out' in card
    assert 'a, b' in card and 'Ask its author.' in card and 'weights converted from `x.pt`' in card
    assert 'inpaint' in sharing.card(model_of('deepfill:tiny'), 'user/name', 'mit', [])


@pytest.mark.parametrize('spec', ['deepfill:tiny', 'dcgan:tiny'])
def test_the_lines_of_a_card_run(spec, monkeypatch):
    model = model_of(spec)
    monkeypatch.setattr(pegan_jax, 'load', {'hf://user/name': model}.__getitem__)
    height, width = model.config.data.size
    image, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    card = sharing.card(model, 'user/name', 'mit', [])
    mask[4:8, 4:8] = int(re.search(r'the mask is (\d+) in the hole', card)[1]) if 'mask' in card else 0
    names = {'image': image, 'mask': mask}
    exec(card.partition('```python\n')[2].partition('```')[0], names)
    found = names.get('filled', names.get('images'))
    assert found.shape[-3:] == (height, width, 3)


def test_the_card_of_a_singan_tells_the_size_of_its_samples(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / 'photo.png')
    model = model_of('singan:tiny', f'data.image={tmp_path / "photo.png"}')
    height, width = model.size
    assert f'{height} x {width} pixels' in sharing.card(model, 'user/name', 'mit', [])


def test_a_score_of_other_settings_is_told_apart(tmp_path):
    usual = {'network': 'x', 'truncation_psi': 1.0, 'truncation_cutoff': None, 'noise': 'random', 'seed': 0}
    measured = [
        (9.5, usual, '/home/somebody/faces'), (9.1, usual, '/home/somebody/faces'),
        (3.2, usual | {'truncation_psi': 0.5, 'seed': 7}, '/home/somebody/faces/'), (4.5, usual, 'worlds'),
    ]  # fmt: skip
    lines = [
        {'step': 7, 'fid5k': value, 'evaluation': {'date': '2026-11-26T', 'fake': fake, 'real': {'data': data}}}
        for value, fake, data in measured
    ]
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    card = sharing.card(model_of('cips:tiny'), 'user/name', 'mit', sharing.scores_of(tmp_path, 7))
    assert [line for line in card.splitlines() if 'fid5k' in line] == [
        '| fid5k | 9.1 | faces | 2026-11-26 |',
        '| fid5k | 3.2 | faces, truncation_psi=0.5, seed=7 | 2026-11-26 |',
        '| fid5k | 4.5 | worlds | 2026-11-26 |',
    ]
