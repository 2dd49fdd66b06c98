"""Every method that is asked for K of the real galaxies, by what it is told of the redshift.

Baselines, kcorrect and ours answer for galaxies on parts of the sky that nothing was fitted to. Each has a
circularity, as the truth is kcorrect's own: see :func:`astro_utils.kcorrections.truth.circularity`.

    fold = Fold(known, kcorrect, k, train, test)
    answers = {(m.track, m.name): m.predict(fold) for m in methods("grz")}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.polynomials import box_powers, fit_polynomial
from astro_utils.kcorrections.predictors import TemplateDensity, WithDensity, WithRedshift
from astro_utils.kcorrections.real_sample import ALL_BANDS, MAX_REDSHIFT, Photometry, wheel_photometry
from astro_utils.kcorrections.truth import KTruth, circularity, pseudo_truth
from astro_utils.splits import check_disjoint, group_folds

__all__ = [
    "NONE",
    "PHOTOMETRIC",
    "SELECTION",
    "SPECTROSCOPIC",
    "TRACKS",
    "Fold",
    "RealMethod",
    "RealSky",
    "methods",
    "real_sky",
]

NONE, PHOTOMETRIC, SPECTROSCOPIC = TRACKS = ("no redshift", "photometric redshift", "spectroscopic redshift")


#: The parts of the sky, among five by :func:`astro_utils.splits.group_folds` with seed 0 of all galaxies, on
#: whose galaxies the settings of our predictors were chosen. Scores on the other three are free of choice.
SELECTION = (3, 4)


@dataclass(frozen=True, eq=False)
class RealSky:
    """Real galaxies with a true K.

    Attributes
    ----------
    sample : pandas.DataFrame
        (N rows) of :func:`astro_utils.galaxies.galaxy_sample`.
    photometry : Photometry
    k, k_ten : numpy.ndarray
        (N,) truth from ugriz, and from ten bands where a galaxy has them, else NaN, mag.
    untouched : numpy.ndarray
        (N,) mask of galaxies outside :data:`SELECTION`.
    """

    sample: pd.DataFrame
    photometry: Photometry
    k: np.ndarray
    k_ten: np.ndarray
    untouched: np.ndarray


def real_sky(n_galaxies: int = 0, seed: int = 0) -> RealSky:
    """Read the real galaxies to redshift 0.3885 and fit both truths.

    Parameters
    ----------
    n_galaxies : int
        Galaxies, drawn at random; 0 for all.
    seed : int
        Of the draw.
    """
    photometry, sample = wheel_photometry()
    rows = np.flatnonzero(photometry.z <= MAX_REDSHIFT)
    untouched = ~np.isin(group_folds(sample["pixel"].to_numpy()[rows], 5, 0), SELECTION)
    if n_galaxies > len(rows):
        raise ValueError(f"{n_galaxies} galaxies; there are {len(rows)} to redshift {MAX_REDSHIFT}")
    if n_galaxies:
        kept = np.sort(np.random.default_rng(seed).permutation(len(rows))[:n_galaxies])
        rows, untouched = rows[kept], untouched[kept]
    chosen = photometry.select(rows)
    truth, ten = pseudo_truth(chosen), pseudo_truth(chosen, ALL_BANDS)
    if not truth.good.all():
        raise ValueError(f"no truth for {int((~truth.good).sum())} galaxies: {truth.fit.failures()}")
    return RealSky(sample.iloc[rows].reset_index(drop=True), chosen, truth.k, ten.k, untouched)


@dataclass(frozen=True, eq=False)
class Fold:
    """Galaxies to learn from and galaxies to answer for, and what several methods share.

    Attributes
    ----------
    known : Knowledge
        Of all N galaxies, with redshifts and templates; methods take from it what their track allows.
    kcorrect : numpy.ndarray
        (N,) K by kcorrect at the spectroscopic redshift, however badly it fits; NaN where it fails, mag.
    k : numpy.ndarray
        (N,) true K, mag; no method reads those of the test galaxies.
    train, test : numpy.ndarray
        Indices, of different sky pixels.
    seed : int
    """

    known: Knowledge
    kcorrect: np.ndarray
    k: np.ndarray
    train: np.ndarray
    test: np.ndarray
    seed: int = 0

    def __post_init__(self):
        check_disjoint(self.known.groups[self.train], self.known.groups[self.test], "sky pixels")

    @cached_property
    def density(self) -> WithDensity:
        """Predictor that learns K and p(z) from the training galaxies."""
        return WithDensity(seed=self.seed).fit(self.known.select(self.train), self.k[self.train])

    @cached_property
    def density_quantiles(self) -> np.ndarray:
        """Equally probable redshifts of the test galaxies, (M, Q)."""
        return self.density.density.quantiles(self.known.features.select(self.test))

    @cached_property
    def photometric_redshifts(self) -> np.ndarray:
        """Medians of p(z) of all galaxies, (N,); of training galaxies from others on other sky pixels."""
        out = np.full(len(self.k), np.nan)
        out[self.train] = self.density.density.out_of_fold
        out[self.test] = np.median(self.density_quantiles, axis=1)
        return out

    def redshifts(self, track: str) -> np.ndarray | None:
        """Redshifts that a track is told, (N,), or none."""
        if track == NONE:
            return None
        return self.known.z if track == SPECTROSCOPIC else self.photometric_redshifts

    def fitted(self, make: Callable[[], object]) -> np.ndarray:
        """K of the test galaxies from a predictor that is fitted to the others."""
        model = make().fit(self.known.select(self.train), self.k[self.train])
        return model.predict(self.known.select(self.test))


@dataclass(frozen=True)
class RealMethod:
    """One method in one track.

    Attributes
    ----------
    track : str
        Among :data:`TRACKS`.
    name : str
    source : {"baseline", "benchmark", "ours", "ablation"}
    predict : callable
        From a fold to K of its test galaxies (M,), mag; NaN where the method fails.
    bands : tuple of str
        What the method sees.
    templates : bool
        Whether it fits the templates of the truth.
    redshift : bool
        Whether it is told the redshift that the truth was fitted at.
    """

    track: str
    name: str
    source: str
    predict: Callable[[Fold], np.ndarray]
    bands: tuple[str, ...] = ()
    templates: bool = False
    redshift: bool = False

    def circularity(self, truth: KTruth) -> str:
        """How independent of a truth the method is, one of four words."""
        return circularity(truth, self.bands, templates=self.templates, knows_redshift=self.redshift)


def methods(bands: str | tuple[str, ...]) -> list[RealMethod]:
    """List the methods of all tracks.

    Parameters
    ----------
    bands : str or tuple of str
        ``"grz"`` or ``"ugriz"``: what the methods see, from blue to red, as in the features.
    """
    bands = tuple(bands)
    if "r" not in bands or "g" not in bands:
        raise ValueError(f"bands {bands}; expected g and r among them")
    return [method for track in TRACKS for method in [*_baselines(track, bands), *_ours(track, bands)]]


# ------------------------------------------------------------------------------------------------ baselines


def _baselines(track: str, bands: tuple[str, ...]) -> list[RealMethod]:
    numbers = {3: "three numbers", 5: "five numbers"}.get(len(bands), f"{len(bands)} numbers")
    told = track == SPECTROSCOPIC
    out = [
        RealMethod(track, "mean", "baseline", _mean),
        RealMethod(track, "colours", "baseline", partial(_neighbours, magnitude=False), bands),
        RealMethod(track, numbers, "baseline", partial(_neighbours, magnitude=True), bands),
    ]
    if track == NONE:
        density = partial(Fold.fitted, make=TemplateDensity)
        out += [RealMethod(track, "templates and n(z)", "benchmark", density, bands, True)]
    else:
        line, plane = (partial(_polynomial, track=track, colour=c) for c in (None, 1 + bands.index("g")))
        kcorrect = partial(_kcorrect, track=track)
        out += [
            RealMethod(track, "redshift", "baseline", line, redshift=told),
            RealMethod(track, "redshift, g - r", "baseline", plane, ("g", "r"), redshift=told),
            RealMethod(track, "kcorrect", "benchmark", kcorrect, bands, True, told),
        ]
    boosting = partial(_boosting, track=track)
    return [*out, RealMethod(track, "gradient boosting", "baseline", boosting, bands, redshift=told)]


def _mean(fold: Fold) -> np.ndarray:
    return np.full(len(fold.test), fold.k[fold.train].mean())


def _neighbours(fold: Fold, magnitude: bool) -> np.ndarray:
    """Mean of the 30 nearest training galaxies in model colours, each in units of its spread."""
    x = fold.known.features.of("colour", *["magnitude"] * magnitude).values
    x = x / x[fold.train].std(0)
    return KNeighborsRegressor(30).fit(x[fold.train], fold.k[fold.train]).predict(x[fold.test])


def _polynomial(fold: Fold, track: str, colour: int | None) -> np.ndarray:
    """K as a polynomial of degree 7 in redshift, and of degree 3 in one colour."""
    columns = [fold.redshifts(track)] + ([] if colour is None else [fold.known.features.values[:, colour]])
    x, powers = np.stack(columns, 1), box_powers(*[7, 3][: len(columns)])
    return fit_polynomial(x[fold.train], fold.k[fold.train], powers)(x[fold.test])


def _boosting(fold: Fold, track: str) -> np.ndarray:
    """Plain gradient boosting, with scikit-learn's own settings, on all features."""
    z = fold.redshifts(track)
    x = fold.known.features.values if z is None else np.column_stack([fold.known.features.values, z])
    trees = HistGradientBoostingRegressor(random_state=fold.seed)
    return trees.fit(x[fold.train], fold.k[fold.train]).predict(x[fold.test])


