"""Where the time of a compiled program goes, by layer, forward and gradient apart.

A trace of the CPU backend holds when each operation of a program began and how long it took. Wherever several ran at
once, each gets an equal share of that time, so that all shares add up to what passed. The program's text says which
layer an operation belongs to, what it reads and writes, and what its matmuls multiply.
"""

import collections
import math
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax


class Cost(NamedTuple):
    """What the operations of a kind in a layer take.

    flops are those of matmuls and convolutions, bytes what operations read and write.
    """

    layer: str
    direction: str  # 'forward', 'gradient' or 'second' (a gradient of a gradient)
    kind: str  # 'matmul' or 'convolution', or what is neither: 'other'
    seconds: float
    flops: float
    bytes: float


SIZES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f64': 8, 's64': 8, 'u64': 8}
INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (\(?[a-z0-9]+\[.*?) ([a-z][\w\-]*)\((.*)$')
SHAPE = re.compile(r'([a-z0-9]+)\[([\d,]*)\]')


def _shapes(text: str) -> list[tuple[str, list[int]]]:
    return [(dtype, [int(n) for n in dims.split(',') if n]) for dtype, dims in SHAPE.findall(text)]


def _bytes(text: str) -> int:
    return sum(SIZES.get(dtype, 4) * math.prod(dims) for dtype, dims in _shapes(text))


def _product_flops(shape: str, op: str, rest: str, shapes: dict[str, str]) -> int:
    """Multiplications and additions of one matmul or convolution of a program's text."""
    operands = re.findall(r'%?([\w.\-]+)', rest.partition(')')[0])
    (_, out), *_ = _shapes(shape)
    if op == 'dot':
        (_, left), *_ = _shapes(shapes[operands[0]])
        contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', rest)
        return 2 * math.prod(out) * math.prod(left[int(i)] for i in contracted[1].split(',') if i)
    (_, kernel), *_ = _shapes(shapes[operands[1]])
    features = re.search(r'dim_labels=\w+_(\w+)->', rest)[1].index('o')
    return 2 * math.prod(out) * math.prod(kernel) // kernel[features]


class _Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    rest: str

    @property
    def called(self) -> list[str]:
        return re.findall(r'(?:calls|to_apply)=%?([\w.\-]+)', self.rest)

    @property
    def scope(self) -> str:
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ''


def _computations(text: str) -> dict[str, list[_Instruction]]:
    """Instructions of every computation of a program's text."""
    found, current = {}, []
    for line in text.splitlines():
        header = re.match(r'^(?:ENTRY )?%?([\w.\-]+) .*\{$', line)
        if header and ' = ' not in line:
            current = found.setdefault(header[1], [])
        elif match := INSTRUCTION.match(line):
            current.append(_Instruction(*match.groups()))
    return found


def layer_of(scope: str, depth: int) -> tuple[str, str]:
    """(layer, direction) of a scope, such as 'jit(step)/transpose(jvp(Generator))/b8/conv0/dot_general'."""
    gradients = scope.count('transpose(')
    parts = []
    for part in scope.split('/')[:-1]:
        while match := re.fullmatch(r'(?:transpose|jvp|vmap|checkpoint|remat|custom_\w+)\((.*)\)', part):
            part = match[1]
        # Neither calls nor loops are layers, nor an einsum, whose scope is its formula.
        if (
            part
            and '->' not in part
            and not re.match(r'(jit|pjit|shard_map|while|body|cond|closed_call|branch|custom_v)', part)
        ):
            parts.append(part)
    return '/'.join(parts[:depth]) or '(no layer)', ('forward', 'gradient', 'second')[min(gradients, 2)]


def operations(text: str, depth: int) -> dict[str, Cost]:
    """{name of an operation as traces have it: its cost, without its time} of a program's text."""
    computations = _computations(text)
    shapes = {i.name: i.shape for body in computations.values() for i in body}

    def products(instruction: _Instruction) -> tuple[float, str]:
        if instruction.op in ('dot', 'convolution'):
            flops = _product_flops(instruction.shape, instruction.op, instruction.rest, shapes)
            return flops, {'dot': 'matmul'}.get(instruction.op, instruction.op)
        inner = [products(i) for name in instruction.called for i in computations.get(name, ())]
        kinds = {kind for _, kind in inner} - {'other'}
        return sum(flops for flops, _ in inner), min(kinds) if kinds else 'other'

    found = {}
    for instruction in (i for body in computations.values() for i in body):
        flops, kind = products(instruction)
        operands = re.findall(r'%([\w.\-]+)', instruction.rest.partition(')')[0])
        moved = _bytes(instruction.shape) + sum(_bytes(shapes[name]) for name in operands if name in shapes)
        # A fusion carries the scope of its root, which may be none.
        scope = instruction.scope or next(
            (i.scope for name in instruction.called for i in reversed(computations.get(name, ())) if i.scope), ''
        )
        found[instruction.name] = Cost(*layer_of(scope, depth), kind, 0.0, flops, moved)
    return found


def _shares(events: list[tuple[int, int, str]]) -> dict[str, float]:
    """Seconds of each name of (start, end, name) in nanoseconds, with equal shares where events overlap."""
    edges = sorted([(start, 1, name) for start, _, name in events] + [(end, 0, name) for _, end, name in events])
    running, seconds, last = collections.Counter(), collections.Counter(), 0
    for at, begins, name in edges:
        total = sum(running.values())
        for other, count in running.items():
            seconds[other] += 1e-9 * (at - last) * count / total
        last = at
        running[name] += 1 if begins else -1
        if not running[name]:
            del running[name]
    return seconds


def _events(run: Callable) -> list[tuple[int, int, str]]:
    """(start, end, name) of every operation of programs in one call of run()."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (file,) = pathlib.Path(folder).rglob('*.xplane.pb')
        lines = [line for plane in jax.profiler.ProfileData.from_file(str(file)).planes for line in plane.lines]
        return [
            (event.start_ns, event.start_ns + event.duration_ns, stats['hlo_op'])
            for line in lines
            for event in line.events
            if event.duration_ns > 0 and 'hlo_op' in (stats := dict(event.stats))
        ]


def costs(compiled: jax.stages.Compiled, run: Callable, depth: int = 3) -> list[Cost]:
    """What each kind of operation in each layer takes in one call of run(), which calls the program; dearest first.

    depth: of the path of scopes that counts as a layer.
    """
    jax.block_until_ready(run())
    events, known = _events(run), operations(compiled.as_text(), depth)
    times, sums = collections.Counter(name for *_, name in events), collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    for name, seconds in _shares(events).items():
        if cost := known.get(name):
            # What a loop computes is in the program once.
            for i, value in enumerate((seconds, times[name] * cost.flops, times[name] * cost.bytes)):
                sums[cost[:3]][i] += value
    return sorted((Cost(*key, *values) for key, values in sums.items()), key=lambda cost: -cost.seconds)


def table(found: list[Cost], rows: int) -> Iterator[str]:
    """Lines for people: the dearest rows, and sums over all layers."""
    total = sum(cost.seconds for cost in found)
    yield f'  {"layer":48} {"":8} {"":11} {"s":>8} {"share":>6} {"GFLOP/s":>8} {"GB/s":>7}'
    kinds = {(cost.direction, cost.kind) for cost in found}
    sums = [
        Cost('all', direction, kind, *(sum(c[i] for c in found if c[1:3] == (direction, kind)) for i in (3, 4, 5)))
        for direction, kind in kinds
    ]
    for cost in (*found[:rows], *sorted(sums, key=lambda cost: -cost.seconds)):
        rates = (1e-9 * amount / cost.seconds for amount in (cost.flops, cost.bytes))
        yield (
            f'  {cost.layer[-48:]:48} {cost.direction:8} {cost.kind:11} '
            f'{cost.seconds:8.4f} {cost.seconds / total:6.1%} {next(rates):8.1f} {next(rates):7.1f}'
        )
