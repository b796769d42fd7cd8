"""Models for others: as files, as programs that need nothing of this library, on the hub."""

from pegan_jax.sharing.models import export, export_official
from pegan_jax.sharing.programs import PLATFORMS, Program, export_program
from pegan_jax.sharing.publishing import card, push, scores_of

__all__ = ['PLATFORMS', 'Program', 'card', 'export', 'export_official', 'export_program', 'push', 'scores_of']
