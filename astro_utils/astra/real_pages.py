"""What of a real spectrum a decoder, templates or a polynomial can hold: reconstructions, scores, figures.

Each reconstruction sees the spectrum itself and its redshift, but nothing that was learned from the same
galaxy. It bounds what a prediction by the same means could reach.

    good = galaxies.select(galaxies.signal_to_noise > 10)
    models = reconstructions(good, n_components=8, extra=(simulated.spectra, simulated.z))
    scores = model_scores(good, models["decoder: both, lines"], reference, shown=good.z)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.polynomial import legendre
from scipy.optimize import nnls

from astro_utils.astra.baselines import TemplateAtRedshift, mean_spectrum
from astro_utils.astra.decoder import RestFrameDecoder
from astro_utils.astra.grid import SDSS_GRID, rebin, synthetic_flux
from astro_utils.astra.real_spectra import RealGalaxies, explained
from astro_utils.astra.redshift_template import RedshiftFinder
from astro_utils.astra.simulated import FILTERS
from astro_utils.figures import COLOURS, MARKERS
from astro_utils.metrics import redshift_error, summarise, wilson_interval
from astro_utils.samples import Spectra
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.spectra import SDSS, Projector
from astro_utils.spectrum_scores import (
    chi2_per_pixel,
    continuum,
    index_scores,
    indices,
    r2,
    recovered_redshift_scores,
)

__all__ = [
    "DECODERS",
    "bridged",
    "decode_held_out",
    "mean_of_others",
    "model_scores",
    "polynomials",
    "reconstruction_figure",
    "reconstructions",
    "redshift_figure",
    "redshift_finder",
    "spectrum_table",
    "template_fits",
]

#: What decoders learn from: whether from the other real spectra, and from simulated ones.
DECODERS = {"real": (True, False), "simulated": (False, True), "both": (True, True)}
_EMISSION = {"[O II]": 3728.5, "Hβ": 4862.7, "[O III]": 5008.2, "Na D": 5894.6, "Hα": 6564.6}


def _joined(first: Spectra, second: Spectra) -> Spectra:
    flux, ivar = (np.concatenate([getattr(s, name) for s in (first, second)]) for name in ("flux", "ivar"))
    return Spectra(first.wavelength, flux, ivar)


def bridged(spectra: Spectra) -> np.ndarray:
    """Fluxes (N, L) with straight lines over pixels that were not measured."""
    flux = np.array(spectra.flux, dtype=np.float32)
    for row, known in zip(flux, spectra.ivar > 0, strict=True):
        row[~known] = np.interp(spectra.wavelength[~known], spectra.wavelength[known], row[known])
    return flux


def decode_held_out(
    galaxies: RealGalaxies,
    n_components: int,
    extra: tuple[Spectra, np.ndarray] | None = None,
    real: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruct each spectrum by a decoder that has learned from the other galaxies.

    As :func:`astro_utils.astra.real_spectra.held_out`, of which it is the spectra behind the scores.

    Parameters
    ----------
    galaxies : RealGalaxies
    n_components : int
    extra : tuple, optional
        Normalised spectra and redshifts that are learned from as well.
    real : bool
        Whether other real galaxies are learned from, or `extra` alone.

    Returns
    -------
    plain, lines : numpy.ndarray
        (N, L), without and with components for emission lines.

    Raises
    ------
    ValueError
        When there is nothing to learn from.
    """
    if not real and extra is None:
        raise ValueError("nothing to learn from: expected real spectra or extra ones")
    out = np.empty((2, *galaxies.spectra.flux.shape), np.float32)
    decoder = None
    for number in np.unique(galaxies.galaxy):
        own = galaxies.galaxy == number
        if decoder is None or real:  # one decoder does for all where no real galaxy is in it
            others = galaxies.select(~own)
            spectra, z = (others.spectra, others.z) if real else extra
            if real and extra is not None:
                spectra, z = _joined(spectra, extra[0]), np.concatenate([z, extra[1]])
            decoder = RestFrameDecoder.fit(spectra, z, n_components)
        one = galaxies.select(own)
        for i, used in enumerate((decoder, decoder.with_lines())):
            out[i, own] = used.decode(used.encode(one.spectra, one.z)[0], one.z, SDSS_GRID)
    return out[0], out[1]


