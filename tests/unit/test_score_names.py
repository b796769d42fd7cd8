"""Names of scores."""

import pytest

from pegan_jax.metrics.names import EXAMPLES, Score, parse, parse_all


@pytest.mark.parametrize(
    ('name', 'kind', 'network', 'count', 'more'),
    [
        ('fid50k_full', 'fid', 'inception', 50_000, {'full': True}),
        ('fid10k', 'fid', 'inception', 10_000, {}),
        ('fid', 'fid', 'inception', 50_000, {}),
        ('kid500', 'kid', 'inception', 500, {}),
        ('kid_vgg16_10k', 'kid', 'vgg16', 10_000, {}),
        ('kid_vgg16_10k_full', 'kid', 'vgg16', 10_000, {'full': True}),
        ('fd_worlds2048', 'fd', 'worlds', 2048, {}),
        ('fd_dinov2_50k', 'fd', 'dinov2', 50_000, {}),
        ('fd_dinov2_2048_full', 'fd', 'dinov2', 2048, {'full': True}),
        ('pr_dinov2_10k5', 'pr', 'dinov2', 10_000, {'k': 5}),
        ('cmmd30k', 'cmmd', 'clip', 30_000, {}),
        ('cmmd', 'cmmd', 'clip', 50_000, {}),
        ('pr50k3_full', 'pr', 'vgg16_fc', 50_000, {'k': 3, 'full': True}),
        ('pr_worlds2k', 'pr', 'worlds', 2000, {'k': 3}),
        ('dc10k7', 'dc', 'vgg16_fc', 10_000, {'k': 7}),
        ('is50k', 'is', 'inception', 50_000, {}),
        ('ppl2_wend', 'ppl2', 'lpips', 50_000, {'path': 'wend'}),
        ('ppl2_zfull1k', 'ppl2', 'lpips', 1000, {'path': 'zfull'}),
        ('swd2k', 'swd', '', 2000, {}),
        ('sifid50', 'sifid', 'stem', 50, {}),
        ('eqt50k_int', 'eqt', '', 50_000, {'path': 'int'}),
        ('eqt1k_frac', 'eqt', '', 1000, {'path': 'frac'}),
        ('eqr50k', 'eqr', '', 50_000, {}),
    ],
)
def test_a_name_says_kind_network_count_and_neighbours(name, kind, network, count, more):
    assert parse(name) == Score(name, kind, network, count, **more)


@pytest.mark.parametrize(
    'name',
    ['fid_worlds10k', 'fd10k', 'fd_inception10k', 'is_worlds10k', 'fid10k3', 'ppl2', 'fid_wend10k', 'swd2k_full', 'f',
     'fid1', 'pr500k0', 'fid10kfull', 'FID10k', 'eqt50k', 'eqr50k_int', 'swd2k_int',
     'mind5k_full', 'cmmd_dinov2_10k', 'kid_clip_10k', 'fid_dinov2_10k', 'cmmd10k3'],
)  # fmt: skip
def test_what_is_no_score_is_refused(name):
    with pytest.raises(ValueError, match=f'{name}.*(Known|use)'):
        parse(name)


def test_a_name_that_is_nearly_right_is_proposed():
    with pytest.raises(ValueError, match="'fid50kfull'; did you mean 'fid50k_full'"):
        parse('fid50kfull')


def test_every_example_is_a_score_and_its_numbers_have_its_name():
    for name in EXAMPLES:
        assert all(result.startswith(name) for result in parse(name).results)
    assert parse('pr50k3_full').results == ('pr50k3_full_precision', 'pr50k3_full_recall')
    assert parse('is50k').results == ('is50k_mean', 'is50k_std')
    assert [score.name for score in parse_all('fid10k, swd2k,fid10k')] == ['fid10k', 'swd2k']
    with pytest.raises(ValueError, match='no score is named'):
        parse_all(' ')
