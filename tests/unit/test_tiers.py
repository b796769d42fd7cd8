"""Which tests are slow by their times, and that the list of them names tests."""

from types import SimpleNamespace

import conftest
import pytest
import tiers


def test_the_shortest_parameter_stays_and_ci_runs_the_shortest_of_the_rest(monkeypatch):
    monkeypatch.setattr(tiers, 'A_FILE', 16.0)
    seconds = {f'a.py::p[{i}]': t for i, t in enumerate((9, 2, 1.8, 7, 8, 0.5))}
    seconds |= {'a.py::alone': 4.1, 'a.py::quick': 3.9, 'a.py::own': 1, 'a.py::own_long': 20, 'c.py::own': 15}
    always = [f'parity/test_parity.py::g[{i}]' for i in (1, 2, 3)]
    seconds |= {'parity/test_parity.py::g[0]': 1} | dict.fromkeys(always, 9)
    ci = ['a.py::p[2]', 'a.py::p[1]', 'a.py::alone', 'a.py::p[3]', *always]  # with `own` 15.9 s of a.py
    hand = ['a.py::p[4]', 'a.py::p[0]', 'a.py::own_long']
    marked = {'a.py::own', 'a.py::own_long', 'c.py::own'}
    assert tiers.divide(seconds, marked) == dict.fromkeys(ci, 'slow') | dict.fromkeys(hand, 'hand')


def test_a_mark_in_the_file_is_told_in_the_report_and_respected(monkeypatch, tmp_path):
    cases = ''.join(
        f'<testcase classname="tests.a" name="{mark or "plain"}" time="50">'
        f'<properties>{mark and f"""<property name="marked" value="{mark}"/>"""}</properties></testcase>'
        for mark in ('', 'slow', 'hand')
    )
    (tmp_path / 'times.xml').write_text(f'<testsuite>{cases}</testsuite>')
    (tmp_path / 'tiers.txt').write_text('slow tests/b.py::other\nslow tests/a.py::plain\n')
    monkeypatch.setattr(tiers, 'LIST', tmp_path / 'tiers.txt')
    tiers.main(tmp_path / 'times.xml')
    assert tiers.read() == dict.fromkeys(('tests/a.py::plain', 'tests/a.py::slow'), 'hand') | {
        'tests/b.py::other': 'slow'
    }


def test_a_line_that_names_no_test_is_an_error_where_its_file_is_collected(monkeypatch):
    marks = []
    item = SimpleNamespace(
        nodeid='a.py::x', add_marker=marks.append, get_closest_marker=lambda name: None, user_properties=[]
    )
    config = SimpleNamespace(args=['a.py'], getoption=lambda *name: None)
    monkeypatch.setattr(tiers, 'read', lambda: {'a.py::x': 'slow', 'b.py::gone': 'hand'})
    conftest.pytest_collection_modifyitems(config, [item])
    assert marks == ['slow'] and not item.user_properties
    monkeypatch.setattr(tiers, 'read', lambda: {'a.py::gone': 'slow'})
    with pytest.raises(pytest.UsageError, match=r'names no test with a\.py::gone'):
        conftest.pytest_collection_modifyitems(config, [item])
    conftest.pytest_collection_modifyitems(SimpleNamespace(args=['a.py::x'], getoption=config.getoption), [item])