def mean_of_others(galaxies: RealGalaxies) -> np.ndarray:
    """Mean spectrum (N, L) of the other galaxies, in the observed frame: the trivial answer."""
    return np.array(
        [mean_spectrum(galaxies.select(galaxies.galaxy != number).spectra) for number in galaxies.galaxy]
    )


def polynomials(spectra: Spectra, n_coefficients: int) -> np.ndarray:
    """Polynomials in wavelength (N, L), fitted by weighted least squares: what a smooth curve can do."""
    x = np.linspace(-1, 1, len(spectra.wavelength))
    basis = legendre.legvander(x, n_coefficients - 1)
    root = np.sqrt(spectra.ivar)
    fits = [
        np.linalg.lstsq(basis * r[:, None], f * r, rcond=None)[0]
        for f, r in zip(spectra.flux, root, strict=True)
    ]
    return np.array(fits) @ basis.T


def template_fits(
    spectra: Spectra, z: np.ndarray, templates: GalaxyTemplates, lines: RestFrameDecoder | None = None
) -> np.ndarray:
    """Fit sums of templates, none of them negative, to spectra at their redshifts.

    Parameters
    ----------
    spectra : Spectra
        N on :data:`astro_utils.astra.grid.SDSS_GRID`.
    z : numpy.ndarray
        (N,).
    templates : GalaxyTemplates
        Observed as SDSS would, whatever the survey.
    lines : RestFrameDecoder, optional
        Whose components are fitted as well, of either sign, with the variances of its prior.

    Returns
    -------
    numpy.ndarray
        (N, L).
    """
    fine = np.arange(np.floor(SDSS.edges[0]) - 30.0, SDSS.edges[-1] + 30.0, 1.0)
    projector, n_templates = Projector(fine, SDSS), len(templates.flux)
    out = np.empty_like(spectra.flux)
    n_lines = 0 if lines is None else 2 * len(lines.basis)
    prior = np.zeros((n_lines, n_templates + n_lines))  # as if each line had been measured to be 0
    if lines is not None:
        prior[:, n_templates:] = np.diag(np.tile(np.diag(lines.covariance) ** -0.5, 2))
    for i, redshift in enumerate(z):
        pixels = projector(templates.spectra(fine, np.full(n_templates, redshift), np.eye(n_templates)))
        columns = rebin(Spectra(SDSS.wavelength, pixels, np.ones_like(pixels)), SDSS_GRID).flux
        if lines is not None:
            profiles = lines.components_at(z[i : i + 1], SDSS_GRID)[0]
            columns = np.concatenate([columns, profiles, -profiles])
        root = np.sqrt(spectra.ivar[i], dtype=float)
        design = np.concatenate([(columns * root).T, prior])
        right = np.append(spectra.flux[i] * root, np.zeros(len(prior)))
        out[i] = nnls(design, right)[0] @ columns
    return out


def _template_photometry(spectra: Spectra, z: np.ndarray, templates: GalaxyTemplates) -> np.ndarray:
    """Templates that fit the spectra's own photometry; a band that is not covered does not count."""
    flux = synthetic_flux(spectra, FILTERS)
    known = np.isfinite(flux)
    flux, error = np.where(known, flux, 0), np.where(known, 0, 1e6)
    return TemplateAtRedshift(templates, FILTERS, spectra.wavelength).predict(flux, error, z)


def _lines_alone(decoder: RestFrameDecoder) -> RestFrameDecoder:
    k, full = len(decoder.basis), decoder.with_lines()
    return replace(full, basis=full.basis[k:], mean=full.mean[k:], covariance=full.covariance[k:, k:])


