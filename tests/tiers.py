"""Which tests the default run leaves to CI, and which CI leaves to those who run them by hand.

python -m pytest --junitxml times.xml -m 'not hand and not gpu'
python tests/tiers.py times.xml  # writes tests/tiers.txt

Tests that are long by what they do carry their mark themselves. The others are divided by what they were seen to take:
the default run keeps what is short, and of a test with parameters the shortest one. From what it leaves, CI runs the
shortest tests of every file, as many as go into a quarter of a minute, and those of `ALWAYS`. The rest is run by hand.
"""

import collections
import pathlib
import sys
import xml.etree.ElementTree
from collections.abc import Collection

MARKED = 'marked'  # the property that tells the mark which a test carries itself
LIST = pathlib.Path(__file__).with_name('tiers.txt')
ALONE, SHORTEST, OTHERS = 4.0, 4.0, 1.0  # seconds that a test may take in the default run
A_FILE = 15.0  # seconds that the tests of one file may take in CI beside those of the default run
# Run whole: golden numbers, what no release may break, and what only several processes or a bucket show.
ALWAYS = (
    'parity/test_parity.py',
    'test_determinism.py::test_two_runs_of_a_system_end_in_the_same_bits[20-dcgan]',
    'test_every_command.py',
    'test_explorer_browser.py',
    'test_faults.py',
    'test_fuzz.py::test_mutated_files_are_read_or_refused[3000]',
    'test_buckets.py::test_a_run_in_a_bucket_is_killed_and_goes_on_to_the_same_end[gs]',
    'test_loop.py::test_two_processes',
    'test_systems.py::test_four_devices_equal_one[dcgan]',
    'test_notebooks.py::test_the_first_notebook',
    'test_wheel.py',
)


def read() -> dict[str, str]:
    """Test -> 'slow' or 'hand'."""
    return {test: tier for tier, test in (line.split(' ', 1) for line in LIST.read_text().splitlines())}


def divide(seconds: dict[str, float], marked: Collection[str] = ()) -> dict[str, str]:
    """As `read`, of what each test took. Tests that are marked as slow in their file can only move to 'hand'."""
    kinds, left = collections.defaultdict(list), collections.defaultdict(list)
    for test in sorted(seconds, key=seconds.get):
        kinds[test.split('[')[0]].append(test)
    for tests in kinds.values():  # the shortest first
        allowed = ALONE if len(tests) == 1 else SHORTEST
        for i, test in enumerate(tests):
            if test in marked or seconds[test] > (OTHERS if i else allowed):
                left[test.split('::')[0]].append(test)
    tiers = {}
    for tests in left.values():
        total = 0.0
        for test in sorted(tests, key=seconds.get):
            total += seconds[test]
            in_ci = total <= A_FILE or any(name in test for name in ALWAYS)
            if not (in_ci and test in marked):
                tiers[test] = 'slow' if in_ci else 'hand'
    return tiers


def main(report: str) -> None:
    seconds, marked = {}, set()
    for case in xml.etree.ElementTree.parse(report).iter('testcase'):
        test = f'{case.get("classname").replace(".", "/")}.py::{case.get("name")}'
        marks = [p.get('value') for p in case.iter('property') if p.get('name') == MARKED]
        if 'hand' in marks:
            continue
        seconds[test] = float(case.get('time'))
        if marks:
            marked.add(test)
    # What this report has no times of stays where it is.
    tiers = {test: tier for test, tier in read().items() if test not in seconds} | divide(seconds, marked)
    LIST.write_text(''.join(f'{tier} {test}\n' for test, tier in sorted(tiers.items())))


if __name__ == '__main__':
    main(*sys.argv[1:])
