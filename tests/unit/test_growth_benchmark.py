"""benchmarks/growth.py: slopes of what is known, rows that end, and configurations of every size."""

import argparse
import pathlib
import sys

import pytest

from pegan_jax.config import load_config, system_module

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'benchmarks'))
import growth


def test_the_slope_is_that_of_the_largest_three_sizes():
    sizes = [1, 2, 4, 8, 16]
    assert growth.exponent(sizes, [9, 9, 3 * 4**1.5, 3 * 8**1.5, 3 * 16**1.5]) == pytest.approx(1.5)


def test_a_row_ends_behind_the_size_that_took_long_and_counts_pixels_not_sides():
    asked = []

    def measure(spec, side, repeats):
        asked.append((spec, side, repeats))
        return 1e-6 * side**2, 100 * side**4

    args = argparse.Namespace(repeats=3, seconds=0.06)
    found = growth.row(measure, 'cips:tiny', [64, 128, 256, 512], 2, args)
    assert asked == [('cips:tiny', side, 3) for side in (64, 128, 256)]
    assert found['sizes'] == [64, 128, 256] and found['bytes'] == tuple(100 * side**4 for side in (64, 128, 256))
    assert found['exponents'] == {'time': pytest.approx(1), 'memory': pytest.approx(2)}
    assert growth.row(measure, 'cips:tiny', [64, 128], 2, args)['exponents'] == {}


def test_the_first_and_the_last_size_can_be_chosen(monkeypatch, capsys):
    asked = []

    def row(what, spec, sizes, power, args):
        asked.append(sizes)
        return {'sizes': sizes, 'seconds': sizes, 'bytes': sizes, 'exponents': {}}

    monkeypatch.setattr(growth, 'row', row)
    command = ['growth.py', 'resolution', '--what', 'step', '--config', 'cips:tiny', '--smallest']
    monkeypatch.setattr(sys, 'argv', [*command, '128', '--largest', '512'])
    growth.main()
    assert asked == [[128, 256, 512]]
    monkeypatch.setattr(sys, 'argv', [*command, '128', '--largest', '64'])
    with pytest.raises(SystemExit):
        growth.main()
    assert '--smallest=128 and --largest=64 leave none of (64, 128' in capsys.readouterr().err


@pytest.mark.parametrize('configs', [[], ['cips:tiny', 'dcgan:tiny']])
def test_the_most_that_a_process_held_is_of_one_configuration(monkeypatch, capsys, configs):
    monkeypatch.setattr(growth, 'row', None)
    monkeypatch.setattr(sys, 'argv', ['growth.py', 'seeds', *(['--config', *configs] if configs else [])])
    with pytest.raises(SystemExit):
        growth.main()
    assert f'seeds takes one --config, not {len(configs)}' in capsys.readouterr().err


@pytest.mark.parametrize('spec', growth.MAKERS)
@pytest.mark.parametrize('side', growth.AXES['resolution'][0])
def test_every_system_is_there_at_every_size(spec, side):
    config = load_config(spec, growth.at_size(spec, side))
    assert config.data.size == (side, side)
    gan = system_module(config.system).build(config)
    # A run gets there, too.
    ((stage, _), *_) = growth.bench.largest(growth.bench.programs_of(config, gan))
    assert stage.size == (side, side)
