"""Names of scores, as the field writes them: fid50k_full, kid_vgg16_10k, pr50k3_full, ppl2_wend, is50k, ..."""

import re
from typing import NamedTuple

from pegan_jax.settings import UserError, nearest

# Kinds that compare features of a network, and the network if the name has none; the name of an 'fd' always has one.
COMPARED = {
    'fid': 'inception', 'fd': '', 'kid': 'inception', 'pr': 'vgg16_fc', 'dc': 'vgg16_fc', 'mind': 'inception',
    'cmmd': 'clip',
}  # fmt: skip
NETWORKS = ('worlds', 'vgg16', 'dinov2')  # that a name may have in it
# Other networks that a kind needs; kinds that look at pixels.
OTHERS = {'is': 'inception', 'sifid': 'stem', 'ppl2': 'lpips'}
PIXELS = ('swd', 'fwd', 'spectral', 'msssim', 'horizon', 'rows')
CHANGES = ('ppl2', 'eqt', 'eqr')  # they change what a generator gets, and look at its images
ALONE = ('is', 'msssim', *CHANGES)  # they need no real images
HIGHER_IS_BETTER = ('is', 'pr', 'dc', 'eqt', 'eqr')
RESULTS = {
    'kid': ('', '_error'), 'pr': ('_precision', '_recall'), 'dc': ('_density', '_coverage'), 'is': ('_mean', '_std'),
}  # fmt: skip
EXAMPLES = (
    'fid50k_full', 'kid50k_full', 'pr50k3_full', 'dc10k5', 'mind5k', 'is50k', 'ppl2_wend', 'sifid50',
    'fd_dinov2_50k', 'cmmd30k', 'fd_worlds10k',
    'kid_worlds10k', 'pr_worlds10k3', 'fd_vgg16_10k', 'kid_vgg16_10k', 'swd2k', 'fwd10k', 'spectral10k', 'msssim10k',
    'horizon2k', 'rows2k', 'eqt50k_int', 'eqt50k_frac', 'eqr50k',
)  # fmt: skip


class Score(NamedTuple):
    """What a name asks for.

    kind: one of COMPARED, OTHERS, PIXELS or CHANGES.
    network: the one whose features are compared; '' for none.
    count: number of generated images; k: neighbours; full: compare with all real images, not with as many.
    path: for latents: 'wend', 'wfull', 'zend', 'zfull'; for shifts: 'int', 'frac'.
    """

    name: str
    kind: str
    network: str
    count: int
    k: int = 0
    full: bool = False
    path: str = ''

    @property
    def results(self) -> tuple[str, ...]:
        """Names of its numbers; checkpoints are compared by the first one."""
        return tuple(self.name + suffix for suffix in RESULTS.get(self.kind, ('',)))


_PATTERN = re.compile(
    rf'(?P<kind>{"|".join(sorted({*COMPARED, *OTHERS, *PIXELS, *CHANGES}, key=len, reverse=True))})'
    rf'(?:_(?P<network>{"|".join(NETWORKS)}))?(?:_(?P<path>[wz](?:end|full)))?'
    r'(?:_?(?P<count>\d+)(?P<thousands>k?))?(?P<k>(?<=k)\d+)?(?P<full>_full)?(?:_(?P<shift>int|frac))?'
)


def parse(name: str) -> Score:
    """The score of a name. Any count is allowed, such as fid10k or kid500; without one it is 50k.

    Raises: UserError for an unknown name.
    """
    found = _PATTERN.fullmatch(name)
    if found is None or not _fits(found):
        near = nearest(name, EXAMPLES) or '.'
        raise UserError(f'unknown score {name!r}{near} Known, with any count: {_listed()}.')
    kind = found['kind']
    count = int(found['count'] or 50) * (1000 if found['thousands'] or not found['count'] else 1)
    least = 10 if kind == 'is' else 2  # it has ten parts
    if count < least:
        raise UserError(f'{name}: {count} images are too few; use at least {least}.')
    k = int(found['k'] or {'pr': 3, 'dc': 5}.get(kind, 0))
    if kind in ('pr', 'dc') and not 1 <= k < count:
        raise UserError(f'{name}: the neighbour number {k} of {count} images; use 1 to {count - 1}.')
    network = found['network'] or COMPARED.get(kind, '') or OTHERS.get(kind, '')
    return Score(name, kind, network, count, k, bool(found['full']), found['path'] or found['shift'] or '')


def _fits(found: re.Match) -> bool:
    kind = found['kind']
    # FID implies Inception-v3, and CMMD implies CLIP; a Frechet distance on another network names it.
    network = found['network'] is not None if kind == 'fd' else not found['network'] or kind in COMPARED
    named = network and not (kind in ('fid', 'cmmd') and found['network'])
    neighbours = found['k'] is None or kind in ('pr', 'dc')
    changes = bool(found['path']) == (kind == 'ppl2') and bool(found['shift']) == (kind == 'eqt')
    full = not found['full'] or (kind in COMPARED and kind != 'mind')  # which takes as many real ones as fakes
    return named and neighbours and changes and full


def _listed() -> str:
    return ', '.join(EXAMPLES)


def parse_all(names: str | tuple[str, ...]) -> tuple[Score, ...]:
    """Scores of 'fid10k,swd2k', or of names, each once. Raises: UserError as `parse`, and for no name."""
    listed = names.split(',') if isinstance(names, str) else names
    listed = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
    if not listed:
        raise UserError(f'no score is named; known, with any count: {_listed()}.')
    return tuple(map(parse, listed))
