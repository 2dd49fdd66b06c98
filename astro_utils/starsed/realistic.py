"""Stars as a camera takes them: of unknown flux, between pixels, with photon noise and spectra of their own.

    answers = realistic_answers(1, n_train=12_000, n_test=1_000, budget=ClassifyBudget(cnn_epochs=100))

The published classifiers learn from training stars that have the spectra of their classes, and get stamps
divided by the sum of their pixels and PSFs at the middle of a pixel. Ours has no training: it finds the flux
and the place of each star, renders the PSF there, and takes the spectrum for a draw from those of its class
(:class:`SpectralScatter`). All know the true PSF, and all are asked about the same test stars, whose spectra
are no templates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from astro_utils.models.star_classifiers import CNNClassifier, SimilaritySVM
from astro_utils.models.star_committee import CommitteeClassifier
from astro_utils.models.star_features import StarSet as ClassifierStars
from astro_utils.models.star_likelihood import class_log_posterior, template_log_likelihood
from astro_utils.models.star_nuisances import WavefrontErrors, pixel_noise
from astro_utils.psf import FieldInterpolator, FieldPsf, PupilModel
from astro_utils.sky.stars import stellar_library
from astro_utils.starsed.class_stars import MEMBERS
from astro_utils.starsed.classify import CNN, PCA, SVM, TRUE, ClassifyBudget, training_stars
from astro_utils.starsed.exposures import Exposure, mono_stamps
from astro_utils.starsed.likelihoods import LIKELIHOOD, OURS
from astro_utils.starsed.stamps import StarSet, join, observe
from astro_utils.starsed.stars import Detector, StarConfig, draw_catalogue
from astro_utils.starsed.templates import CLASSES, bin_weights

__all__ = [
    "LIKELIHOOD_SHIFTED",
    "REALISTIC",
    "SVM_MATCHED",
    "SVM_SHIFTED",
    "PlacedStars",
    "ShiftedPsf",
    "SpectralScatter",
    "member_shares",
    "place_stars",
    "realistic_answers",
    "realistic_exposures",
    "realistic_log_likelihoods",
    "spectral_scatter",
]

REALISTIC = "realistic"
SVM_MATCHED = "SVM+PSF, matched flux"
SVM_SHIFTED = "SVM+PSF, matched flux, shift fitted"
LIKELIHOOD_SHIFTED = "template likelihood, shift fitted"
#: Total electrons of the faintest and the brightest star.
FLUX_LIMITS = (2e4, 2e5)
#: Standard deviation of offsets that are uniform within a pixel; the prior of what the fit leaves of them.
_SHIFT_SD = 12**-0.5
#: Stars whose oversampled PSFs (300 kB each) are in memory at one time.
_CHUNK = 64
#: Gauss-Newton steps; after 4 of them offsets are within 1e-4 pixels of where they end.
_STEPS = 8


def realistic_exposures(
    field_seed: int, *, n_train: int, n_test: int, spectra: str = "stelib"
) -> tuple[Exposure, Exposure]:
    """Return the exposure that has the training stars and that of the test stars, of one optical field.

    Parameters
    ----------
    field_seed : int
        Of the wavefronts and of the stars.
    n_train, n_test : int
        Stars of each part.
    spectra : {"stelib", "pickles"}
        Training stars have the templates of the library, test stars its unseen spectra.

    Returns
    -------
    tuple of Exposure
        For the rows ``train`` of the first and the rows ``test`` of the second.
    """
    stars = StarConfig(
        seed=field_seed,
        n_train=n_train,
        n_test=n_test,
        flux_limits=FLUX_LIMITS,
        max_shift=0.5,
        detector=Detector(),
    )
    known = Exposure(field_seed, stars, spectra)
    return known, replace(known, unseen=True)


# ------------------------------------------------------------------------------------------ shifted PSFs


def _shift_matrices(shifts: np.ndarray, samples: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (n, pixels, samples) that shift samples by `shifts` (n,) pixels and sum them in pixels.

    Also their derivatives with respect to the shifts. The shift is that of
    :func:`astro_utils.starsed.stamps.fourier_shift`; along the two axes in turn it costs two matrix products.
    """
    wave = -2j * np.pi * factor * np.fft.rfftfreq(samples)
    phase = np.exp(wave * shifts[:, None])
    lag = (np.arange(samples)[:, None] - np.arange(samples)) % samples
    both = (np.fft.irfft(one, samples)[:, lag] for one in (phase, wave * phase))  # (n, samples, samples)
    shift, change = (one.reshape(len(shifts), -1, factor, samples).sum(2).astype(np.float32) for one in both)
    return shift, change


