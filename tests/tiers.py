"""Which tests the default run leaves to CI, and which CI leaves to those who run them by hand.

python -m pytest --junitxml times.xml -m 'not hand and not gpu'
python tests/tiers.py times.xml  # writes tests/tiers.txt

Tests that are long by what they do carry their mark themselves. The others are divided by what they were seen to take:
the default run keeps what is short, and of a test with parameters the shortest one; CI runs two more of those.
"""

import collections
import pathlib
import sys
import xml.etree.ElementTree

MARKED = ('marked', 'in its file')  # a property of such a test in the report
LIST = pathlib.Path(__file__).with_name('tiers.txt')
ALONE, SHORTEST, OTHERS = 4.0, 4.0, 1.0  # seconds that a test may take in the default run
IN_CI, ALWAYS_IN_CI = 2, 1.5  # longer parameters of one test, and seconds of a parameter that is no burden


def read() -> dict[str, str]:
    """Test -> 'slow' or 'hand'."""
    return {test: tier for tier, test in (line.split(' ', 1) for line in LIST.read_text().splitlines())}


def divide(seconds: dict[str, float]) -> dict[str, str]:
    """As `read`, of what each test took."""
    kinds = collections.defaultdict(list)
    for test in sorted(seconds, key=seconds.get):
        kinds[test.split('[')[0]].append(test)
    tiers = {}
    for tests in kinds.values():  # the shortest first
        allowed = ALONE if len(tests) == 1 else SHORTEST
        longer = [test for i, test in enumerate(tests) if seconds[test] > (OTHERS if i else allowed)]
        for i, test in enumerate(longer):
            in_ci = i < IN_CI or seconds[test] < ALWAYS_IN_CI or '/test_parity.py' in test  # which CI runs whole
            tiers[test] = 'slow' if in_ci else 'hand'
    return tiers


def main(report: str) -> None:
    seconds = {}
    for case in xml.etree.ElementTree.parse(report).iter('testcase'):
        if any(p.get('name') == MARKED[0] for p in case.iter('property')):
            continue
        path = case.get('classname').replace('.', '/') + '.py'
        seconds[f'{path}::{case.get("name")}'] = float(case.get('time'))
    # What this report has no times of stays where it is.
    tiers = {test: tier for test, tier in read().items() if test not in seconds} | divide(seconds)
    LIST.write_text(''.join(f'{tier} {test}\n' for test, tier in sorted(tiers.items())))


if __name__ == '__main__':
    main(*sys.argv[1:])
