"""Vision transformers against those of transformers, live; run as a program, it writes what default tests compare with.

PYTHONPATH=tests python tests/oracles/test_public_vit.py  # writes tests/checkpoints/vit_expected.npz
"""

import pathlib

import foreign
import independent
import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from pegan_jax.weights import vit
from pegan_jax.weights.features import IMAGENET_MEAN, IMAGENET_STD

pytestmark = pytest.mark.slow
EXPECTED = pathlib.Path(__file__).parents[1] / 'checkpoints' / 'vit_expected.npz'


def prepared(images, side, mean, std, *, square=False):
    """What a network gets, [N, 3, side, side]: resized by Pillow, in 8 bits."""
    out = []
    for image in map(Image.fromarray, images):
        if square:
            left, top = ((n - min(image.size)) // 2 for n in image.size)
            image = image.crop((left, top, left + min(image.size), top + min(image.size)))
        x = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) / 255
        out.append(np.moveaxis((x - mean) / std, -1, 0))
    return np.stack(out).astype(np.float32)


def theirs(torch, transformers, kind, arrays, x, *, offset=0.0):
    """Features by transformers; with an offset, torch itself reads the positions, by a factor that is not of sizes."""
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    width = arrays['embeddings.cls_token' if kind == 'dinov2' else 'visual_projection.weight'].shape[-1]
    block = 'encoder.layer.{}.mlp.fc1.weight' if kind == 'dinov2' else 'vision_model.encoder.layers.{}.mlp.fc1.weight'
    layers = sum(name.endswith('mlp.fc1.weight') for name in arrays)
    sizes = {'hidden_size': width, 'num_hidden_layers': layers, 'num_attention_heads': width // 64, 'patch_size': 14}
    if kind == 'dinov2':
        positions = state['embeddings.position_embeddings']
        grid = round((positions.shape[1] - 1) ** 0.5)
        if offset:
            patches = x.shape[2] // 14
            first, rest = positions[:, :1], positions[:, 1:].reshape(1, grid, grid, width).permute(0, 3, 1, 2)
            factor = (patches + offset) / grid
            rest = torch.nn.functional.interpolate(rest, scale_factor=(factor, factor), mode='bicubic')
            state['embeddings.position_embeddings'] = torch.cat([first, rest.flatten(2).transpose(1, 2)], dim=1)
            grid = patches
        ratio = len(arrays[block.format(0)]) // width
        config = transformers.Dinov2Config(**sizes, image_size=14 * grid, mlp_ratio=ratio)
        net = transformers.Dinov2Model(config)
    else:
        config = transformers.CLIPVisionConfig(
            **sizes, image_size=x.shape[2], intermediate_size=len(arrays[block.format(0)]),
            projection_dim=len(arrays['visual_projection.weight']),
        )  # fmt: skip
        net = transformers.CLIPVisionModelWithProjection(config)
    # Names inside of the module may differ from those in its files, which are given.
    net = type(net).from_pretrained(None, config=config, state_dict=state).eval()
    with torch.no_grad():
        found = net(torch.tensor(x))
    found = found.pooler_output if kind == 'dinov2' else torch.nn.functional.normalize(found.image_embeds)
    return found.numpy()


def all_of_theirs(torch, transformers):
    images, arrays = foreign.pictures(), foreign.dinov2()
    x = prepared(images, 224, IMAGENET_MEAN, IMAGENET_STD)
    clip = foreign.clip()
    return {
        'dinov2': theirs(torch, transformers, 'dinov2', arrays, x, offset=0.1),
        'dinov2_without_offset': theirs(torch, transformers, 'dinov2', arrays, x),
        'clip': theirs(
            torch, transformers, 'clip', clip, prepared(images, 70, vit.CLIP_MEAN, vit.CLIP_STD, square=True)
        ),
    }


def test_features_are_those_of_transformers_resized_by_pillow(tmp_path):
    torch, transformers = (pytest.importorskip(name, reason=independent.REASON) for name in ('torch', 'transformers'))
    want = all_of_theirs(torch, transformers)
    for name, array in np.load(EXPECTED).items():
        np.testing.assert_allclose(want[name], array, rtol=0, atol=1e-4, err_msg=name)
    wide = foreign.dinov2(width=192, layers=3, hidden=384, grid=16)  # no positions between others
    x = prepared(foreign.pictures(2, 300, 300), 224, IMAGENET_MEAN, IMAGENET_STD)
    safetensors.numpy.save_file(wide, tmp_path / 'wide.safetensors')
    net, params = vit.load_dinov2(tmp_path / 'wide.safetensors')
    got = jax.jit(vit.dinov2_features, static_argnums=0)(net, params, foreign.pictures(2, 300, 300))
    np.testing.assert_allclose(got, theirs(torch, transformers, 'dinov2', wide, x), rtol=0, atol=1e-4)


if __name__ == '__main__':
    import torch
    import transformers

    np.savez(EXPECTED, **all_of_theirs(torch, transformers))
    print(EXPECTED, EXPECTED.stat().st_size, 'bytes, of transformers', transformers.__version__)
