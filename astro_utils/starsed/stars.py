"""Catalogues of simulated stars: where they are in the field, of which class, and how bright.

    config = StarConfig(seed=1)                             # as published: 12,000 + 1,000 stars
    known = templates()
    catalogue = draw_catalogue(config, known.classes)
    stars = observe(catalogue, config, psf, known, rows=subset("S3", config))

:mod:`astro_utils.starsed.stamps` makes the stamps. The optical field belongs to the PSF and has its own seed:
a *complementary exposure* is another catalogue with a PSF of another field (:func:`complementary_exposure`).

Every quantity is drawn from a stream of its own, of which the seed is that of the catalogue, the part
(training or test) and the quantity; the noise of every star has one, too. So the first n stars are the same
however many there are, the test stars do not depend on the number of training stars, and what is drawn for
one quantity does not shift another.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from astro_utils.starsed.templates import CLASSES

__all__ = [
    "SUBSETS",
    "Catalogue",
    "Detector",
    "StarConfig",
    "complementary_exposure",
    "draw_catalogue",
    "noise_stream",
    "subset",
]

#: Training sets of the PSF (S1 to S6) and of the classifiers, and the stars that extend the former [1]_.
#:
#: .. [1] Centofanti, E., et al., 2025, A&A, 694, A228.
SUBSETS = {
    "S1": slice(0, 50),
    "S2": slice(0, 100),
    "S3": slice(0, 200),
    "S4": slice(0, 500),
    "S5": slice(0, 1000),
    "S6": slice(0, 2000),
    "extra": slice(2000, 4000),
    "classifier": slice(2000, 12_000),
}
_QUANTITIES = ("position", "class", "snr", "flux", "shift", "spectrum", "noise")


@dataclass(frozen=True)
class Detector:
    """A CCD: the noise of stars whose brightness is in electrons.

    Parameters
    ----------
    gain : float
        Electrons per count. Stamps are in counts.
    read_noise : float
        Standard deviation, electrons per pixel.
    sky : float
        Background, electrons per pixel; its noise stays when it is subtracted.

    Raises
    ------
    ValueError
        If a number is negative or not finite, or the gain 0.
    """

    gain: float = 3.0
    read_noise: float = 4.5
    sky: float = 100.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value) or value < 0 or (field.name == "gain" and value == 0):
                raise ValueError(f"{field.name} of the detector is {value}; expected a number above 0")


@dataclass(frozen=True)
class StarConfig:
    """What is drawn, and from which seeds. The defaults are those of the original study [1]_.

    Parameters
    ----------
    seed : int
        Of everything but the optical field.
    n_train, n_test : int
        Stars of each part.
    field_limits : tuple of float
        Both coordinates are uniform between these.
    snr_limits : tuple of float
        Ratio of signal power to noise power (:func:`power_ratio`), uniform. Has no effect with a `detector`.
    noise_realisation : int
        Another number is another draw of the noise alone.
    flux_limits : tuple of float, optional
        Total flux, log-uniform: electrons with a `detector`. By default every star has flux 1, as no real
        star has.
    max_shift : float
        Offsets from the middle of a pixel are uniform up to this in both directions, pixels; 0.5 is all.
    detector : Detector, optional
        Poisson and read noise. By default noise is white and Gaussian.

    Raises
    ------
    ValueError
        If a value makes no sense.

    References
    ----------
    .. [1] Centofanti, E., et al., 2025, A&A, 694, A228, arXiv:2501.16151.
    """

    seed: int = 0
    n_train: int = 12_000
    n_test: int = 1_000
    field_limits: tuple[float, float] = (0.0, 1000.0)
    snr_limits: tuple[float, float] = (20.0, 110.0)
    noise_realisation: int = 0
    flux_limits: tuple[float, float] | None = None
    max_shift: float = 0.0
    detector: Detector | None = None

    def __post_init__(self):
        for name in ("seed", "n_train", "n_test", "noise_realisation"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"{name} is {value!r}; expected a whole number, not negative")
        if self.n_train + self.n_test == 0:
            raise ValueError("n_train and n_test are both 0; expected at least one star")
        for name in ("field_limits", "snr_limits", "flux_limits"):
            limits = getattr(self, name)
            if limits is None:
                continue
            if not (len(limits) == 2 and np.isfinite(limits).all() and limits[0] < limits[1]):
                raise ValueError(f"{name} are {limits}; expected two numbers, the first below the second")
            if name != "field_limits" and limits[0] <= 0:
                raise ValueError(f"{name} are {limits}; expected numbers above 0")
        if not 0 <= self.max_shift <= 0.5:
            raise ValueError(f"max_shift is {self.max_shift}; expected 0 to 0.5 pixels")
        if self.detector is not None and self.flux_limits is None:
            raise ValueError("a detector counts electrons: give flux_limits, such as (2e4, 2e5)")


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Stars before they are observed; the training stars come first.

    Attributes
    ----------
    positions : numpy.ndarray
        (N, 2) x and y in the field.
    labels : numpy.ndarray
        (N,) int, index into :data:`astro_utils.starsed.templates.CLASSES`.
    spectra : numpy.ndarray
        (N,) int, row of the templates.
    snr : numpy.ndarray
        (N,) wanted power ratio; NaN with a detector.
    flux : numpy.ndarray
        (N,) total flux: 1, or as `flux_limits` say.
    shifts : numpy.ndarray
        (N, 2) offsets in x and y, pixels.
    """

    positions: np.ndarray
    labels: np.ndarray
    spectra: np.ndarray
    snr: np.ndarray
    flux: np.ndarray
    shifts: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def subset(name: str, config: StarConfig) -> slice:
    """Rows of a named set of stars.

    Parameters
    ----------
    name : str
        One of :data:`SUBSETS`, ``train`` or ``test``.
    config : StarConfig
        Of the catalogue.

    Raises
    ------
    ValueError
        If there is no such set, or the catalogue has too few training stars for it.
    """
    ends = {"train": slice(0, config.n_train), "test": slice(config.n_train, config.n_train + config.n_test)}
    if name not in (known := SUBSETS | ends):
        raise ValueError(f"subset is {name!r}; expected one of {', '.join(known)}")
    if name in SUBSETS and known[name].stop > config.n_train:
        raise ValueError(f"subset {name} needs {known[name].stop} training stars, not {config.n_train}")
    return known[name]