def _kcorrect(fold: Fold, track: str) -> np.ndarray:
    if track == SPECTROSCOPIC:
        return fold.kcorrect[fold.test]
    return fold.known.grid.select(fold.test).at(fold.photometric_redshifts[fold.test][:, None])[:, 0]


# ----------------------------------------------------------------------------------------------------- ours


def _ours(track: str, bands: tuple[str, ...]) -> list[RealMethod]:
    if track == NONE:
        return [RealMethod(track, "ours", "ours", _direct, bands)]
    if track == PHOTOMETRIC:
        return [RealMethod(track, "ours", "ours", _averaged, bands, True)]
    plain = partial(_known_redshift, templates=False)
    if len(bands) == 5:  # with templates there is nothing left to predict: kcorrect repeats the truth
        return [RealMethod(track, "ours", "ours", plain, bands, redshift=True)]
    corrected = partial(_known_redshift, templates=True)
    return [
        RealMethod(track, "ours", "ours", corrected, bands, True, True),
        RealMethod(track, "ours, kcorrect left out", "ablation", plain, bands, redshift=True),
    ]


def _direct(fold: Fold) -> np.ndarray:
    return fold.density.direct.predict(fold.known.select(fold.test))


def _averaged(fold: Fold) -> np.ndarray:
    return fold.density.predict(fold.known.select(fold.test))


def _known_redshift(fold: Fold, templates: bool) -> np.ndarray:
    return fold.fitted(partial(WithRedshift, templates=templates, seed=fold.seed))