def _shifted(fine: np.ndarray, shifts: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, ..., ny, nx) and their derivatives (n, ..., 2, ny, nx) along x and y, per pixel.

    `fine` (n, ..., factor ny, factor nx) are oversampled images, `shifts` (n, 2) pixels in x and y.
    """
    more = (slice(None), *[None] * (fine.ndim - 3))
    x, x_change = (
        one[more].swapaxes(-1, -2) for one in _shift_matrices(shifts[:, 0], fine.shape[-1], factor)
    )
    y, y_change = (one[more] for one in _shift_matrices(shifts[:, 1], fine.shape[-2], factor))
    rows = y @ fine
    return rows @ x, np.stack([rows @ x_change, y_change @ fine @ x], -3)


@dataclass(frozen=True)
class ShiftedPsf:
    """The PSF of a field for stars between pixels, as :func:`astro_utils.starsed.stamps.observe` takes it.

    Parameters
    ----------
    fine : FieldInterpolator
        Of diffraction patterns that are not summed in pixels.
    factor : int
        Their samples along the side of a pixel.
    """

    fine: FieldInterpolator
    factor: int

    @classmethod
    def of(cls, exposure: Exposure) -> ShiftedPsf:
        """Interpolate the true PSF of an exposure."""
        optics = exposure.optics
        # A camera whose pixels are the samples; the pattern and its period stay the same.
        factor = optics.oversampling
        samples = replace(
            optics, pixel_um=optics.pixel_um / factor, oversampling=1, stamp=optics.stamp * factor
        )
        psf = FieldPsf(PupilModel(samples), exposure.wavefronts)
        return cls(FieldInterpolator(psf, exposure.nodes), factor)

    def __call__(self, positions: np.ndarray, shifts: np.ndarray | None = None) -> np.ndarray:
        """Return (n, bins, ny, nx) stamps; see :class:`astro_utils.starsed.stamps.Psf`."""
        shifts = np.zeros((len(positions), 2)) if shifts is None else np.asarray(shifts)
        return _shifted(mono_stamps(self.fine, positions), shifts, self.factor)[0]


# ------------------------------------------------------------------------------------- flux and place


def _chunks(stars: StarSet) -> Iterator[StarSet]:
    for start in range(0, len(stars), _CHUNK):
        yield stars.rows(slice(start, start + _CHUNK))


def _sums(stars: StarSet) -> np.ndarray:
    """Flux (N,) of stars as the sum of their pixels, from which the background is subtracted."""
    flux = stars.stamps.sum((1, 2), dtype=float)
    if not (flux > 0).all():
        row = int((flux <= 0).argmax())
        place = ", ".join(f"{value:.1f}" for value in stars.positions[row])
        raise ValueError(f"the pixels of the star at ({place}) sum to {flux[row]:.3g}; expected above 0")
    return flux


@dataclass(frozen=True, eq=False)
class PlacedStars:
    """Flux and place of stars, and the PSF rendered there.

    Attributes
    ----------
    flux : numpy.ndarray
        (N,) in the unit of the stamps.
    shifts : numpy.ndarray
        (N, 2) offsets in x and y from where the PSF is centred, pixels.
    psfs : numpy.ndarray
        (N, bins, ny, nx) monochromatic stamps with these offsets.
    slopes : numpy.ndarray
        (N, bins, 2, ny, nx) their derivatives along x and y, per pixel.
    """

    flux: np.ndarray
    shifts: np.ndarray
    psfs: np.ndarray
    slopes: np.ndarray


def place_stars(psf: ShiftedPsf, stars: StarSet, spectrum: np.ndarray) -> PlacedStars:
    """Find flux and offset of stars by weighted least squares, with one spectrum for all.

    Parameters
    ----------
    psf : ShiftedPsf
    stars : StarSet
        A few hundred at most: their PSFs are held in memory.
    spectrum : numpy.ndarray
        (bins,) of sum 1, such as the mean of all templates.

    Returns
    -------
    PlacedStars

    Notes
    -----
    Gauss-Newton steps in flux and offset from the sum of the pixels and the middle. A pixel's variance is
    that of the background and of the fitted image. Offsets stay within a pixel.
    """
    fine = mono_stamps(psf.fine, stars.positions)
    grey = np.einsum("b,nbyx->nyx", spectrum.astype(np.float32), fine)
    stamps = stars.stamps.astype(float)
    flux, shifts = _sums(stars), np.zeros((len(stars), 2))
    for _ in range(_STEPS):
        image, slopes = _shifted(grey, shifts, psf.factor)
        model = flux[:, None, None] * image
        columns = np.concatenate([image[:, None], flux[:, None, None, None] * slopes], 1)
        columns = columns.reshape(len(flux), 3, -1).astype(float)
        weighted = columns / stars.variance(model).reshape(len(flux), 1, -1)
        residual = (stamps - model).reshape(len(flux), -1, 1)
        step = np.linalg.solve(weighted @ columns.swapaxes(1, 2), weighted @ residual)[..., 0]  # (n, 3)
        flux = np.maximum(flux + step[:, 0], 0.1 * flux)
        shifts = np.clip(shifts + np.clip(step[:, 1:], -0.3, 0.3), -1, 1)
    psfs, slopes = _shifted(fine, shifts, psf.factor)
    return PlacedStars(flux, shifts, psfs, slopes)


# ------------------------------------------------------------------------------------ spectra of a class


@dataclass(frozen=True, eq=False)
class SpectralScatter:
    """Spectra of one class that differ as those of its members do: a nuisance of a template likelihood.

    Parameters
    ----------
    directions : numpy.ndarray
        (C, J, bins) relative change of the shares of each class, for one standard deviation along each of J
        directions. Its products summed over directions are the covariance of the relative changes.
    """

    directions: np.ndarray

    @property
    def size(self) -> int:
        """Number of directions."""
        return self.directions.shape[1]

    def columns(self, rows: slice, psfs: Tensor, models: Tensor, templates: Tensor) -> Tensor:
        """See :class:`astro_utils.models.star_nuisances.Nuisance`."""
        expected = (len(templates), self.size, psfs.shape[1])
        if self.directions.shape != expected:
            raise ValueError(f"directions are of shape {self.directions.shape}; expected {expected}")
        changes = torch.as_tensor(self.directions).to(templates) * templates[:, None]  # (C, J, bins)
        images = changes.flatten(0, 1) @ psfs.flatten(2)  # (n, C J, pixels)
        return images.unflatten(1, expected[:2]).unflatten(3, psfs.shape[2:])


def member_shares(n_bins: int, at_nm: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return shares (M, bins) of the stars whose means are the templates ``stelib``, and their classes (M,).

    Unseen stars are not among them. Arguments are those of
    :func:`astro_utils.starsed.templates.bin_weights`.
    """
    library = stellar_library()
    names, origins = (np.asarray(library.table[column]).astype(str) for column in ("name", "library"))
    rows, classes = [], []
    for label, name in enumerate(CLASSES):
        for star, origin in MEMBERS[name]:
            (row,) = np.flatnonzero((names == star) & (origins == origin))
            rows.append(row)
            classes.append(label)
    wavelength = library.wavelength / 10
    shares = bin_weights(library.flux[rows], n_bins, wavelength_nm=wavelength, at_nm=at_nm)
    return shares, np.array(classes)


