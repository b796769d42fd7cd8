"""DINOv2 and CLIP: features by transformers, in all layouts of files; resizing; what is refused."""

import pathlib

import foreign
import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from pegan_jax.cli import main
from pegan_jax.metrics import gaussians, kernel
from pegan_jax.scoring.networks import open_network
from pegan_jax.settings import UserError
from pegan_jax.weights import kinds, vit
from pegan_jax.weights.contents import ForeignFileError

EXPECTED = dict(np.load(pathlib.Path(__file__).parents[1] / 'checkpoints' / 'vit_expected.npz'))
dinov2_features = jax.jit(vit.dinov2_features, static_argnums=0)
clip_features = jax.jit(vit.clip_features, static_argnums=0)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Files of both networks, each in the layouts that there are."""
    folder, dinov2, clip = tmp_path_factory.mktemp('weights'), foreign.dinov2(), foreign.clip()
    safetensors.numpy.save_file(dinov2, folder / 'dinov2.safetensors')
    safetensors.numpy.save_file(clip, folder / 'clip.safetensors')
    foreign.write_state_dict(folder / 'dinov2.pth', own_names(dinov2))
    whole = {'text_model.embeddings.token_embedding.weight': np.zeros((5, 8), np.float32), 'logit_scale': np.ones(1)}
    whole |= {'vision_model.embeddings.position_ids': np.arange(26)[None], 'text_projection.weight': np.zeros((8, 8))}
    foreign.write_state_dict(folder / 'clip.bin', whole | clip)
    return folder


def own_names(arrays):
    """Arrays of DINOv2 by the names of its own program, where queries, keys and values are one array."""
    words = {
        'embeddings.position_embeddings': 'pos_embed', 'embeddings.patch_embeddings.projection': 'patch_embed.proj',
        'embeddings.': '', 'encoder.layer': 'blocks', 'attention.output.dense': 'attn.proj', 'layernorm': 'norm',
        'layer_scale1.lambda1': 'ls1.gamma', 'layer_scale2.lambda1': 'ls2.gamma',
    }  # fmt: skip
    out = {}
    for name, array in arrays.items():
        for old, new in words.items():
            name = name.replace(old, new)
        out[name] = array
    for name in [name for name in out if '.attention.attention.query.' in name]:
        parts = [out.pop(name.replace('query', part)) for part in ('query', 'key', 'value')]
        out[name.replace('attention.attention.query', 'attn.qkv')] = np.concatenate(parts)
    return out


@pytest.mark.parametrize('name', ['dinov2.safetensors', 'dinov2.pth'])
def test_dinov2_has_the_class_token_of_transformers(files, name):
    net, params = vit.load_dinov2(files / name)
    assert (net.width, net.layers, net.hidden, net.patch, net.grid) == (128, 2, 256, 14, 37)
    for key, offset in (('dinov2', vit.OFFSET), ('dinov2_without_offset', 0)):
        got, want = dinov2_features(net.clone(offset=offset), params, foreign.pictures()), EXPECTED[key]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    assert np.abs(EXPECTED['dinov2'] - EXPECTED['dinov2_without_offset']).max() > 0.1


@pytest.mark.parametrize('name', ['clip.safetensors', 'clip.bin'])
def test_clip_has_the_embeddings_of_transformers_with_length_one(files, name):
    net, params = vit.load_clip(files / name)
    assert (net.width, net.layers, net.hidden, net.patch, net.grid, net.embedding) == (128, 2, 96, 14, 5, 24)
    got, want = clip_features(net, params, foreign.pictures()), EXPECTED['clip']
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(('size', 'side'), [((40, 61), 224), ((300, 280), 224), ((37, 64), 112), ((224, 100), 224)])
def test_images_are_resized_as_pillow_does_it(size, side):
    images = foreign.pictures(3, *size)
    want = [np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in images]
    off = np.abs(np.asarray(jax.jit(vit._resized, static_argnums=1)(images, side)) - np.stack(want))
    assert off.max() <= 1 and (off > 0).mean() < 1e-3  # where Pillow's weights, of 22 bits, round the other way


def test_dinov2_sees_all_of_an_image_and_clip_the_middle_square(files):
    images = foreign.pictures(2, 32, 47)
    for load, run, crops in (
        (vit.load_dinov2, dinov2_features, False),
        (vit.load_clip, clip_features, True),
    ):
        net, params = load(files / f'{"clip" if crops else "dinov2"}.safetensors')
        whole, middle = run(net, params, images), run(net, params, images[:, :, 7:39])
        assert np.allclose(whole, middle, atol=1e-6) == crops


def test_files_of_other_networks_are_refused_with_what_they_lack(files, tmp_path):
    def refused(load, arrays, match):
        path = foreign.write_state_dict(tmp_path / 'net.pth', arrays)
        with pytest.raises(ForeignFileError, match=match) as told:
            load(path)
        assert str(told.value).startswith(f'{path}: ') and '\n' not in str(told.value)

    dinov2, clip = foreign.dinov2(), foreign.clip()
    giant = {name.replace('fc1', 'weights_in').replace('fc2', 'weights_out'): x for name, x in dinov2.items()}
    refused(vit.load_dinov2, giant, r'is not a file of DINOv2 \(ViT-S, B or L\): nothing in it is layer_0/fc1/kernel')
    refused(vit.load_dinov2, clip, 'is not a file of DINOv2')
    refused(vit.load_clip, dinov2, 'is not a file of CLIP')
    refused(vit.load_clip, {k: x for k, x in clip.items() if 'projection' not in k}, 'nothing in it is projection/kern')
    registers = {'embeddings.register_tokens': np.zeros((1, 4, 128), np.float32)}
    refused(vit.load_dinov2, dinov2 | registers, r'left over: embeddings\.register_tokens \(1, 4, 128\)')
    lacking = {name: x for name, x in dinov2.items() if 'layer_scale2' not in name}
    refused(vit.load_dinov2, lacking, 'not filled: layer_0/scale2')
    refused(vit.load_dinov2, foreign.dinov2(width=80), 'has 80 channels, which should be a multiple of 64')
    cut = {'embeddings.position_embeddings': dinov2['embeddings.position_embeddings'][:, 1:]}
    refused(vit.load_dinov2, dinov2 | cut, 'and 1369 positions, which should be one more than those of a square')
    flat = {'embeddings.patch_embeddings.projection.weight': np.zeros((128, 588), np.float32)}
    refused(vit.load_dinov2, dinov2 | flat, r'projection\.weight has the shape \(128, 588\)')
    for name, lost in (
        ('embeddings.position_embeddings', 'positions'), ('encoder.layer.0.mlp.fc1.weight', 'layer_0/fc1/kernel'),
    ):  # fmt: skip
        refused(vit.load_dinov2, dinov2 | {name: dinov2[name][0]}, f'nothing in it is {lost}')
    for arrays in (dinov2, own_names(dinov2), clip):
        assert 'looks like a vision transformer (DINO, CLIP)' in kinds.program(arrays)


def test_each_file_has_a_place_of_its_own_in_the_cache(tmp_path):
    for name, file in (('dinov2', 'dinov2-large.safetensors'), ('clip', 'clip-vit-large-patch14-336.bin')):
        with pytest.raises(UserError, match=rf'save https://huggingface.co/.* as {tmp_path}/weights/{file}, name your'):
            open_network(name, {}, tmp_path)


def test_scores_of_folders_are_those_of_their_features(files, tmp_path, capsys):
    pictures = {'fake': foreign.pictures(10, 32, 32), 'real': foreign.pictures(22, 32, 32)[10:]}
    for side, images in pictures.items():
        (tmp_path / side).mkdir()
        for n, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / side / f'{n:02}.png')
    weights = [f'--weights={name}={files / name}.safetensors' for name in ('dinov2', 'clip')]
    folders = ['--fake', f'{tmp_path}/fake', '--real', f'{tmp_path}/real', '--out', f'{tmp_path}/scores.jsonl']
    names = ['--metrics', 'fd_dinov2_10_full,cmmd10_full,kid_dinov2_10', '--cache', f'{tmp_path}/cache']
    assert main(['evaluate', *folders, *names, *weights]) == 0
    got = dict(line.split() for line in capsys.readouterr().out.splitlines() if len(line.split()) == 2)
    (dinov2, params), (clip, more) = vit.load_dinov2(files / 'dinov2.pth'), vit.load_clip(files / 'clip.bin')
    features = {side: np.asarray(dinov2_features(dinov2, params, x)) for side, x in pictures.items()}
    want = gaussians.frechet_distance(*(gaussians.fit(features[side]) for side in ('real', 'fake')))
    assert float(got['fd_dinov2_10_full']) == pytest.approx(want, rel=1e-4) and want > 1
    embeddings = {side: np.asarray(clip_features(clip, more, x)) for side, x in pictures.items()}
    want = kernel.cmmd(embeddings['real'], embeddings['fake'])
    assert float(got['cmmd10_full']) == pytest.approx(want, rel=1e-3, abs=1e-4) and want > 0.01
    line = (tmp_path / 'scores.jsonl').read_text()
    assert '"network": "clip"' in line and '"layers": 2, "width": 128' in line and 'kid_dinov2_10' in got
