"""Real galaxy spectra, and how much of one a decoder can represent that has not seen it.

The spectra are the few that come with installed packages (eleven of MaNGA in `sdss-mangadap`, one of SDSS in
`ppxf`) and those of the data folder: five of SDSS, and DESI coadds. No galaxy is both in the fit and in the
test.

    spectra = real_galaxies()
    table = held_out(spectra, spectra.select(spectra.signal_to_noise > 10), n_components=5)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils import registry
from astro_utils.astra.decoder import RestFrameDecoder
from astro_utils.astra.grid import SDSS_GRID, normalise, rebin, synthetic_flux
from astro_utils.frames import load_fits
from astro_utils.samples import Spectra
from astro_utils.spectra_files import desi_block, sdss_spectra_block

__all__ = ["RealGalaxies", "explained", "held_out", "join", "manga_spectra", "real_galaxies"]

_MANGA = ("MaNGA_test_spectra.fits.gz", "MaNGA_multicomp_test_spectra.fits.gz")
_DESI = ("coadd-4-80613-thru20210324.fits", "coadd-special-dark-27247.fits")


@dataclass(frozen=True, eq=False)
class RealGalaxies:
    """N spectra of real galaxies.

    Attributes
    ----------
    spectra : Spectra
        On :data:`astro_utils.astra.grid.SDSS_GRID`, divided by their synthetic r flux, as observed (behind
        the dust of the Galaxy).
    z : numpy.ndarray
        (N,) redshifts.
    name : numpy.ndarray
        (N,) where each is from.
    galaxy : numpy.ndarray
        (N,) numbers; spectra of one galaxy have the same.
    """

    spectra: Spectra
    z: np.ndarray
    name: np.ndarray
    galaxy: np.ndarray

    def __len__(self) -> int:
        """Count the spectra."""
        return len(self.z)

    @property
    def signal_to_noise(self) -> np.ndarray:
        """Median signal-to-noise ratio of the measured pixels of the grid, (N,)."""
        ratio = self.spectra.flux * np.sqrt(self.spectra.ivar)
        return np.nanmedian(np.where(self.spectra.ivar > 0, ratio, np.nan), axis=1)

    def select(self, rows: np.ndarray) -> RealGalaxies:
        """Keep some spectra: a mask or indices."""
        spectra = Spectra(self.spectra.wavelength, self.spectra.flux[rows], self.spectra.ivar[rows])
        return RealGalaxies(spectra, self.z[rows], self.name[rows], self.galaxy[rows])


def manga_spectra(path: str | Path) -> tuple[Spectra, np.ndarray]:
    """Read spectra of MaNGA spaxels as `sdss-mangadap` ships them for its tests.

    Returns
    -------
    spectra : Spectra
        1e-17 erg / (s cm2 Angstrom) per spaxel, vacuum; masked pixels have inverse variance 0.
    z : numpy.ndarray
        (N,) redshifts of the galaxies, which a rotating disc does not have everywhere.

    Raises
    ------
    ValueError
        With the file's name, when an extension is missing or of another shape.
    """
    hdus = load_fits(path)
    names = ("WAVE", "FLUX", "IVAR", "MASK", "Z")
    if missing := [name for name in names if name not in hdus]:
        raise ValueError(f"{path}: no extension {', '.join(missing)}")
    wave, flux, ivar, mask, z = (np.asarray(hdus[name].data, dtype=float) for name in names)
    if not flux.shape == ivar.shape == mask.shape == (len(z), len(wave)):
        shapes = ", ".join(str(array.shape) for array in (flux, ivar, mask))
        raise ValueError(f"{path}: FLUX, IVAR, MASK are {shapes}; expected ({len(z)}, {len(wave)})")
    used = (mask == 0) & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
    return Spectra(wave, np.where(used, flux, 0), np.where(used, ivar, 0)), z


def _of_package(package: str, *parts: str) -> Path:
    return Path(str(resources.files(package).joinpath(*parts)))


def join(parts: Sequence[tuple[Spectra, np.ndarray, Sequence[str], Sequence[str]]]) -> RealGalaxies:
    """Bring spectra of several surveys to the study's grid.

    Parameters
    ----------
    parts : sequence of tuple
        Spectra, redshifts, names, and what tells galaxies apart, of each survey.

    Returns
    -------
    RealGalaxies
        Without the spectra of which less than 90 % of the r band was measured.
    """
    rebinned = [rebin(spectra, SDSS_GRID) for spectra, *_ in parts]
    flux, ivar = (np.concatenate([getattr(one, name) for one in rebinned]) for name in ("flux", "ivar"))
    spectra = Spectra(SDSS_GRID.wavelength, flux, ivar)
    z, name, galaxy = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (1, 2, 3))
    usable = synthetic_flux(spectra, ["sdss2010-r"])[:, 0] > 0
    z, name, galaxy = z[usable], name[usable], galaxy[usable]
    spectra, _ = normalise(Spectra(spectra.wavelength, flux[usable], ivar[usable]))
    return RealGalaxies(spectra, z.astype(float), name, np.unique(galaxy, return_inverse=True)[1])


def real_galaxies() -> RealGalaxies:
    """Read all real galaxy spectra at hand.

    Returns
    -------
    RealGalaxies
        Twelve from the installed packages, and seven more where the data folder holds ``sdss_spectra`` and
        ``desi_coadds``.
    """
    parts = []
    for file in _MANGA:
        spectra, z = manga_spectra(_of_package("mangadap", "data", "tests", file))
        # Spaxels of one galaxy have one redshift.
        parts.append((spectra, z, [f"MaNGA, z = {one:.5f}" for one in z], [f"MaNGA {one:.7f}" for one in z]))
    files = [_of_package("ppxf", "spectra", "NGC4636_SDSS_DR12.fits")]
    if registry.available("sdss_spectra"):
        local = registry.fetch("sdss_spectra", download=False).values()
        files += sorted(path for path in local if Path(path).name.startswith("spec-"))
    for path in files:
        block = sdss_spectra_block([path])
        name = f"SDSS, {Path(path).stem}"
        parts.append((block.spectra, block.catalogue["z"], [name], [name]))
    if registry.available("desi_coadds"):
        local = {Path(path).name: path for path in registry.fetch("desi_coadds", download=False).values()}
        for file in _DESI:
            block = desi_block(local[file], local[file.replace("coadd", "redrock")])
            galaxy = block.catalogue["spectype"] == "GALAXY"
            spectra = Spectra(
                block.spectra.wavelength, block.spectra.flux[galaxy], block.spectra.ivar[galaxy]
            )
            names = [f"DESI, {target}" for target in block.catalogue["targetid"][galaxy]]
            parts.append((spectra, block.catalogue["z"][galaxy], names, names))
    return join(parts)


def explained(spectra: Spectra, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the variance of each spectrum that a model explains, weighted by inverse variance.

    Parameters
    ----------
    spectra : Spectra
    model : numpy.ndarray
        (N, L).

    Returns
    -------
    raw, free : numpy.ndarray
        (N,) 1 - sum ivar (flux - model)^2 / sum ivar (flux - level)^2, where level is the weighted mean of
        the spectrum itself; and the same less what the noise adds to both sums.
    """
    ivar = np.asarray(spectra.ivar, dtype=float)
    level = (ivar * spectra.flux).sum(1) / ivar.sum(1)
    error = (ivar * (spectra.flux - model) ** 2).sum(1)
    total = (ivar * (spectra.flux - level[:, None]) ** 2).sum(1)
    noise = (ivar > 0).sum(1)
    return 1 - error / total, 1 - (error - noise) / (total - noise)