def spectral_scatter(shares: np.ndarray, classes: np.ndarray) -> SpectralScatter:
    """Estimate how another star of a class differs from the mean of the members of the class.

    Parameters
    ----------
    shares : numpy.ndarray
        (M, bins) of members, rows of sum one.
    classes : numpy.ndarray
        (M,) int.

    Returns
    -------
    SpectralScatter
        The covariance of relative deviations from the mean of a class, pooled over classes, with as many
        degrees of freedom as there are members beyond the first of each class. For a class of n members it is
        (1 + 1/n) times as large: their mean is as uncertain as a star divided by n.

    Raises
    ------
    ValueError
        If no class has two members, or one has none.
    """
    counts = np.bincount(classes, minlength=len(CLASSES))
    if counts.min() < 1 or counts.max() < 2:
        raise ValueError(f"classes have {counts.tolist()} members; expected one or more of each, of some two")
    means = np.array([shares[classes == label].mean(0) for label in range(len(counts))])
    relative = shares / means[classes] - 1  # (M, bins)
    covariance = relative.T @ relative / (len(shares) - len(counts))
    values, vectors = np.linalg.eigh(covariance)
    directions = (np.sqrt(np.maximum(values, 0)) * vectors).T[::-1]  # (bins, bins), the largest first
    return SpectralScatter(np.sqrt(1 + 1 / counts)[:, None, None] * directions)


