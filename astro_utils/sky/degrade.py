"""What a bright object would look like if it were fainter in the same field: dimmed pixels, measured again.

Labels are known of bright objects and wanted for faint ones. A dimmed copy has the colours, the size and the
field of the bright object, and the noise and the measurements of a faint one::

    fainter, catalogue = degrade(images, catalogue, SDSS, r_new, rng, seed=sample.info.seed)

Whatever else is in the stamp is dimmed too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from astro_utils.photometry import asinh_to_flux
from astro_utils.sample_writer import one_thread
from astro_utils.sky.measure import Conditions
from astro_utils.sky.profile_bank import profile_bank
from astro_utils.sky.simulate import aperture_correction, field_conditions, measured_columns, per_band
from astro_utils.sky.surveys import Survey

__all__ = ["border_noise", "degrade", "dim", "remeasure", "sky_noise"]

#: Width in pixels of the frame that :func:`border_noise` looks at.
_BORDER = 3


def dim(
    images: np.ndarray, factors: np.ndarray, sigma: np.ndarray, gain: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Scale stamps and add the noise that fainter objects have under the same sky.

    A pixel of signal S has the variance sigma^2 + S / gain. Scaled by f it has f^2 of that, and should have
    sigma^2 + f S / gain; the difference, sigma^2 (1 - f^2) + f (1 - f) S / gain, is added.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, ny, nx) nanomaggies. Pixels that are exactly 0 are missing, and stay so.
    factors : numpy.ndarray
        (N,) above 0, at most 1. Nothing happens to stamps with a factor of 1.
    sigma : numpy.ndarray
        (N, bands) noise of the sky, nanomaggies per pixel.
    gain : numpy.ndarray
        (bands,) photo-electrons per nanomaggy.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        (N, bands, ny, nx) float32.

    Raises
    ------
    ValueError
        When shapes disagree, or a factor is not between 0 and 1.

    Notes
    -----
    For S stands the noisy pixel itself, which has the right mean. To clip it at zero would add
    f (1 - f) sigma / (sqrt(2 pi) gain) to the variance of the sky: 1.5 % in u of SDSS. The sum of both terms
    is clipped instead, which happens to pixels more than sigma gain (1 + f) / f of their own standard
    deviations below the sky: 13 in u of SDSS, more elsewhere.
    """
    images, factors, sigma = np.asarray(images, np.float32), np.asarray(factors, float), np.asarray(sigma)
    if images.ndim != 4 or factors.shape != images.shape[:1] or sigma.shape != images.shape[:2]:
        raise ValueError(
            f"images have shape {images.shape}, factors {factors.shape}, sigma {sigma.shape}; expected "
            "(N, bands, ny, nx), (N,) and (N, bands)"
        )
    if np.shape(gain) != images.shape[1:2]:
        raise ValueError(f"gain has shape {np.shape(gain)}; expected ({images.shape[1]},), one for each band")
    wrong = ~((factors > 0) & (factors <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"factor {factors[row]:g} of row {row} is not above 0 and at most 1")
    factor = factors[:, None]
    sky, light = (
        np.float32(part)[..., None, None]
        for part in (sigma**2 * (1 - factor**2), factor * (1 - factor) / np.asarray(gain))
    )
    added = np.sqrt(np.maximum(sky + light * images, 0))
    added *= rng.standard_normal(images.shape, dtype=np.float32)
    added += np.float32(factor)[..., None, None] * images
    added[images == 0] = 0
    return added


def border_noise(images: np.ndarray) -> np.ndarray:
    """Noise of the sky from the outermost 3 pixels of each stamp: 1.4826 times their MAD.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, ny, nx), of at least 8 pixels on a side. Pixels that are exactly 0 are missing.

    Returns
    -------
    numpy.ndarray
        (N, bands) in the unit of `images`; NaN where no pixel of the frame is there. On white noise of 32 x
        32 pixels it scatters by 6 %.

    Raises
    ------
    ValueError
        When the stamps are smaller.
    """
    if images.ndim != 4 or min(images.shape[2:]) < 8:
        raise ValueError(
            f"images have shape {images.shape}; expected (N, bands, ny, nx) with 8 pixels or more"
        )
    frame = np.ones(images.shape[2:], bool)
    frame[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    border = images[:, :, frame].astype(float)
    border[border == 0] = np.nan
    out = np.full(images.shape[:2], np.nan)
    there = np.isfinite(border).any(-1)
    border = border[there]
    middle = np.nanmedian(border, axis=-1, keepdims=True)
    out[there] = 1.4826 * np.nanmedian(np.abs(border - middle), axis=-1)
    return out


def sky_noise(images: np.ndarray, table: pd.DataFrame, survey: Survey) -> np.ndarray:
    """Noise of the sky of each object's field, (N, bands) nanomaggies per pixel.

    That of the columns ``sigma_*``; without them, the median :func:`border_noise` of the objects that share
    the widths of the PSF; without any pixel to tell, the survey's.
    """
    names = [f"sigma_{band}" for band in survey.bands]
    if set(names) <= set(table):
        return _positive(table, "sigma", survey)
    fwhm = _positive(table, "psffwhm", survey)
    by_field = pd.DataFrame(border_noise(images)).groupby([*fwhm.T], sort=False)
    noise = by_field.transform("median").to_numpy()
    return np.where(noise > 0, noise, survey.sky_sigma)


@one_thread()  # as a shard is made: with other numbers of threads, sums differ in the last digits
def remeasure(
    images: np.ndarray, table: pd.DataFrame, survey: Survey, seed: int | None = None
) -> pd.DataFrame:
    """Measure stamps again, with what the catalogue knows of their fields.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, size, size) nanomaggies.
    table : pandas.DataFrame
        N rows with ``psffwhm_*`` (arcsec) and ``extinction_*`` (mag) of every band, and, if it is there,
        ``sigma_*`` (see :func:`sky_noise`). Rows with the same conditions are one field.
    survey : Survey
    seed : int, optional
        That of the simulation. From it and the column ``field`` follow the shear of the PSF and the aperture
        correction of PSF fluxes, which no catalogue has. Without it, as for real objects, the PSF is round
        and PSF fluxes are not corrected.

    Returns
    -------
    pandas.DataFrame
        `table` with new values, of the same dtype, in all columns that are measured. ``dered_*``,
        ``radius_*`` and the colours are added where they are not there.

    Raises
    ------
    ValueError
        When there are no rows or not as many as stamps, the bands are not the survey's, a condition is
        missing or not positive, or a field was not drawn from this seed.

    Notes
    -----
    The templates of a field of SDSS take some 0.03 s, and 128 objects about as long again: real objects,
    each in a field of its own, are measured forty times as slowly as those of the simulated sky.

    Shears of the PSF have a standard deviation of 0.02 in each component in the simulated sky. To take it for
    round changes, for 95 in 100 stars brighter than r = 21, model r by less than 0.007 mag, g - r by less
    than 0.002 mag and the radius in r by less than 0.03 arcsec. PSF fluxes that are not corrected scatter by
    2 % from field to field.
    """
    _check_stamps(images, table, survey)
    fwhm, extinction = _positive(table, "psffwhm", survey), _columns(table, "extinction", survey)
    sigma = sky_noise(images, table, survey)
    keys = [*fwhm.T, *sigma.T]
    if seed is not None:
        if "field" not in table:
            raise ValueError("the table lacks field, which says what the seed drew for an object")
        keys.append(table["field"].to_numpy())
    parts = []
    for rows in pd.RangeIndex(len(table)).to_series().groupby(keys, sort=False).indices.values():
        known, correction = Conditions(fwhm[rows[0]], sigma[rows[0]], np.array(survey.gain)), 1.0
        if seed is not None:
            known, correction = _drawn(known, survey, seed, int(keys[-1][rows[0]]), images.shape[-1])
        columns = measured_columns(images[rows], survey, known, extinction[rows], correction)
        parts.append(pd.DataFrame(columns, index=rows))
    new = pd.concat(parts).sort_index()
    if "model_r" in table:
        new["model_r"] = new["dered_r"] + new["extinction_r"]
    needed = [f"{name}_{band}" for name in ("dered", "radius") for band in survey.bands]
    needed += [f"{blue}_{red}" for blue, red in zip(survey.bands, survey.bands[1:], strict=False)]
    chosen = {name: new[name].to_numpy() for name in new if name in table or name in needed}
    return table.assign(
        **{name: v.astype(table[name].dtype) if name in table else v for name, v in chosen.items()}
    )


def degrade(
    images: np.ndarray,
    table: pd.DataFrame,
    survey: Survey,
    r_new: np.ndarray,
    rng: np.random.Generator,
    seed: int | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Dim objects to given magnitudes and measure them again.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, size, size) nanomaggies.
    table : pandas.DataFrame
        N rows as for :func:`remeasure`, with ``dered_r``.
    survey : Survey
    r_new : numpy.ndarray
        (N,) model magnitudes in r (asinh, not corrected for extinction) that the objects would have without
        noise, fainter than the present ones. An object at its present magnitude stays as it is.
    rng : numpy.random.Generator
    seed : int, optional
        See :func:`remeasure`.

    Returns
    -------
    images : numpy.ndarray
        (N, bands, size, size) float32.
    table : pandas.DataFrame
        As :func:`remeasure` has it. What is true of the brightness (``true_flux_*``, ``c0`` to ``c4``,
        ``r_mag``, ``abs_mag``) is dimmed as well, where it is there: the object is less luminous, not farther
        away.

    Raises
    ------
    ValueError
        As :func:`remeasure`; or, with the first row, a magnitude is brighter than the present one, NaN, or
        fainter than that of zero flux.
    """
    _check_stamps(images, table, survey)
    r_new = np.asarray(r_new, float)
    if r_new.shape != (len(table),):
        raise ValueError(f"r_new has shape {r_new.shape}; expected ({len(table)},), one for each row")
    r, softening = survey.reference, survey.softening[survey.index]
    present = (table[f"dered_{r}"] + table[f"extinction_{r}"]).to_numpy(float)
    wanted, flux = (asinh_to_flux(magnitude, 1.0, softening)[0] for magnitude in (r_new, present))
    wrong = ~((wanted > 0) & (wanted <= flux))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"row {row}: r_new is {r_new[row]:.3f}; expected a magnitude from {present[row]:.3f}, that of "
            "now, to that of zero flux"
        )
    factors, sigma = wanted / flux, sky_noise(images, table, survey)
    images = dim(images, factors, sigma, np.array(survey.gain), rng)
    # The noise of the field as it was measured on the brighter stamps, not once more on the dimmed ones.
    noise = {f"sigma_{band}": sigma[:, i] for i, band in enumerate(survey.bands)}
    new = remeasure(images, table.assign(**noise), survey, seed)
    new = new.drop(columns=[name for name in noise if name not in table])
    for name in set(table) & {"r_mag", "abs_mag"}:
        new[name] = new[name] - 2.5 * np.log10(factors)
    for name in set(table) & {*(f"true_flux_{band}" for band in survey.bands), *(f"c{t}" for t in range(5))}:
        new[name] = new[name] * factors
    return images, new


# ------------------------------------------------------------------------------------------------- conditions


def _check_stamps(images: np.ndarray, table: pd.DataFrame, survey: Survey) -> None:
    if images.ndim != 4 or images.shape[1] != len(survey.bands):
        raise ValueError(
            f"images have shape {images.shape}; expected {len(survey.bands)} bands of {survey.name}"
        )
    if len(images) != len(table) or not len(table):
        raise ValueError(f"{len(images)} stamps and {len(table)} rows; expected as many of each, at least 1")


def _columns(table: pd.DataFrame, name: str, survey: Survey) -> np.ndarray:
    """Columns ``<name>_<band>``, (N, bands) float."""
    names = [f"{name}_{band}" for band in survey.bands]
    if missing := [column for column in names if column not in table]:
        raise ValueError(f"the table lacks {', '.join(missing)}, of the conditions of {survey.name}")
    values = table[names].to_numpy(float)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, band = bad[0]
        raise ValueError(f"column {names[band]} is {values[row, band]} in row {row}; expected a number")
    return values


def _positive(table: pd.DataFrame, name: str, survey: Survey) -> np.ndarray:
    values = _columns(table, name, survey)
    bad = np.argwhere(values <= 0)
    if len(bad):
        row, band = bad[0]
        column = f"{name}_{survey.bands[band]}"
        raise ValueError(f"column {column} is {values[row, band]:g} in row {row}; expected more than 0")
    return values


def _drawn(
    known: Conditions, survey: Survey, seed: int, field: int, size: int
) -> tuple[Conditions, np.ndarray]:
    """Add what the catalogue does not know of a simulated field: shear of the PSF, aperture correction."""
    drawn = field_conditions(survey, seed, field)
    expected = per_band(drawn, "psffwhm", survey)
    if not np.allclose(known.fwhm, expected, rtol=1e-5):
        raise ValueError(
            f"field {field} has psffwhm_{survey.bands[0]} = {known.fwhm[0]:.4f}, but seed {seed} drew "
            f"{expected[0]:.4f}: the sample was made with another seed or for another survey"
        )
    known = replace(known, e1=drawn["e1"], e2=drawn["e2"])
    return known, aperture_correction(survey, drawn, known, profile_bank(survey.pixel_scale, size))
