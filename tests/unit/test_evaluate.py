"""Scores on fixed masks: the list, the tables, and the command."""

import json

import numpy as np
import pytest
from PIL import Image

from pegan_jax import evaluation, inpainting
from pegan_jax.cli import main, options
from pegan_jax.config import ConfigError, DataConfig
from pegan_jax.data import masks
from pegan_jax.metrics import image as measures
from pegan_jax.scoring.networks import Network

SIZE = (32, 40)
RNG = np.random.default_rng(0)


def grey(images, holes):
    """A method: holes become grey."""
    return np.where(holes[..., None].astype(bool), 128, images).astype(np.uint8)


@pytest.fixture(scope='module')
def listed():
    return evaluation.cases(0, 2, SIZE, 3)


def test_the_list_of_masks_is_fixed_by_the_seed_and_each_has_the_share_of_holes_of_its_class(listed):
    again = evaluation.cases(0, 2, SIZE, 3)
    for case, same in zip(listed, again, strict=True):
        assert case[:2] == same[:2] and case.image == same.image
        np.testing.assert_array_equal(case.mask, same.mask)
        low, high = case.bucket
        assert case.mask.shape == SIZE and low < case.mask.mean() <= high
    other = evaluation.cases(1, 2, SIZE, 3)
    assert sum((a.mask != b.mask).any() for a, b in zip(listed, other, strict=True)) > len(listed) // 2
    assert [case.image for case in listed[:4]] == [0, 1, 2, 0]
    kinds = {kind: len({c.bucket for c in listed if c.kind == kind}) for kind in evaluation.KINDS}
    assert kinds == {'box': 5, 'brush': 6, 'union': 5} and len(listed) == 32
    with pytest.raises(ValueError, match="unknown kind of mask 'boxes'; known: box, brush, union"):
        evaluation.cases(0, 2, SIZE, 3, ['boxes'])


def test_means_are_over_the_images_of_a_class_and_the_same_whatever_the_batch(listed):
    images = RNG.integers(0, 256, (3, *SIZE, 3)).astype(np.uint8)
    got = evaluation.evaluate({'grey': grey}, images, listed, batch_size=5)
    assert got == evaluation.evaluate({'grey': grey}, images, listed, batch_size=1)
    low, high = masks.BUCKETS[2]
    mine = [c for c in listed if c.kind == 'box' and c.bucket == (low, high)]
    errors = [measures.mean_error(images[c.image], grey(images[c.image], c.mask), 1, c.mask) for c in mine]
    cell = got['grey']['box'][f'{low:g}-{high:g}']
    assert cell['images'] == 2 and cell['l1_hole'] == pytest.approx(np.mean(errors), rel=1e-5)
    assert cell['hole_ratio'] == pytest.approx(np.mean([c.mask.mean() for c in mine]), rel=1e-5)
    parts = [scores for bucket, scores in got['grey']['brush'].items() if bucket != 'all']
    total = sum(s['images'] * s['l1'] for s in parts) / sum(s['images'] for s in parts)
    assert got['grey']['brush']['all']['l1'] == pytest.approx(total, rel=1e-4)
    assert got['grey']['all']['all']['images'] == 32
    l1 = [got['grey']['union'][f'{low:g}-{high:g}']['l1'] for low, high in masks.BUCKETS[1:]]
    assert l1 == sorted(l1)  # larger holes, larger errors of the whole image


def test_perfect_images_have_no_psnr_and_the_table_says_so(listed):
    images = RNG.integers(0, 256, (3, *SIZE, 3)).astype(np.uint8)
    got = evaluation.evaluate({'copy': lambda x, m: x}, images, listed[:2], ('l1', 'psnr', 'ssim'))
    scores = got['copy']['all']['all']
    assert scores['l1'] == scores['l1_relative'] == 0 and scores['psnr'] is None and scores['ssim'] == 1
    lines = evaluation.table(got).splitlines()
    assert lines[0].split() == ['method', 'masks', 'holes', *scores]
    assert lines[1].split()[:4] == ['copy', 'all', 'all', '2'] and lines[1].split()[-2:] == ['-', '1']
    assert len({len(line) for line in lines}) == 1
    with pytest.raises(ValueError, match="unknown metric 'mse'; known: l1, l2, psnr, ssim, tv, lpips"):
        evaluation.evaluate({'copy': lambda x, m: x}, images, listed, ('mse',))