def reconstructions(
    galaxies: RealGalaxies, n_components: int, extra: tuple[Spectra, np.ndarray]
) -> dict[str, np.ndarray]:
    """Reconstruct spectra by the baselines and by all of :data:`DECODERS`.

    Returns
    -------
    dict of str to numpy.ndarray
        Name of the model to (N, L), the trivial ones first.
    """
    spectra, z, templates = galaxies.spectra, galaxies.z, GalaxyTemplates.load()
    lines = _lines_alone(RestFrameDecoder.fit(*extra, n_components))
    out = {
        "mean of other galaxies": mean_of_others(galaxies),
        f"polynomial, {n_components} coefficients": polynomials(spectra, n_components),
        "kcorrect: photometry": _template_photometry(spectra, z, templates),
        "kcorrect: spectrum": template_fits(spectra, z, templates),
        "kcorrect: spectrum, lines": template_fits(spectra, z, templates, lines),
    }
    for name, (real, simulated) in DECODERS.items():
        pair = decode_held_out(galaxies, n_components, extra if simulated else None, real)
        out |= dict(zip((f"decoder: {name}", f"decoder: {name}, lines"), pair, strict=True))
    return out


def redshift_finder(
    spectra: Spectra, extra: tuple[Spectra, np.ndarray], n_components: int, z_max: float
) -> RedshiftFinder:
    """Redshifts by a decoder that has learned from `extra` alone, weighted as `spectra` typically are."""
    weight = np.median(spectra.ivar / spectra.ivar.mean(1, keepdims=True), axis=0)
    return RedshiftFinder(RestFrameDecoder.fit(*extra, n_components), SDSS_GRID, weight, z_max)


def model_scores(
    galaxies: RealGalaxies, model: np.ndarray, reference: np.ndarray, shown: np.ndarray
) -> dict[str, float | dict[str, float]]:
    """Scores of reconstructions for :func:`astro_utils.results.metric_row`.

    Parameters
    ----------
    galaxies : RealGalaxies
    model, reference : numpy.ndarray
        (N, L), and what has an R2 of 0.
    shown : numpy.ndarray
        (N,) redshifts that the reconstructions show.

    Returns
    -------
    dict
        ``explained`` and ``explained_free``, medians over spectra, with 95 % bootstrap intervals;
        ``above_90`` and ``above_90_free``, the shares of spectra of which more than 90 % is explained, with
        Wilson intervals; ``chi2``; ``r2`` and ``r2_continuum``, also ``_free``; errors of indices and of
        redshifts.
    """
    spectra, n = galaxies.spectra, len(galaxies)
    shares = dict(zip(("explained", "explained_free"), explained(spectra, model), strict=True))
    groups = galaxies.galaxy
    scores = summarise([lambda rows: {k: float(np.median(v[rows])) for k, v in shares.items()}], groups)
    for name, share in zip(("above_90", "above_90_free"), shares.values(), strict=True):
        above = int((share > 0.9).sum())
        scores[name] = dict(zip(("value", "lo", "hi"), (above / n, *wilson_interval(above, n)), strict=True))
    scores["chi2"] = float(np.median(chi2_per_pixel(spectra, model)))
    smooth, smooth_model = continuum(spectra, model)
    for name, case in {
        "r2": (spectra, model, reference),
        "r2_continuum": (smooth, smooth_model, continuum(spectra, reference)[1]),
    }.items():
        scores[name], scores[f"{name}_free"] = r2(*case)
    flux = (bridged(spectra), model)
    scores |= index_scores(*(indices(spectra.wavelength, values, galaxies.z) for values in flux))
    return scores | recovered_redshift_scores(shown, galaxies.z)


