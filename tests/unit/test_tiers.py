"""Which tests are slow by their times, and that the list of them names tests."""

from types import SimpleNamespace

import conftest
import pytest
import tiers


def test_the_shortest_parameter_stays_and_of_the_longer_ones_two_are_in_ci():
    seconds = {f'a.py::p[{i}]': t for i, t in enumerate((9, 2, 1.8, 7, 8, 0.5))}
    seconds |= {
        'a.py::alone': 4.1,
        'a.py::quick': 3.9,
        'b/test_parity.py::g[0]': 1,
        **{f'a.py::l[{i}]': 5 for i in (0, 1)},
    }
    seconds |= {f'b/test_parity.py::g[{i}]': 9 for i in (1, 2, 3)}
    ci, hand = (
        ['a.py::p[2]', 'a.py::p[1]', 'a.py::alone', 'a.py::l[0]', 'a.py::l[1]'],
        [f'a.py::p[{i}]' for i in (3, 4, 0)],
    )
    ci += [f'b/test_parity.py::g[{i}]' for i in (1, 2, 3)]
    assert tiers.divide(seconds) == dict.fromkeys(ci, 'slow') | dict.fromkeys(hand, 'hand')


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
