"""Names of scores, as the field writes them: fid50k_full, kid_vgg16_10k, pr50k3_full, ppl2_wend, is50k, ..."""

import re
from typing import NamedTuple

from pegan_jax.settings import UserError, nearest

# Kinds that compare features of a network, and the network where the name has none.
COMPARED = {'fid': 'inception', 'kid': 'inception', 'pr': 'vgg16_fc', 'dc': 'vgg16_fc', 'mind': 'inception'}
NETWORKS = ('worlds', 'vgg16')  # that a name may have in it
# Kinds that look at pixels; those that need no real images; those that follow paths of latents.
PIXELS = ('swd', 'fwd', 'spectral', 'msssim', 'horizon', 'rows')
ALONE = ('is', 'msssim', 'ppl2')
HIGHER_IS_BETTER = ('is', 'precision', 'recall', 'density', 'coverage')
EXAMPLES = (
    'fid50k_full, kid50k_full, pr50k3_full, is50k, ppl2_wend (networks of the field), fd_worlds10k, kid_worlds10k, '
    'kid_vgg16_10k, dc_vgg16_10k5, mind5k, swd2k, fwd10k, spectral10k, msssim10k, horizon2k, rows2k'
)


class Score(NamedTuple):
    """What a name asks for.

    kind: of COMPARED or PIXELS, or 'is', 'ppl2'; a Frechet distance on another network than FID's is 'fid' here.
    network: whose features are compared; '' for none.
    count: of generated images; k: neighbours; full: compare with all real images; path: 'wend', 'wfull', 'zend', 'zfull'.
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
        """Names of its numbers, the one that checkpoints are compared by first."""
        suffixes = {
            'kid': ('', '_error'),
            'pr': ('_precision', '_recall'),
            'dc': ('_density', '_coverage'),
            'is': ('_mean', '_std'),
        }
        return tuple(f'{self.name}{suffix}' for suffix in suffixes.get(self.kind, ('',)))


_PATTERN = re.compile(
    r'(?P<kind>[a-z]+2?)(?:_(?P<network>[a-z]+\d*(?=_\d|$|_full)|worlds))?(?:_(?P<path>[wz](?:end|full)))?'
    r'_?(?:(?P<count>\d+)(?P<thousands>k?))?(?P<k>(?<=k)\d+)?(?P<full>_full)?'
)


def parse(name: str) -> Score:
    """The score of a name; counts may be any, such as fid10k or kid500; without one it is 50k.

    Raises: UserError for a name that is none.
    """
    found = _PATTERN.fullmatch(name)
    kind = found['kind'] if found else ''
    network, compared = (found['network'] or '' if found else ''), 'fid' if kind == 'fd' else kind
    known = compared in COMPARED or kind in PIXELS or kind in ('is', 'ppl2')
    # Only Inception-v3 makes it FID, and a Frechet distance on another network says on which.
    right = network in NETWORKS if kind == 'fd' else not network or (network in NETWORKS and compared in COMPARED)
    right = right and not (kind == 'fid' and network) and (found['path'] is not None) == (kind == 'ppl2')
    right = right and (found['k'] is None or kind in ('pr', 'dc')) and (not found['full'] or compared in COMPARED)
    if not known or not right:
        raise UserError(f'unknown score {name!r}{nearest(name, EXAMPLES.split(", "))}. There are: {EXAMPLES}.')
    count = int(found['count'] or 50) * (1000 if found['thousands'] or found['count'] is None else 1)
    if count < 2:
        raise UserError(f'{name}: {count} images are too few.')
    k = int(found['k'] or {'pr': 3, 'dc': 5}.get(kind, 0))
    return Score(name, compared, network or COMPARED.get(kind, ''), count, k, bool(found['full']), found['path'] or '')