def complementary_exposure(config: StarConfig, seed: int) -> StarConfig:
    """Return the configuration of new stars of another exposure: the test part alone, under another seed.

    Observe them with a PSF of a new random field, which makes the exposure another one. The original drew one
    training star with them.

    Raises
    ------
    ValueError
        If the seed is that of the first exposure.
    """
    if seed == config.seed:
        raise ValueError(f"seed is {seed} for both exposures; expected another one")
    return replace(config, seed=seed, n_train=0)


# --------------------------------------------------------------------------------------------- catalogue


def _stream(config: StarConfig, part: int, quantity: str, *more: int) -> np.random.Generator:
    key = (part, _QUANTITIES.index(quantity), *more)
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def noise_stream(config: StarConfig, row: int) -> np.random.Generator:
    """Random numbers for the noise of one star, by its row in the catalogue."""
    part = int(row >= config.n_train)
    return _stream(config, part, "noise", config.noise_realisation, row - part * config.n_train)


def draw_catalogue(config: StarConfig, classes: np.ndarray) -> Catalogue:
    """Draw positions, classes, spectra and brightness of all stars.

    Parameters
    ----------
    config : StarConfig
    classes : numpy.ndarray
        (M,) class of each spectrum: ``templates.classes``. A star's class is drawn evenly from those that
        occur here, then one of the spectra of the class.

    Returns
    -------
    Catalogue
        `n_train` + `n_test` stars.

    Raises
    ------
    ValueError
        If `classes` are no classes.
    """
    classes = np.asarray(classes)
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or not len(classes):
        raise ValueError(f"classes must be (M,) integers, not {classes.dtype} of shape {classes.shape}")
    if classes.min() < 0 or classes.max() >= len(CLASSES):
        raise ValueError(f"classes run from {classes.min()} to {classes.max()}; expected 0 to 12")
    parts = [_draw_part(config, n, part, classes) for part, n in enumerate((config.n_train, config.n_test))]
    return Catalogue(**{f.name: np.concatenate([part[f.name] for part in parts]) for f in fields(Catalogue)})


def _draw_part(config: StarConfig, n: int, part: int, classes: np.ndarray) -> dict[str, np.ndarray]:
    def uniform(quantity: str, low: float, high: float, *shape: int) -> np.ndarray:
        return _stream(config, part, quantity).uniform(low, high, (n, *shape))

    present = np.unique(classes)
    labels = present[_stream(config, part, "class").integers(len(present), size=n)]
    # Spectra of one class stand together in this order, so a share of its count picks one of them.
    order, counts = np.argsort(classes, kind="stable"), np.bincount(classes, minlength=len(CLASSES))
    picked = (uniform("spectrum", 0, 1) * counts[labels]).astype(int)
    snr = np.full(n, np.nan) if config.detector else uniform("snr", *config.snr_limits)
    if config.flux_limits is None:
        flux = np.ones(n)
    else:
        flux = np.exp(uniform("flux", *np.log(config.flux_limits)))
    return {
        "positions": uniform("position", *config.field_limits, 2),
        "labels": labels,
        "spectra": order[(np.cumsum(counts) - counts)[labels] + picked],
        "snr": snr,
        "flux": flux,
        "shifts": config.max_shift * uniform("shift", -1, 1, 2),
    }
