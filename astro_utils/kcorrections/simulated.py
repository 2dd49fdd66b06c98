"""Simulated galaxies of the Legacy Surveys with DESI spectra, and their true k-corrections.

Images, photometry and spectra of a galaxy come from one spectrum, so that its K is known without a fit. There
are two skies: one whose galaxies are mixtures of kcorrect's own templates, by which kcorrect is favoured, and
one of stellar populations of single ages that kcorrect does not have.

    galaxies = read_galaxies("task_single_age.h5")
    k = galaxies.k["r"]                     # (N,) mag, DECam r to SDSS r at band shift 0.1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.kcorrections.real_sample import Photometry
from astro_utils.samples import open_sample
from astro_utils.sky.seds import load_seds
from astro_utils.sky.simulate import Simulation
from astro_utils.sky.surveys import LEGACY
from astro_utils.splits import sky_pixels

__all__ = [
    "BAND_SHIFT",
    "FAMILIES",
    "OUTPUT_BANDS",
    "Galaxies",
    "join",
    "read_blocks",
    "read_galaxies",
    "rebin",
    "simulation",
    "true_k",
]

#: Of all output bands.
BAND_SHIFT = 0.1
#: Survey band to the SDSS band, at :data:`BAND_SHIFT`, that K leads to.
OUTPUT_BANDS = {"g": "sdss2010-g", "r": "sdss2010-r", "z": "sdss2010-z"}
#: What the galaxies are mixtures of, in words.
FAMILIES = {"kcorrect": "kcorrect's templates", "single_age": "independent templates"}


def simulation(n: int, family: str, seed: int, size: int, *, spectra: bool = True) -> Simulation:
    """Bright and luminous red galaxies in grz, with DESI spectra unless `spectra` is False.

    Parameters
    ----------
    n : int
        Galaxies.
    family : str
        A name in :data:`FAMILIES`.
    seed : int
    size : int
        Pixels on a side, of 0.262 arcsec.
    spectra : bool
    """
    return Simulation(
        n_objects=n,
        survey="legacy",
        population="bright_and_red",
        family=family,
        seed=seed,
        size=size,
        spectrograph="desi" if spectra else None,
        objects_per_field=32,
    )


def true_k(
    catalogue: pd.DataFrame, family: str, z: np.ndarray | None = None, band: str = "r", output: str = "r"
) -> np.ndarray:
    """K-corrections of simulated galaxies from their spectra, with no fit.

    Parameters
    ----------
    catalogue : pandas.DataFrame
        N rows with the template coefficients ``c0`` to ``c4``, and ``z``.
    family : str
        What the coefficients are of.
    z : numpy.ndarray, optional
        (N,) other redshifts at which the same galaxies would be observed.
    band, output : str
        Observed DECam band and output SDSS band, g, r or z.

    Returns
    -------
    numpy.ndarray
        (N,) mag, m_observed = M_output + distance modulus + K.

    Notes
    -----
    Through a band that is blueshifted by s, a galaxy at rest looks as it does at redshift s through the band
    itself, but for a factor 1 + s in flux density (Blanton & Roweis 2007, AJ 133, 734, section 2): K =
    -2.5 log10 [(1 + s) F_observed(z) / F_output(s)].
    """
    seds = load_seds(family)
    z = catalogue["z"].to_numpy(float) if z is None else np.asarray(z, dtype=float)
    mixtures = catalogue[[f"c{t}" for t in range(5)]].to_numpy(float)  # (N, T)
    observed = seds.galaxy_bands(LEGACY.filters[LEGACY.bands.index(band)])(z)[..., 0]  # (N, T)
    rest = seds.galaxy_bands(OUTPUT_BANDS[output])(BAND_SHIFT)[..., 0]  # (T,)
    return -2.5 * np.log10((1 + BAND_SHIFT) * (mixtures * observed).sum(1) / (mixtures @ rest))


def rebin(flux: np.ndarray, ivar: np.ndarray, factor: int) -> np.ndarray:
    """Mean of every `factor` pixels, weighted with inverse variances.

    Parameters
    ----------
    flux, ivar : numpy.ndarray
        (N, L); a pixel without a measurement has ivar 0.
    factor : int

    Returns
    -------
    numpy.ndarray
        (N, L // factor) float32; 0 where nothing was measured. Pixels left over at the red end are dropped.
    """
    n, kept = len(flux), flux.shape[1] // factor
    flux, ivar = (values[:, : kept * factor].reshape(n, kept, factor) for values in (flux, ivar))
    weight = ivar.sum(2)
    return ((flux * ivar).sum(2) / np.where(weight > 0, weight, 1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Galaxies:
    """N galaxies in memory.

    Attributes
    ----------
    catalogue : pandas.DataFrame
        Columns of the simulated sky.
    images : numpy.ndarray
        (N, 3, size, size) float32 nanomaggies in g, r, z.
    spectra : numpy.ndarray
        (N, L) float32, rebinned, 1e-17 erg / (s cm2 Angstrom).
    k : mapping of numpy.ndarray
        Band to (N,) true K from DECam to SDSS of that name at :data:`BAND_SHIFT`, mag.
    family : numpy.ndarray
        (N,) names in :data:`FAMILIES`.
    """

    catalogue: pd.DataFrame
    images: np.ndarray
    spectra: np.ndarray
    k: Mapping[str, np.ndarray]
    family: np.ndarray

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.catalogue)

    @property
    def z(self) -> np.ndarray:
        """Redshifts (N,), without error."""
        return self.catalogue["z"].to_numpy(float)

    @property
    def pixels(self) -> np.ndarray:
        """Part of the sky of each galaxy, (N,): a sky of one family and seed has its own."""
        sky = sky_pixels(self.catalogue["ra"].to_numpy(), self.catalogue["dec"].to_numpy())
        seed = self.catalogue["object_id"].to_numpy() // 1_000_000_000
        return sky + 1000 * (2 * seed + (self.family == "single_age"))

    @property
    def photometry(self) -> Photometry:
        """Model fluxes behind the Galactic dust, as the catalogue has them."""
        columns = ("model_flux", "model_flux_ivar", "extinction")
        flux, ivar, extinction = (
            self.catalogue[[f"{name}_{b}" for b in LEGACY.bands]].to_numpy(float) for name in columns
        )
        return Photometry(LEGACY.bands, flux, ivar, extinction, self.z)

    def select(self, rows: np.ndarray) -> Galaxies:
        """Keep some galaxies: a mask or indices."""
        return Galaxies(
            self.catalogue[rows].reset_index(drop=True)
            if np.asarray(rows).dtype == bool
            else self.catalogue.iloc[rows].reset_index(drop=True),
            self.images[rows],
            self.spectra[rows],
            {band: k[rows] for band, k in self.k.items()},
            self.family[rows],
        )

    def light(self) -> Galaxies:
        """Leave out the pixels, of which images and spectra then have none."""
        return replace(self, images=self.images[..., :0, :0], spectra=self.spectra[:, :0])


def read_blocks(
    path: str | Path, *, factor: int = 8, max_redshift: float | None = None
) -> Iterator[Galaxies]:
    """Read a sample a part at a time; as :func:`read_galaxies`, but spectra may be absent, (N, 0)."""
    with open_sample(path) as sample:
        made = sample.info.provenance.get("simulation")
        if made is None:
            raise ValueError(f"{path}: not a simulated sample; only there the true K is known")
        if made["survey"] != LEGACY.name:
            raise ValueError(f"{path}: survey {made['survey']!r}; expected {LEGACY.name!r}")
        family = made["family"]
        for block in sample.blocks():
            keep = block.catalogue["z"].to_numpy() <= (np.inf if max_redshift is None else max_redshift)
            catalogue = block.catalogue[keep].reset_index(drop=True)
            spectra = np.empty((len(catalogue), 0), np.float32)
            if block.spectra is not None:
                spectra = rebin(block.spectra.flux[keep], block.spectra.ivar[keep], factor)
            yield Galaxies(
                catalogue,
                block.images[keep],
                spectra,
                {band: true_k(catalogue, family, band=band, output=band) for band in OUTPUT_BANDS},
                np.full(len(catalogue), family, dtype=object),
            )


def read_galaxies(path: str | Path, *, factor: int = 8, max_redshift: float | None = None) -> Galaxies:
    """Read a simulated sample, its spectra rebinned by `factor` as they are read.

    Parameters
    ----------
    path : path
        Sample written with :func:`simulation`.
    factor : int
        Pixels of 0.8 Angstrom in one; 1 leaves spectra as they are.
    max_redshift : float, optional
        Drop galaxies beyond.

    Raises
    ------
    ValueError
        When the sample was not simulated, is of another survey, or lacks spectra.
    """
    galaxies = join(*read_blocks(path, factor=factor, max_redshift=max_redshift))
    if not galaxies.spectra.shape[1]:
        raise ValueError(f"{path}: no spectra; expected a sample with a spectrograph")
    return galaxies


def join(*parts: Galaxies) -> Galaxies:
    """Put samples one after another."""
    return Galaxies(
        pd.concat([part.catalogue for part in parts], ignore_index=True),
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.spectra for part in parts]),
        {band: np.concatenate([part.k[band] for part in parts]) for band in parts[0].k},
        np.concatenate([part.family for part in parts]),
    )