def test_perceptual_distances_are_of_the_whole_image_and_named_in_the_file(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.perceptual, 'lpips', lambda scale, a, b: scale * abs(a - b).mean(axis=(1, 2, 3)))
    distance = evaluation.perceptual_distance(Network('lpips', None, np.float32(2)))
    images = RNG.integers(0, 256, (3, *SIZE, 3)).astype(np.uint8)
    got = evaluation.evaluate({'grey': grey}, images, listed, ('l1', 'lpips'), batch_size=5, lpips=distance)
    cell = got['grey']['all']['all']
    assert cell['lpips'] == pytest.approx(2 * 2 * cell['l1'] / 100, rel=1e-4)
    evaluation.save(got, tmp_path / 'a.json', {}, ('l1', 'lpips'))
    assert 'VGG-16' in json.loads((tmp_path / 'a.json').read_text())['metrics']['lpips']
    with pytest.raises(ValueError, match='lpips needs sides of 16 pixels'):
        evaluation.check_metrics(['lpips'], (12, 40))


def test_worlds_of_evaluations_are_none_of_those_of_training():
    from pegan_jax.data.worlds import render_world
    from pegan_jax.pixels import to_uint8

    images = evaluation.read_images(DataConfig(resolution=16), 2)
    assert images.shape == (2, 16, 16, 3) and (images[0] != images[1]).any()
    want = render_world(np.array([evaluation.sets.REAL_WORLDS + 1], np.int32), 16, 16)
    np.testing.assert_array_equal(images[1:], to_uint8(want))
    with pytest.raises(ConfigError, match='no TFDS dataset'):
        evaluation.read_images(DataConfig(tfds='nothing_like_this'), 2)


def test_images_of_data_are_those_that_scores_are_of(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)).save(tmp_path / '0.png')
    for changes in ({'outside': 1.0}, {'crop': 'stretch'}, {'crop': 'window'}, {}):
        data = DataConfig(folder=str(tmp_path), resolution=8, **changes)
        want = evaluation.sets.of_data(data, tmp_path / 'run').read(0, 1)
        np.testing.assert_array_equal(evaluation.read_images(data, 1), want, err_msg=str(changes))


def test_the_command_compares_on_a_folder_and_writes_json(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(1)
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(folder / f'{i}.png')
    out = tmp_path / 'scores.json'
    arguments = ['evaluate', '--method', 'biharmonic', '--data', str(folder), '--size', '16x24', '--masks', '1']
    assert main([*arguments, '--kinds', 'box,box', '--metrics', 'l1, ssim', '--out', str(out)]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ['scores.json']
    printed = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written['size'] == [16, 24] and written['images'] == 2 and written['model'] is None
    assert list(written['metrics']) == ['l1', 'l1_hole', 'l1_relative', 'ssim']
    listed = evaluation.cases(0, 1, (16, 24), 2, ('box',))
    images = evaluation.read_images(DataConfig(tfds=None, folder=str(folder), resolution=(16, 24)), 64)
    case = listed[1]
    want = measures.mean_error(images[case.image], inpainting.biharmonic(images[case.image], case.mask), 1, case.mask)
    low, high = case.bucket
    cell = written['results']['biharmonic']['box'][f'{low:g}-{high:g}']
    assert cell['l1_hole'] == pytest.approx(want, rel=1e-5) and f'{cell["l1_hole"]:.4g}' in printed
    for more, match in (
        (['--metrics', 'fid'], "unknown metric 'fid'"),
        (['--kinds', 'brushes'], "unknown kind of mask 'brushes'"),
        (['--masks', '0'], '--masks 0 must be at least 1'),
        (['--truncation-psi', '0.5'], 'a score of completions does not take --truncation-psi'),
        (['--data', str(tmp_path / 'nothing')], 'nothing'),
        (['--size', '10x24'], 'ssim has a window of 11 pixels; images of 24 x 10 are too small'),
        (['--out', str(folder)], f'--out {folder} is a folder; name a file'),
    ):
        monkeypatch.setattr(inpainting, 'biharmonic', None)  # refused before any work
        assert main([*arguments, *more]) == 1
        assert match in capsys.readouterr().err
    assert main(['evaluate', '--data', str(folder)]) == 1
    assert 'name a trained --model, or --method biharmonic' in capsys.readouterr().err


def test_completions_are_scored_by_one_process(capsys, monkeypatch):
    monkeypatch.setattr(options, 'join', lambda args: None)
    assert main(['evaluate', '--model', 'fill64', '--metrics', 'l1', '--distributed']) == 1
    assert '--distributed divides samples, and this model completes images; leave it out' in capsys.readouterr().err
