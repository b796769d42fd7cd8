"""A model on the Hugging Face Hub, with a card that tells what it is."""

import os
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

import pegan_jax
from pegan_jax import hub
from pegan_jax.config import to_json
from pegan_jax.gan import Completer
from pegan_jax.pixels import as_image, image_grid, to_uint8
from pegan_jax.sampling import Model, sample
from pegan_jax.scoring import record
from pegan_jax.scoring.images import Generator
from pegan_jax.settings import UserError
from pegan_jax.sharing.models import export
from pegan_jax.train import exported

CARD, PICTURE = 'README.md', 'samples.png'
SEEDS = range(16)  # of the picture


def push(
    model: Model,
    to: str,
    *,
    licence: str,
    dtype: str = 'float32',
    private: bool = False,
    scores: Sequence[dict] = (),
) -> str:
    """Puts a model where `load(to)` finds it, in one commit; the repository is made if there is none.

    A card that is there already stays as it is: somebody may have written in it.

    Args:
      to: hf://user/name, or hf://user/name@branch; a branch that is not there is made of main.
      licence: under which the weights are given, a name of the hub's list, such as cc-by-4.0, apache-2.0 or other.
      dtype: as of `export`.
      private: make the repository a private one; one that is there and public is refused.
      scores: of `scores_of`, for the card.
    Returns: the address of the commit.
    Raises: UserError, which says what to do; nothing is uploaded then.
    """
    repository, branch = hub.parse(to)
    if not re.fullmatch(r'[a-z0-9][a-z0-9.-]*', licence, re.ASCII):
        raise UserError(f'licence={licence!r} is no name of the hub, such as cc-by-4.0, apache-2.0, mit or other.')
    with tempfile.TemporaryDirectory() as name:
        folder, api = pathlib.Path(name), hub.package().HfApi(library_name='pegan_jax')
        export(model, folder, dtype=dtype)
        if pictured := not isinstance(model.gan.sampler, Completer):
            images = sample(model, SEEDS, label=model.classes_of(SEEDS))
            as_image(image_grid(to_uint8(images), 8)).save(folder / PICTURE)
        (folder / CARD).write_text(card(model, repository, licence, scores, pictured=pictured))
        with hub.told(to):
            api.create_repo(repository, private=private, exist_ok=True)
            if private and not api.repo_info(repository).private:
                raise UserError(
                    f'{to} is there already, and public; make it private in its settings, choose another name, or '
                    'leave --private out.'
                )
            if branch is not None and not branch.startswith('refs/'):  # those are of pull requests
                api.create_branch(repository, branch=branch, exist_ok=True)
            if api.file_exists(repository, CARD, revision=branch):
                (folder / CARD).unlink()
            told = f'{model.config.system}, step {model.step}'
            return api.upload_folder(
                repo_id=repository, folder_path=folder, revision=branch, commit_message=told
            ).commit_url  # fmt: skip


def scores_of(place: str | os.PathLike, step: int) -> list[dict[str, Any]]:
    """The scores that `evaluate` wrote beside a model: {'name', 'value', 'with', 'date'}, the newest of every name and
    'with': the last name of the real images, and settings other than those of `evaluate` by itself.

    place: as of `load`; only a folder has them.
    """
    found = {}
    for entry in record.rows(exported.place(place) / 'metrics.jsonl'):
        if entry.get('step') == step and (about := entry.get('evaluation')):
            data, told = (about.get('real') or {}).get('data') or '', _settings(about)
            for name in entry.keys() - {'step', 'time', 'kimg', 'evaluation'}:
                score = {'name': name, 'value': entry[name], 'with': told, 'date': about['date'][:10]}
                found[name, told, data] = score
    return [found[key] for key in sorted(found)]


def _settings(about: dict[str, Any]) -> str:
    """How a score was measured, by what `evaluate` wrote with it: 'faces.zip, truncation_psi=0.5'."""
    samples, real = about.get('fake') or {}, about.get('real') or {}
    data = (real.get('data') or '').rstrip('/').rpartition('/')[2]  # folders of this machine are private
    told = [f'{k}={samples[k]}' for k, usual in Generator._field_defaults.items() if samples.get(k, usual) != usual]
    clean = any(network.get('resize') == 'clean' for network in (about.get('networks') or {}).values())
    return ', '.join([*([data] if data else []), *told, *(['resize=clean'] if clean else [])])


def card(model: Model, repository: str, licence: str, scores: Sequence[dict], *, pictured: bool = False) -> str:
    """README.md of a repository, in the form that the hub reads."""
    config, completes = model.config, isinstance(model.gan.sampler, Completer)
    height, width = model.size
    numbers = sum(x.size for x in jax.tree.leaves(model.variables['params']))
    address, origin = f'{hub.PREFIX}{repository}', model.imported
    trained = (
        f'{model.images:,} images shown'
        if origin is None
        else f'weights converted from `{origin.get("file", "a file")}`'
    )
    label, chosen = (', label=0', ' --class 0') if model.gan.c_dim else ('', '')
    use = [f"model = pegan_jax.load('{address}')"]
    if completes:
        use.append('filled = pegan_jax.inpaint(model, image, mask)  # uint8 [H, W, C]; the mask is 1 in the hole')
    else:
        use.append(f'images = pegan_jax.sample(model, seeds=[0, 1, 2]{label})  # float32 [3, H, W, C] in [-1, 1]')
    command = 'inpaint --image photo.jpg --mask hole.png' if completes else f'sample --seeds 0-31{chosen}'
    verb, *options = command.split()
    lines = [
        '---', 'library_name: pegan_jax', f'license: {licence}',
        f'pipeline_tag: {"image-to-image" if completes else "unconditional-image-generation"}',
        'tags:', '- gan', '- jax', f'- {config.system}', '---', '',
        f'# {repository.partition("/")[2]}', '',
        f'A generator of the system `{config.system}`: {height} x {width} pixels, {config.model.img_channels} '
        f'channels, {numbers:,} parameters, {trained}, step {model.step}.', '',
        *([f'![Samples of the seeds 0 to {len(SEEDS) - 1}]({PICTURE})', ''] if pictured else []),
        '## Use', '', f'With pegan_jax {pegan_jax.__version__} and its extra `hub`:', '',
        '```python', 'import pegan_jax', '', *use, '```', '',
        '```bash', f'python -m pegan_jax {verb} --model {address} {" ".join(options)} --out out.png', '```', '',
    ]  # fmt: skip
    if model.classes:
        lines += ['## Classes', '', ', '.join(model.classes), '']
    if scores:
        lines += ['## Scores', '', '| score | value | with | measured |', '|---|---|---|---|']
        lines += [f'| {s["name"]} | {s["value"]:.4g} | {s["with"]} | {s["date"]} |' for s in scores] + ['']
    if origin is not None:
        lines += ['## Licence of the source', '', str(origin.get('licence', '')), '']
    return '\n'.join([*lines, '## Configuration', '', '```json', to_json(exported.without_paths(config)), '```', ''])
