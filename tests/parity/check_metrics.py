"""Scores of given features, against golden numbers."""

import numpy as np
from compare import anything, assert_outputs, fields

from pegan_jax.metrics import classes, gaussians, kernel, neighbours, paths


def metrics_math(arrays, meta):
    real, fake = arrays['in/real_features'], arrays['in/gen_features']
    rules = {'num_subsets': 'subsets', 'max_subset_size': 'subset_size', 'numpy_seed': 'seed'}
    ours = [gaussians.fit(x) for x in (real, fake)]
    k = fields(meta['pr'], {'nhood_size': 'k', 'note': anything})
    found = neighbours.compare(real, fake, **k, half=True, block=16)
    score = classes.inception_score(arrays['in/is_probs'], meta['is_splits'])
    got = {
        'fid': gaussians.frechet_distance(*ours),
        'real_mean': ours[0].mean,
        'real_cov': ours[0].covariance,
        'kid': kernel.kernel_distance(real, fake, **fields(meta['kid'], rules)).value,
        'precision': found.precision,
        'recall': found.recall,
        'is_mean': score.mean,
        'is_std': score.std,
        'slerp': paths.slerp(arrays['in/slerp_a'], arrays['in/slerp_b'], arrays['in/slerp_t']),
    }
    # The order in which that program reads its data is not that of this library.
    assert_outputs(arrays, {k: np.asarray(v) for k, v in got.items()}, meta['tolerance'], [r'sampler\d'])


CHECKS = {('stylegan3', 'metrics_math'): metrics_math}
