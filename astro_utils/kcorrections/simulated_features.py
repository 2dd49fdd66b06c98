"""What methods are told of simulated galaxies: photometry and shapes as features, summaries of embeddings.

The catalogue's numbers are measured on the images, so whatever an embedding of an image knows beyond them is
worth a look: :class:`EmbeddingSummary` boils an embedding down to what it says of K and of redshift, learned
on galaxies of other parts of the sky.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.simulated import Galaxies
from astro_utils.photometry import asinh_magnitudes
from astro_utils.sky.surveys import LEGACY
from astro_utils.splits import group_folds

__all__ = ["CATALOGUE_NUMBERS", "EmbeddingSummary", "catalogue_features", "three_numbers"]

#: Where the r magnitude and the two colours are in :func:`catalogue_features`.
CATALOGUE_NUMBERS = ("r", "g - r", "r - z")


def _magnitudes(galaxies: Galaxies, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Dereddened asinh magnitudes of one kind of flux and their errors, (N, 3) each."""
    table = galaxies.catalogue
    flux, ivar, extinction = (
        table[[f"{name}_{b}" for b in LEGACY.bands]].to_numpy(float)
        for name in (f"{kind}_flux", f"{kind}_flux_ivar", "extinction")
    )
    magnitude, error = asinh_magnitudes(flux, ivar, np.array(LEGACY.softening))
    return magnitude - extinction, error


def catalogue_features(galaxies: Galaxies) -> Features:
    """Features of galaxies from their catalogue in g, r, z: fluxes of three kinds, errors and shapes.

    The first three are :data:`CATALOGUE_NUMBERS`.
    """
    table = galaxies.catalogue
    model, model_error = _magnitudes(galaxies, "model")
    petro, petro_error = _magnitudes(galaxies, "petro")
    psf, _ = _magnitudes(galaxies, "psf")
    r = LEGACY.index
    columns: list[tuple[str, np.ndarray]] = [("magnitude", model[:, r])]
    columns += [("colour", model[:, i] - model[:, i + 1]) for i in range(2)]
    columns += [("petrosian colour", petro[:, i] - petro[:, i + 1]) for i in range(2)]
    columns += [("concentration", model[:, r] - petro[:, r])]
    columns += [("error", np.log(model_error[:, i])) for i in range(3)]
    columns += [("petrosian error", np.log(petro_error[:, i])) for i in range(3)]
    # The colour of the middle beside that of the whole: bulges are redder than discs.
    columns += [("shape", psf[:, i] - psf[:, i + 1]) for i in range(2)]
    columns += [("shape", model[:, r] - psf[:, r])]
    radii = ("model_radius", "petro_r50")
    columns += [("shape", np.log(np.maximum(table[name].to_numpy(float), 0.05))) for name in radii]
    ratio = table["petro_r90"].to_numpy(float) / np.maximum(table["petro_r50"].to_numpy(float), 0.05)
    columns += [("shape", np.log(np.clip(ratio, 1, 10))), ("shape", table["model_q"].to_numpy(float))]
    return Features(np.stack([values for _, values in columns], 1), tuple(kind for kind, _ in columns))


def three_numbers(features: Features) -> np.ndarray:
    """Take the r magnitude, g - r and r - z alone, (N, 3)."""
    return features.values[:, :3]


class EmbeddingSummary:
    """What embeddings say of a few numbers, by ridge regression: some columns instead of hundreds.

    Parameters
    ----------
    n_folds : int
        The summary of a training galaxy is made without its part of the sky: one out of so many.
    seed : int
        Of the folds.
    """

    def __init__(self, *, n_folds: int = 4, seed: int = 0) -> None:
        self.n_folds, self.seed = n_folds, seed

    def _ridge(self) -> Pipeline:
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))

    def fit_transform(self, embeddings: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Fit to embeddings (N, D), targets (N, T) and parts of the sky (N,); out-of-fold summary (N, T)."""
        folds = group_folds(groups, self.n_folds, self.seed)
        out = np.empty(targets.shape)
        for fold in range(self.n_folds):
            inside = folds != fold
            model = self._ridge().fit(embeddings[inside], targets[inside])
            out[~inside] = model.predict(embeddings[~inside]).reshape(-1, targets.shape[1])
        self._model = self._ridge().fit(embeddings, targets)
        return out

    def transform(self, embeddings: np.ndarray) -> np.ndarray:
        """Summary (M, T) of other galaxies."""
        return self._model.predict(embeddings).reshape(len(embeddings), -1)