def realistic_log_likelihoods(
    psf: ShiftedPsf, stars: StarSet, templates: np.ndarray, scatter: SpectralScatter
) -> dict[str, np.ndarray]:
    """Log-likelihoods of the classes of stars from a detector, of free flux, by name of the method.

    Parameters
    ----------
    psf : ShiftedPsf
    stars : StarSet
        Of finite gain.
    templates : numpy.ndarray
        (C, bins).
    scatter : SpectralScatter

    Returns
    -------
    dict
        Name to (N, C) float64: with stars in the middle of a pixel and spectra that are the templates; with
        their places fitted (and what the fit leaves integrated out); and with scattered spectra, too, which
        is :data:`astro_utils.starsed.likelihoods.OURS`.
    """
    if not np.isfinite(stars.gain) or np.ptp(stars.sigma) > 0:
        raise ValueError("the stars' noise is not that of a detector: the gain is infinite, or sigmas differ")
    out: dict[str, list[np.ndarray]] = {LIKELIHOOD: [], LIKELIHOOD_SHIFTED: [], OURS: []}
    for some in _chunks(stars):
        middle = psf(some.positions)
        placed = place_stars(psf, some, templates.mean(0))
        offset = WavefrontErrors(placed.slopes, _SHIFT_SD**2 * np.eye(2))
        cases = [(LIKELIHOOD, middle, []), (LIKELIHOOD_SHIFTED, placed.psfs, [offset])]
        for name, psfs, unknown in [*cases, (OURS, placed.psfs, [offset, scatter])]:
            noise = pixel_noise(some.stamps, psfs, templates, some.gain, some.sigma[0])
            found = template_log_likelihood(some.stamps, psfs, templates, noise, nuisances=unknown)
            out[name].append(found)
    return {name: np.concatenate(parts) for name, parts in out.items()}


# ----------------------------------------------------------------------------------------------- answers


def _observed(exposure: Exposure, psf: ShiftedPsf, part: str) -> StarSet:
    """Observe a part of an exposure; noiseless stamps are not kept."""
    spectra = exposure.star_spectra
    catalogue = draw_catalogue(exposure.stars, spectra.classes)
    rows = np.arange(len(catalogue))[exposure.rows(part)]
    pieces = np.split(rows, np.arange(_CHUNK, len(rows), _CHUNK))
    stars = join([observe(catalogue, exposure.stars, psf, spectra, rows=piece) for piece in pieces])
    return replace(stars, noiseless=None)


