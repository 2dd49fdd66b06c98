"""Every method asked about the same realistic stars, whose spectra are no templates.

    answers = realistic_answers(1, n_train=12_000, n_test=1_000, budget=ClassifyBudget(cnn_epochs=100))

The published classifiers learn from training stars that have the spectra of their classes, and get stamps
divided by the sum of their pixels and PSFs at the middle of a pixel. Ours has no training
(:mod:`astro_utils.starsed.realistic_likelihoods`). All know the true PSF.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from astro_utils.models.star_classifiers import CNNClassifier, SimilaritySVM
from astro_utils.models.star_committee import CommitteeClassifier
from astro_utils.models.star_features import StarSet as ClassifierStars
from astro_utils.models.star_likelihood import class_log_posterior
from astro_utils.starsed.class_scatter import member_shares, spectral_scatter
from astro_utils.starsed.classify import CNN, PCA, SVM, TRUE, ClassifyBudget, training_stars
from astro_utils.starsed.realistic_likelihoods import realistic_log_likelihoods
from astro_utils.starsed.realistic_stars import REALISTIC, observed_part, realistic_exposures
from astro_utils.starsed.shifted_psf import ShiftedPsf, chunks
from astro_utils.starsed.stamps import StarSet
from astro_utils.starsed.star_places import pixel_sums, place_stars
from astro_utils.starsed.templates import CLASSES

__all__ = ["SVM_MATCHED", "SVM_SHIFTED", "realistic_answers"]

SVM_MATCHED = "SVM+PSF, matched flux"
SVM_SHIFTED = "SVM+PSF, matched flux, shift fitted"


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
        As for :func:`astro_utils.starsed.realistic_stars.realistic_exposures`. The first 2,000 training
        stars (or half of fewer) stop the committee, the others train the published classifiers.
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
    training, test = observed_part(known, psf, "train"), observed_part(unseen, psf, "test")
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


def _psfs(psf: ShiftedPsf, stars: StarSet, spectrum: np.ndarray, centred: bool) -> np.ndarray:
    """PSFs (N, bins, ny, nx) of stars, in the middle of a pixel or at their fitted places."""
    out, done = np.empty((len(stars), len(spectrum), *stars.stamps.shape[1:]), np.float32), 0
    for some in chunks(stars):
        found = psf(some.positions) if centred else place_stars(psf, some, spectrum).psfs
        out[done : done + len(some)] = found
        done += len(some)
    return out


def _divided(stars: StarSet, psfs: np.ndarray | None = None) -> ClassifierStars:
    """Hand stars to a published classifier, divided by the sum of their pixels."""
    stamps = stars.stamps / pixel_sums(stars)[:, None, None]
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