def reconstruction_figure(galaxies: RealGalaxies, model: np.ndarray, rows: Sequence[int]) -> Figure:
    """Draw some spectra with their reconstructions and, below, the residuals in units of the noise."""
    figure, axes = plt.subplots(
        2 * len(rows), 1, figsize=(9, 2.9 * len(rows)), height_ratios=(3, 1) * len(rows), sharex=True
    )
    wave, share = galaxies.spectra.wavelength, explained(galaxies.spectra, model)[0]
    for upper, lower, i in zip(axes[::2], axes[1::2], rows, strict=True):
        measured = galaxies.spectra.ivar[i] > 0
        flux = np.where(measured, galaxies.spectra.flux[i], np.nan)
        residual = (flux - model[i]) * np.sqrt(galaxies.spectra.ivar[i])
        upper.plot(wave, flux, color="0.6", lw=0.6, label="observed")
        upper.plot(wave, model[i], color=COLOURS[1], lw=0.8, label="reconstructed")
        upper.set_ylim(0, 1.12 * np.nanpercentile(np.fmax(flux, model[i]), 99.9))
        title = f"{galaxies.name[i]}, S/N {galaxies.signal_to_noise[i]:.0f}: {share[i]:.1%} explained"
        upper.set_title(title, fontsize=9, loc="left", pad=13)
        lower.plot(wave, residual, color=COLOURS[0], lw=0.4)
        lower.set(ylim=(-8, 8), ylabel="$\\chi$")
        for name, at in _EMISSION.items():
            if wave[0] < (there := at * (1 + galaxies.z[i])) < wave[-1]:
                upper.axvline(there, color="0.3", lw=0.5, ls=":")
                side = "right" if name == "Hβ" else "left"  # [O III] is next to it
                upper.annotate(name, (there, 1.01), xycoords=("data", "axes fraction"), ha=side, fontsize=7)
        upper.set_ylabel("$F_\\lambda$ at $r=1$")
    axes[0].legend(loc="upper right", fontsize=8, ncols=2, bbox_to_anchor=(1, 1.32))
    figure.align_ylabels(axes)
    axes[-1].set(xlabel="observed wavelength [Å]", xlim=(wave[0], wave[-1]))
    return figure


def redshift_figure(galaxies: RealGalaxies, z: np.ndarray) -> Figure:
    """Draw errors of the redshifts (N,) that spectra show, km/s, against signal-to-noise ratio."""
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    error, surveys = _velocity(z, galaxies.z), np.array([name.split(",")[0] for name in galaxies.name])
    for i, survey in enumerate(np.unique(surveys)):
        own = surveys == survey
        ax.plot(galaxies.signal_to_noise[own], error[own], MARKERS[i], ms=6, mfc="none", label=survey)
    ax.axhspan(-100, 100, color="0.92", zorder=0)
    ax.set_yscale("symlog", linthresh=100)
    ax.set(xscale="log", xlabel="signal-to-noise ratio of a pixel", ylabel="$c\\,\\Delta z/(1+z)$ [km/s]")
    ax.legend(fontsize=8)
    return figure


def _velocity(found: np.ndarray, z: np.ndarray) -> np.ndarray:
    return 299_792.458 * redshift_error(found, z)


def spectrum_table(galaxies: RealGalaxies, model: np.ndarray, z: np.ndarray) -> pd.DataFrame:
    """List the spectra with what a reconstruction (N, L) explains, and the redshift (N,) that each shows."""
    raw, free = explained(galaxies.spectra, model)
    error = _velocity(z, galaxies.z)
    columns = {
        "z": [f"{value:.4f}" for value in galaxies.z],
        "S/N": [f"{value:.1f}" for value in galaxies.signal_to_noise],
        "explained": [f"{value:.3f}" for value in raw],
        "without noise": [f"{value:.3f}" for value in free],
        "chi2 per pixel": [f"{value:.2f}" for value in chi2_per_pixel(galaxies.spectra, model)],
        "redshift error [km/s]": [f"{value:+,.0f}" for value in error],
    }
    return pd.DataFrame(columns, index=pd.Index(galaxies.name, name="spectrum"))