def _psfs(psf: ShiftedPsf, stars: StarSet, spectrum: np.ndarray, centred: bool) -> np.ndarray:
    """PSFs (N, bins, ny, nx) of stars, in the middle of a pixel or at their fitted places."""
    out, done = np.empty((len(stars), len(spectrum), *stars.stamps.shape[1:]), np.float32), 0
    for some in _chunks(stars):
        found = psf(some.positions) if centred else place_stars(psf, some, spectrum).psfs
        out[done : done + len(some)] = found
        done += len(some)
    return out


def _divided(stars: StarSet, psfs: np.ndarray | None = None) -> ClassifierStars:
    """Hand stars to a published classifier, divided by the sum of their pixels."""
    stamps = stars.stamps / _sums(stars)[:, None, None]
    return ClassifierStars(stamps.astype(np.float32), stars.labels, psfs)


def _rows(stars: StarSet, method: str, field_seed: int, p: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(p.astype(np.float32), columns=[f"p_{name}" for name in CLASSES])
    table.insert(0, "predicted", p.argmax(1).astype(np.int8))
    table.insert(0, "snr", stars.snr.astype(np.float32))
    table.insert(0, "label", stars.labels.astype(np.int8))
    return table.assign(field=field_seed, test=REALISTIC, psf=TRUE, method=method)


def _table(stars: StarSet, method: str, field_seed: int, machine, asked: ClassifierStars) -> pd.DataFrame:
    table = _rows(stars, method, field_seed, machine.predict_probabilities(asked))
    return table.assign(predicted=machine.predict(asked).astype(np.int8))


def realistic_answers(
    field_seed: int,
    *,
    n_train: int,
    n_test: int,
    budget: ClassifyBudget,
    spectra: str = "stelib",
    seed: int = 0,
) -> pd.DataFrame:
    """Ask all methods about the same test stars of one field.

    Parameters
    ----------
    field_seed, n_train, n_test, spectra
        As for :func:`realistic_exposures`. The first 2,000 training stars (or half of fewer) stop the
        committee, the others train the published classifiers.
    budget : ClassifyBudget
    seed : int
        Of the published classifiers.

    Returns
    -------
    pandas.DataFrame
        One row for each test star and method, with the columns of the answers of
        :mod:`astro_utils.starsed.classify`.
    """
    known, unseen = realistic_exposures(field_seed, n_train=n_train, n_test=n_test, spectra=spectra)
    psf = ShiftedPsf.of(known)
    training, test = _observed(known, psf, "train"), _observed(unseen, psf, "test")
    at_nm = 1000 * known.optics.spectrum_wavelengths_um
    scatter = spectral_scatter(*member_shares(known.optics.bins, at_nm=at_nm))
    tables = []
    for method, log_l in realistic_log_likelihoods(psf, test, known.templates.weights, scatter).items():
        tables.append(_rows(test, method, field_seed, np.exp(class_log_posterior(log_l))))
    spectrum = known.templates.weights.mean(0)
    start = min(2000, n_train // 2)
    validation = training.rows(slice(0, start))
    train = training.rows(slice(start, start + training_stars(known, budget)))
    blind = [_divided(stars) for stars in (train, validation, test)]
    machines = {
        PCA: CommitteeClassifier(members=budget.committee_members, epochs=budget.committee_epochs, seed=seed),
        CNN: CNNClassifier(epochs=budget.cnn_epochs, half=budget.half, seed=seed),
    }
    for method, machine in machines.items():
        tables.append(_table(test, method, field_seed, machine.fit(*blind[:2]), blind[2]))
    for methods, centred in (({SVM: "sum", SVM_MATCHED: "matched"}, True), ({SVM_SHIFTED: "matched"}, False)):
        # The PSFs of 10,000 stars take 330 MB: one set of them at a time.
        sets = [_divided(stars, _psfs(psf, stars, spectrum, centred)) for stars in (train, test)]
        for method, flux in methods.items():
            machine = SimilaritySVM(flux=flux, seed=seed).fit(sets[0])
            tables.append(_table(test, method, field_seed, machine, sets[1]))
        del sets
    return pd.concat(tables, ignore_index=True)
