"""Scores that a run measures when it saves a checkpoint."""

import functools

import jax

from pegan_jax.config import Config
from pegan_jax.files import CACHE, Path, scratch
from pegan_jax.gan import GAN, size_of_samples
from pegan_jax.metrics.names import ALONE, CHANGES, HIGHER_IS_BETTER, parse_all
from pegan_jax.scoring import changes, images
from pegan_jax.scoring.scores import Scorer, check, check_counts, open_networks
from pegan_jax.settings import UserError
from pegan_jax.train.state import TrainState


class RunScores:
    """The scores of train.metrics, of samples against the run's data; for the worlds, against other worlds.

    best: the number that checkpoints are kept by; highest: whether more is better.
    """

    def __init__(self, gan: GAN, config: Config, workdir: Path) -> None:
        """Raises: UserError for what cannot be scored, such as by a network whose file is not at hand."""
        images.check_generator(gan, config.system)
        wanted, self._gan, self._config = parse_all(config.train.metrics), gan, config
        self.best, self.highest = wanted[0].results[0], wanted[0].kind in HIGHER_IS_BETTER
        try:
            networks = open_networks(wanted, {}, CACHE.expanduser())
        except UserError as error:
            raise UserError(f'{error} Its options are those of `python -m pegan_jax evaluate`.') from None
        self._scorer = Scorer(wanted, networks, scratch(workdir) / 'scores')
        self._labels = images.drawn_labels(config.data, gan.c_dim, workdir)
        params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
        variables = {'params': params['g'], 'buffers': buffers['g']}
        check(wanted, size_of_samples(gan, variables), generated=True)
        generator = images.Generator(gan, variables, '')
        for score in wanted:
            if score.kind in CHANGES:
                changes.check(generator, score, config.system)
        alone = all(score.kind in ALONE for score in wanted)
        self._real = None if alone else images.like_samples(gan, variables, config.data, workdir)
        check_counts([score for score in wanted if score.kind not in CHANGES], None, self._real)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """{result: number}; the same on all processes."""
        variables = jax.device_get(state.sampling)
        generator = images.Generator(self._gan, variables, images.digest_of(variables), labels=self._labels)
        changed = functools.partial(changes.rows, generator)
        return self._scorer(images.generated(generator), self._real, changed)[0]