def held_out(
    train: RealGalaxies,
    test: RealGalaxies,
    n_components: int = 5,
    extra: tuple[Spectra, np.ndarray] | None = None,
    lines: bool = False,
) -> pd.DataFrame:
    """Represent each test spectrum with components learned from the other galaxies.

    Parameters
    ----------
    train, test : RealGalaxies
        Spectra of the tested galaxy are left out of the fit. Without spectra in `train`, `extra` alone is
        learned from.
    n_components : int
    extra : tuple, optional
        Normalised spectra and redshifts, such as simulated ones, that are learned from as well.
    lines : bool
        Whether emission lines have components of their own.

    Returns
    -------
    pandas.DataFrame
        For each test spectrum ``name``, ``z``, ``signal_to_noise``, ``explained`` and ``explained_free`` (see
        :func:`explained`), and ``chi2`` per pixel.
    """
    rows, decoders = [], {}
    for i in range(len(test)):
        one = test.select(np.array([i]))
        others = train.select(train.galaxy != one.galaxy[0])
        key = int(one.galaxy[0]) if len(others) < len(train) else -1
        if key not in decoders:
            spectra, z = others.spectra, others.z
            if extra is not None:
                flux, ivar = (
                    np.concatenate([getattr(spectra, name), getattr(extra[0], name)])
                    for name in ("flux", "ivar")
                )
                spectra, z = Spectra(spectra.wavelength, flux, ivar), np.concatenate([z, extra[1]])
            decoders[key] = RestFrameDecoder.fit(spectra, z, n_components)
            if lines:
                decoders[key] = decoders[key].with_lines()
        decoder = decoders[key]
        model = decoder.decode(decoder.encode(one.spectra, one.z)[0], one.z, SDSS_GRID)
        raw, free = explained(one.spectra, model)
        chi2 = (one.spectra.ivar * (one.spectra.flux - model) ** 2).sum() / (one.spectra.ivar > 0).sum()
        rows.append(
            {
                "name": one.name[0],
                "z": one.z[0],
                "signal_to_noise": float(one.signal_to_noise[0]),
                "explained": float(raw[0]),
                "explained_free": float(free[0]),
                "chi2": float(chi2),
            }
        )
    return pd.DataFrame(rows)
