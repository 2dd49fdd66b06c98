"""Class priors that are wrong for the objects at hand, and what can be done without labels."""

import numpy as np

__all__ = ["re_estimated_prior"]


def re_estimated_prior(probabilities: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Re-estimate the class prior on unlabelled test objects and apply it: transductive.

    Expectation maximisation of Saerens et al. (2002, Neural Computation 14, 21).

    Parameters
    ----------
    probabilities : numpy.ndarray
        (N, K) under `prior`.
    prior : numpy.ndarray
        (K,) of the training set.

    Returns
    -------
    numpy.ndarray
        (N, K).
    """
    new = prior
    for _ in range(1000):
        adapted = probabilities * new / prior
        adapted /= adapted.sum(1, keepdims=True)
        step, new = np.abs(adapted.mean(0) - new).max(), adapted.mean(0)
        if step < 1e-8:
            break
    return adapted
