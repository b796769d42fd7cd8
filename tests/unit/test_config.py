"""Configurations: overrides, JSON, and errors that name the field, the value and the fix."""

import dataclasses

import pytest

from pegan_jax import config as configs
from pegan_jax.config import ConfigError, load_config


def test_overrides_replace_single_fields_with_their_types():
    config = load_config(
        'cips:tiny',
        ['optim.g_lr=3e-4', 'train.sample_grid=(2,3)', 'data.folder=None', 'model.dtype=bfloat16', 'data.flip=false'],
    )
    assert config.optim.g_lr == 3e-4 and config.train.sample_grid == (2, 3)
    assert config.data.folder is None and config.model.dtype == 'bfloat16' and config.data.flip is False


def test_text_that_looks_like_a_number_stays_text_where_a_path_is_wanted():
    assert load_config('cips:tiny', ['data.folder=2024']).data.folder == '2024'


def test_json_gives_an_equal_configuration_back():
    config = load_config('cips:tiny', ['train.sample_grid=(2,3)'])
    assert configs.from_json(configs.to_json(config)) == config


@pytest.mark.parametrize(
    'override, message',
    [
        ('optim.g_lrr=1', r"unknown config field 'optim.g_lrr'.*did you mean 'g_lr'"),
        ('modle.dtype=float32', r"unknown config field 'modle.dtype'.*did you mean 'model'"),
        ('optim.g_lr.x=1', r"unknown config field 'optim.g_lr.x'"),
        ('train.batch_size=abc', r"train.batch_size='abc' is a str; expected int"),
        ('train.batch_size=2.5', r'train.batch_size=2.5 is a float; expected int'),
        ('train.batch_size=True', r'train.batch_size=True is a bool; expected int'),
        ('train.backend=xla', r"train.backend='xla' is a str; expected 'jit' or 'pmap'"),
        ('train.sample_grid=4', r'train.sample_grid=4 is a int; expected tuple'),
        ('train.batch_size=0', r'train.batch_size=0 must be at least 1'),
        ('train.total_kimg=1e999', r'train.total_kimg=inf must be at least 0, and finite'),
        ('train.total_kimg=1e306', r'train.total_kimg=1e\+306 must be below 2,147,484'),
        ('optim.eps=0', r'optim.eps=0 divides nothing by nothing'),
        ('optim.beta2=1.0', r'optim.beta2=1.0 must lie in \[0, 1\)'),
        ('model=3', r'model is a section; override one of its fields'),
        ('model.dtype', r'override .* has no value'),
        ('data.tfds=None', r'no data: set one of'),
        ('data.channels=1', r'model.img_channels=3 differs from data.channels=1: set both to 1 \(grey\), 3 \(RGB\)'),
        ('data.channels=2', r'data.channels=2 is a int; expected 1 or 3 or 4'),
        ('model.img_channels=True', r'model.img_channels=True is a bool; expected 1 or 3 or 4'),
        ('data.outside=0.01', r'data.outside=0.01 is a distance in frames, .* of 16 pixels: use 0.0, or .* 0.0625'),
        ('data.outside=-1.0', r'data.outside=-1.0 is a distance in frames'),
        ('data.outside=1e999', r'data.outside=inf is a distance in frames'),
        ('data.frame_share=1.5', r'data.frame_share=1.5 must lie in \[0, 1\]'),
        ('data.outside=1.0', r'data.outside=1.0, but the discriminator of cips does not .* model.d_sees_coords=True'),
        ('system=dcgann', r"unknown system 'dcgann'"),
    ],
)
def test_a_wrong_override_is_refused_with_its_reason(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config('cips:tiny', [override])


def test_combinations_that_cannot_run_are_refused():
    with pytest.raises(ConfigError, match=r"data.folder='a' and data.image='b' exclude each other"):
        load_config('cips:tiny', ['data.folder=a', 'data.image=b'])
    with pytest.raises(ConfigError, match=r'data.resolution=128 differs from model.img_resolution'):
        load_config('cips:tiny', ['data.resolution=128'])


def test_fields_that_depend_on_each_other_are_validated_together():
    config = load_config('cips:tiny')
    both = load_config('cips:tiny', ['data.resolution=32', 'model.img_resolution=32', 'model.d_channels=None'])
    assert both.data.resolution == both.model.img_resolution == 32 != config.data.resolution


@pytest.mark.parametrize('name', ['creps', 'dcgan', 'deepfill', 'mspie', 'pconv', 'pggan', 'singan', 'stylegan2'])
def test_systems_that_learn_the_frame_alone_refuse_windows_outside(name):
    overrides = ['data.outside=1.0', 'data.crop=center', *(['data.image=a.png'] if name == 'singan' else [])]
    with pytest.raises(ConfigError, match=f'data.outside=1.0, but the discriminator of {name} .* set it to 0.0; CIPS'):
        load_config(f'{name}:tiny', overrides)


@pytest.mark.parametrize('name', ['cips', 'dcgan', 'deepfill', 'mspie', 'pconv', 'singan'])
def test_systems_without_classes_refuse_labels(name):
    with pytest.raises(ConfigError, match=f'data.labels=True, but {name} takes no labels; set data.labels=False'):
        load_config(f'{name}:tiny', ['data.labels=True'])


@pytest.mark.parametrize(
    'name', ['cips', 'creps', 'dcgan', 'mspie', 'pconv', 'pggan', 'singan', 'stylegan2', 'stylegan3']
)
def test_systems_without_sketches_refuse_edges(name):
    with pytest.raises(ConfigError, match=f"data.edges='canny', but {name} takes no sketch.* set data.edges='none'"):
        load_config(f'{name}:tiny', ['data.edges=canny'])


@pytest.mark.parametrize(
    'words, message',
    [
        ('cips:sine,sinrelu', 'sine and sinrelu exclude each other, as both set model.activation; choose one of them'),
        ('cips:no-skips,residual', 'no-skips and residual exclude each other, as both set model.wiring'),
        ('deepfill:partial,vanilla', 'partial and vanilla exclude each other, as both set model.conv_type'),
        ('deepfill:gate-single,guided,gate-depthwise', 'gate-single and gate-depthwise exclude .* model.gate'),
    ],
)
def test_words_that_contradict_each_other_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(words)


def test_words_change_a_run_and_may_agree():
    assert load_config('cips:landscapes256,no-skips').model.wiring == 'plain'
    assert load_config('cips:landscapes256,residual,residual').model.wiring == 'residual'


@pytest.mark.parametrize(
    'overrides, message',
    [
        (['data.crop=random'], "data.outside=1.0 and data.crop='random' exclude each other.*'center' or 'stretch'"),
        (['data.crop=window'], "data.outside=1.0 and data.crop='window' exclude each other"),
        (['model.rotate=True', 'data.resolution=24'], 'data.outside=1.0 and model.rotate=True exclude each other'),
        (['model.panorama_width=64'], 'data.outside=1.0 and model.panorama_width=64 exclude each other'),
        (['model.train_lookup=raw'], "data.outside=1.0 needs model.train_lookup='bilinear'"),
    ],
)
def test_what_has_no_place_in_a_frame_excludes_windows_outside(overrides, message):
    windows = ['data.outside=1.0', 'model.d_sees_coords=True', 'model.train_lookup=bilinear']
    with pytest.raises(ConfigError, match=message):
        load_config('cips:tiny', [*windows, *overrides])


def test_unknown_files_and_arguments_name_the_nearest():
    with pytest.raises(ConfigError, match=r"no configuration file 'cipss'; did you mean 'cips'\?"):
        load_config('cipss')
    assert load_config('configs/cips.py:tiny') == load_config('./cips.py:tiny') == load_config('cips:tiny')
    for path in ('/no/such/folder/cips.py', 'mine/quickstart'):  # not the one of that name that ships
        with pytest.raises(ConfigError, match=f"no configuration file '{path}'"):
            load_config(f'{path}:tiny')
    with pytest.raises(ConfigError, match=r"no argument 'tinny'; did you mean 'tiny'\?"):
        load_config('cips:tinny')
    with pytest.raises(ConfigError, match='small and tiny exclude each other'):
        load_config('deepfill:small,tiny')


def test_a_misspelt_field_in_a_configuration_file_is_named_with_the_nearest(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from pegan_jax.config import Config\nfrom pegan_jax.models import cips\n'
        "def get_config(arg=''):\n    return Config(system='cips', model=cips.Config(r1_gama=3.0))\n"
    )
    with pytest.raises(ConfigError, match=r"unknown field 'r1_gama' of Config.*did you mean 'r1_gamma'"):
        load_config(str(path))


def test_total_steps_covers_total_kimg():
    train = configs.TrainConfig(batch_size=30, total_kimg=0.1)
    assert train.total_steps == 4
    assert dataclasses.replace(train, total_kimg=0.09).total_steps == 3


def test_the_json_of_a_run_is_a_configuration(tmp_path):
    path = tmp_path / 'a:b' / 'config.json'
    path.parent.mkdir()
    path.write_text(configs.to_json(load_config('cips:tiny')))
    assert load_config(str(path), ['optim.g_lr=0.5']) == load_config('cips:tiny', ['optim.g_lr=0.5'])
    with pytest.raises(ConfigError, match=r"takes no argument 'tiny'; leave it out"):
        load_config(f'{path}:tiny')
    path.write_text('[]')
    with pytest.raises(ConfigError, match=r'is not the config\.json of a run'):
        load_config(str(path))
    (tmp_path / 'a:b' / 'mine.py').write_text(
        'from pegan_jax.config import load_config\n\ndef get_config(arg):\n    return load_config(f"dcgan:{arg}")\n'
    )
    assert load_config(f'{tmp_path}/a:b/mine.py:tiny') == load_config('dcgan:tiny')
