"""Models on the Hugging Face Hub, by their address hf://user/name or hf://user/name@revision."""

import contextlib
import os
import pathlib
import re
import types
from collections.abc import Iterator
from typing import NamedTuple

from pegan_jax.settings import UserError

PREFIX = 'hf://'


class Address(NamedTuple):
    """A repository 'user/name' and a revision: a branch, tag or commit; None is the newest."""

    repository: str
    revision: str | None


def is_address(place: str | os.PathLike) -> bool:
    """Whether a text is meant as an address on the hub."""
    return isinstance(place, str) and place.startswith(PREFIX)


def parse(text: str) -> Address:
    """'hf://user/name@v1' -> ('user/name', 'v1'). Raises: UserError."""
    found = re.fullmatch(r'hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?', text, re.ASCII)
    if not found or '..' in text or '--' in found[1]:
        raise UserError(f'{text} is no model of the hub; write hf://user/name, or hf://user/name@revision.')
    return Address(*found.groups())


def fetch(text: str, file: str) -> pathlib.Path:
    """A file of a repository. The hub's package caches it, and serves it from its cache when the network is off.

    Raises: UserError, which says what to do.
    """
    repository, revision = parse(text)
    with told(text):
        return pathlib.Path(package().hf_hub_download(repository, file, revision=revision, library_name='pegan_jax'))


def package() -> types.ModuleType:
    """The package of the hub. Raises: UserError if it is not installed."""
    try:
        import huggingface_hub  # an extra
    except ModuleNotFoundError as error:
        if error.name != 'huggingface_hub':
            raise
        raise UserError("hf:// needs the package huggingface_hub: pip install 'pegan_jax[hub]'.") from None
    return huggingface_hub


@contextlib.contextmanager
def told(text: str) -> Iterator[None]:
    """Turns the hub's errors about an address into a UserError that says what to do."""
    package()
    from huggingface_hub import errors  # an extra

    try:
        yield
    except errors.GatedRepoError:
        raise UserError(f'{text} is for those who ask: ask on its page, then log in: hf auth login.') from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f'{text}: the hub shows no model of this name. Check it; if it is private, log in: hf auth login.'
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f'{text}: there is no such revision; for the newest, leave @... out.') from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f'{text} is not in the cache of this machine, and the hub cannot be reached. Check the network, or unset '
            'HF_HUB_OFFLINE.'
        ) from None
    except errors.EntryNotFoundError:
        raise UserError(f'{text} holds no model of this library; the command push puts one there.') from None
    except (errors.LocalTokenNotFoundError, errors.HfHubHTTPError) as error:
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 401
        if status in (401, 403):
            raise UserError(
                f'{text}: the hub does not let you do this. Log in with a token that may: hf auth login.'
            ) from None
        raise UserError(f'{text}: the hub answered {status}: {_line(error)} Try again later.') from None
    except (errors.HFValidationError, errors.OfflineModeIsEnabled) as error:
        raise UserError(f'{text}: {_line(error)}') from None
    except (errors.HTTPError, OSError) as error:
        if getattr(error, 'errno', None) is not None and getattr(error, 'filename', None) is not None:
            raise  # about a file on this machine: a full disk, a folder that may not be written
        raise UserError(f'{text}: the hub cannot be reached ({_line(error)}); check the network.') from None


def _line(error: Exception) -> str:
    """An error's message, in one line that ends in a full stop."""
    return ' '.join(str(error).split())[:300].rstrip('.') + '.'
