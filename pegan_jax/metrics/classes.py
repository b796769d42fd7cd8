"""Inception Score."""

from typing import NamedTuple

import numpy as np


class ClassScore(NamedTuple):
    """mean and std (population) over splits."""

    mean: float
    std: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [N, K], float64, of logits [N, K]."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def inception_score(probabilities: np.ndarray, splits: int = 10) -> ClassScore:
    """exp(mean over images of KL(p(y|x) || p(y))), p(y) being the mean of p(y|x) (Salimans et al. 2016).

    Computed for each of `splits` parts of the images, in their order: part i begins at i N // splits.

    Args:
      probabilities: [N, K], those of the class y of each image. NVlabs/stylegan3 and OpenAI's program leave out the
        bias of the last layer.
    Raises: ValueError for another shape, or fewer images than parts.
    """
    if probabilities.ndim != 2 or len(probabilities) < splits:
        raise ValueError(f'probabilities have the shape {probabilities.shape}; expected [N, K], N >= {splits} splits.')
    scores = []
    for i in range(splits):
        part = probabilities[i * len(probabilities) // splits : (i + 1) * len(probabilities) // splits]
        part = np.asarray(part, np.float64)
        ratio = np.where(part > 0, part, 1) / np.where(part > 0, part.mean(axis=0), 1)
        scores.append(np.exp(np.mean(np.sum(part * np.log(ratio), axis=1))))
    return ClassScore(float(np.mean(scores)), float(np.std(scores)))
