"""Studies: what is missing is trained and scored, seed by seed; tables and pictures are of what is there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pegan_jax import studies
from pegan_jax.cli import main
from pegan_jax.settings import UserError
from pegan_jax.studies import Plan, Setting

TWO = Plan(
    'Two of them',
    'Nothing is expected.',
    {
        'DCGAN: zero padding': ('dcgan:tiny', 'as it is'),
        'StyleGAN3: R': ('stylegan3:r,tiny', 'as it is'),
    },
    {'small': Setting(16, 64, 8, 2, 0.016)},
    'swd16,eqt4_int',
)


@pytest.mark.parametrize('name', studies.PLANS)
def test_every_cell_is_a_configuration_of_its_setting(name):
    plan = studies.PLANS[name]
    for setting, chosen in plan.settings.items():
        for cell in plan.cells:
            config = studies.configuration(plan, setting, cell, 3, 5.0)
            assert config.train.seed == 3 and config.train.total_kimg == 5
            assert min(config.data.size) in (chosen.side, chosen.side * 3 // 2)
    assert len({studies.slug(cell) for cell in plan.cells}) == len(plan.cells)


def test_a_longer_training_of_a_cell_is_the_same_run_unless_it_has_stages(tmp_path):
    plan = studies.PLANS['padding']
    for cell in plan.cells:
        short, long = (studies.configuration(plan, 'small', cell, 0, kimg).model for kimg in (16.0, 64.0))
        folders = {studies.workdir_of(plan, tmp_path, 'small', cell, 0, kimg) for kimg in (16.0, 64.0)}
        assert (short != long, len(folders)) == ((True, 2) if cell.startswith('PGGAN') else (False, 1))


@pytest.mark.parametrize('kimg', [4.0, 8.0, 100.0])
def test_stages_take_half_of_every_length(kimg):
    model = studies.configuration(studies.PLANS['padding'], 'small', 'PGGAN: zero padding', 0, kimg).model
    assert sum(model.stage_kimg) == pytest.approx(kimg / 2, abs=0.01) and model.fade_kimg < kimg / 4
    assert model.ema_decay == pytest.approx(0.5 ** (16 / (30 * kimg)))


def test_settings_have_workdirs_of_their_own(tmp_path):
    found = [studies.workdir_of(TWO, tmp_path, setting, 'StyleGAN3: R', 1, 8.0) for setting in ('small', 'gpu')]
    assert found == [tmp_path / 'stylegan3-r-1', tmp_path / 'gpu' / 'stylegan3-r-1']


def test_cells_are_chosen_by_their_names():
    plan = studies.PLANS['padding']
    assert len(studies.cells_of(plan, ['DCGAN*'])) == 4
    assert studies.cells_of(plan, ['MS-PIE: f', 'DCGAN: no padding']) == ['DCGAN: no padding', 'MS-PIE: f']
    for patterns in (['LSGAN'], ['DCGAN*', 'LSGAN']):
        with pytest.raises(UserError, match=r'no cell is called LSGAN; there are DCGAN: zero padding, '):
            studies.cells_of(plan, patterns)


def test_a_table_has_means_and_spreads_and_leaves_out_what_is_not_there():
    rows = [
        {'cell': cell, 'seed': seed, 'kimg': 1.0, 'scores': scores}
        for cell, seed, scores in (
            ('DCGAN: zero padding', 0, {'swd': 1.0}),
            ('DCGAN: zero padding', 1, {'swd': 3.0}),
            ('StyleGAN3: R', 0, {'swd': 5.0, 'eqt': 60.0}),
        )
    ]
    found = studies.summary(TWO, [*rows, {**rows[0], 'kimg': 2.0, 'scores': {'swd': 99.0}}], 1.0)
    assert studies.markdown(found).splitlines() == [
        '| cell | seeds | swd | eqt |',
        '|---|---|---|---|',
        '| DCGAN: zero padding | 2 | 2 ± 1.4 |  |',
        '| StyleGAN3: R | 1 | 5 | 60 |',
    ]


def test_a_row_of_a_training_in_several_launches_has_no_seconds(tmp_path, monkeypatch):
    workdir, launches = tmp_path / 'dcgan-zero-padding-0', []

    def launch(config, folder):
        launches.append(folder)
        (folder / 'checkpoints' / '1').mkdir(parents=True, exist_ok=True)
        stopped = folder == workdir and launches.count(folder) == 1
        return SimpleNamespace(nimg=8 if stopped else config.train.total_images)

    model = SimpleNamespace(step=2, config=SimpleNamespace(data=None), sampler=SimpleNamespace(options=()))
    monkeypatch.setattr(studies.train, 'run', launch)
    monkeypatch.setattr(studies, 'load', lambda folder: model)
    monkeypatch.setattr(studies, 'scorer_of', lambda *args: None)
    monkeypatch.setattr(studies, 'score_model', lambda *args: ({'swd16': 1.0}, {}))
    chosen = {'setting': 'small', 'cells': ['DCGAN: zero padding'], 'seeds': 2}
    assert not studies.run(TWO, tmp_path, **chosen) and not studies.results(tmp_path, 'small')
    assert studies.run(TWO, tmp_path, **chosen)
    assert [(row['seed'], 'seconds' in row) for row in studies.results(tmp_path, 'small')] == [(0, False), (1, True)]


def test_a_report_shows_images_of_the_checkpoints_that_were_scored(tmp_path, monkeypatch):
    cells = list(TWO.cells)
    rows = [
        {'step': step, 'cell': cell, 'seed': 0, 'kimg': kimg, 'setting': 'small', 'scores': {'swd16': 1.0}}
        for cell, step, kimg in ((cells[0], 100, 1.0), (cells[0], 400, 4.0), (cells[1], 100, 1.0))
    ]
    cut = '\n{"step": 1, "cel'
    (tmp_path / 'results.jsonl').write_text('\n'.join(map(json.dumps, rows)) + cut)
    loaded = []
    monkeypatch.setattr(
        studies, 'load', lambda *args: loaded.append(args) or SimpleNamespace(classes_of=lambda _: None)
    )
    monkeypatch.setattr(studies, 'sample', lambda *args, **options: np.zeros((studies.SHOWN, 4, 4, 3)))

    def report(kimg):
        told = []
        paths = studies.report(TWO, tmp_path, 'small', kimg, say=told.append)
        return [path.name for path in paths], told

    charts = ['study.json', 'study_swd16.png']
    names, told = report(1.0)
    assert names == charts and len(told) == 2
    assert told[0] == (
        f'{cells[0]}: no images, because {tmp_path / "dcgan-zero-padding-0"} does not have the checkpoint that was '
        'scored, step 100.'
    )
    (tmp_path / 'dcgan-zero-padding-0' / 'checkpoints' / '400').mkdir(parents=True)  # it went on
    (tmp_path / 'stylegan3-r-0' / 'checkpoints' / '100').mkdir(parents=True)
    names, told = report(1.0)
    assert names == [*charts, 'study_samples.png'] and len(told) == 1 and loaded == [(tmp_path / 'stylegan3-r-0', 100)]
    assert report(4.0) == ([*charts, 'study_samples.png'], []) and loaded[1:] == [
        (tmp_path / 'dcgan-zero-padding-0', 400)
    ]


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_and_draws_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(studies.PLANS, 'two', TWO)
    trained, run = [], studies.train.run
    monkeypatch.setattr(
        studies.train, 'run', lambda config, workdir: trained.append(workdir.name) or run(config, workdir)
    )
    out = tmp_path / 'study'
    assert main(['study', 'two', '--seeds', '1', '--cells', 'DCGAN*', '--out', str(out)]) == 0
    assert main(['study', 'two', '--out', str(out)]) == 0
    assert trained == ['dcgan-zero-padding-0', 'stylegan3-r-0', 'dcgan-zero-padding-1', 'stylegan3-r-1']
    rows = studies.results(out, 'small')
    assert [(row['cell'][:5], row['seed']) for row in rows] == [('DCGAN', 0), ('Style', 0), ('DCGAN', 1), ('Style', 1)]
    assert rows[0]['scores'].keys() == {'swd16'} and rows[1]['scores'].keys() == {'swd16', 'eqt4_int'}
    assert rows[0]['scores'] != rows[2]['scores'] and 'versions' in rows[0]['evaluation']
    saved = json.loads((out / 'study.json').read_text())
    assert saved['numbers']['StyleGAN3: R']['swd16'] == [row['scores']['swd16'] for row in rows[1::2]]
    names = {path.name for path in out.glob('*.png')}
    assert names == {'study_swd16.png', 'study_eqt4_int.png', 'study_samples.png'}
    assert '| DCGAN: zero padding | 2 |' in capsys.readouterr().out
    trained.clear()
    assert main(['study', 'two', '--kimg', '0.004', '--cells', 'DCGAN*', '--out', str(out)]) == 1
    assert 'has been trained for 0.016 kimg, longer than --kimg 0.004' in capsys.readouterr().err
    assert len(studies.results(out, 'small')) == 4 and not studies.results(out, 'gpu')
    assert main(['study', 'two', '--kimg', '9', '--report', '--out', str(out)]) == 1
    assert 'has no results of --setting small at 9 kimg; it has 0.016' in capsys.readouterr().err
    assert np.isfinite([value for row in rows for value in row['scores'].values()]).all()
