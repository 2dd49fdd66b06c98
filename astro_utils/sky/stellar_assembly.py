"""Put the stellar spectra together: read them, continue them, leave out the bad ones, fill gaps in colour."""

from __future__ import annotations

import numpy as np
import pandas as pd

from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.stellar_continuation import (
    add_black_bodies,
    bridge,
    coverage,
    fill,
    matching_blend,
    relative_response,
)
from astro_utils.sky.stellar_libraries import GRID, read_mastar, read_miles, read_stelib
from astro_utils.sky.stellar_locus import LOCUS_COLOURS, covey_locus, in_sdss_system

__all__ = ["assemble_stars"]

_FILTERS = tuple(f"sdss2010-{band}" for band in "ugriz")
_COOL = 0.9  # in g - i: dwarfs of about K0 and later, of which MILES and STELIB hold few
_MAX_MISFIT, _MAX_OFFSET, _MAX_OFFSET_OTHERS = 0.12, 0.10, 0.25  # see assemble_stars


def _observed_range(flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    good = np.isfinite(flux)
    return GRID[good.argmax(1)], GRID[len(GRID) - 1 - good[:, ::-1].argmax(1)]


def _fill_red(flux: np.ndarray, donors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps and continue to the red end of the donors; give the misfit."""
    out, misfit = flux.copy(), np.zeros(len(flux))
    for i, last in enumerate(_observed_range(flux)[1]):
        blend, misfit[i] = matching_blend(flux[i], donors, 4500, last)
        out[i] = fill(flux[i], blend, window=300)
    return out, misfit


def _fill_blue(flux: np.ndarray, donors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Continue to the blue end of the donors where a spectrum ends before; give the misfit."""
    out, misfit = flux.copy(), np.zeros(len(flux))
    for i, first in enumerate(_observed_range(flux)[0]):
        needed = (GRID > 3215) & (first + 1100 > GRID)
        if not np.isfinite(flux[i, needed]).all():
            blend, misfit[i] = matching_blend(flux[i], donors, first, first + 1100)
            out[i] = fill(flux[i], np.where(first + 1100 > GRID, blend, np.nan))
    return out, misfit


def _nearest(flux: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Row of `others` that is most like each spectrum from 3900 to 7380 Angstrom."""
    window = (GRID >= 3900) & (GRID < 7380)
    logs = [np.log(f[:, window].reshape(len(f), -1, 20).mean(2)) for f in (flux, others)]
    return np.array([np.argmin((one - logs[1]).std(1)) for one in logs[0]])


def _kinds(table: pd.DataFrame) -> np.ndarray:
    """Kind of each star by its type and its gravity, and by its luminosity class where that is not known."""
    logg, luminosity = table["logg"], table["luminosity"]
    # The main sequence reaches down to log g of 3.5 where it is hot, to 3.8 where it is cool.
    limit = np.where(table["teff"] > 9_000, 3.5, 3.8)
    is_kind = {
        "white dwarf": table["letter"] == "WD",
        "unknown": table["letter"] == "WR",
        "hot subdwarf": (logg >= 5) & (table["teff"] >= 20_000),
        "dwarf": (logg >= limit) | (logg.isna() & luminosity.isin(["IV", "V", "VI", "sd"])),
        "giant": (logg < limit) | (logg.isna() & luminosity.isin(["I", "II", "III"])),
    }
    return np.select(list(is_kind.values()), list(is_kind), "unknown")


def _colours(flux: np.ndarray) -> pd.DataFrame:
    magnitudes = -2.5 * np.log10(flux @ band_weights(_FILTERS, GRID))
    colours = pd.DataFrame(magnitudes[:, :-1] - magnitudes[:, 1:], columns=list(LOCUS_COLOURS))
    return colours.assign(g_i=colours["g_r"] + colours["r_i"])


def _read_and_continue() -> tuple[pd.DataFrame, np.ndarray]:
    """Every observed star that can be continued, and cool MaStarHC dwarfs."""
    (stelib, stelib_flux), (miles, miles_flux), (mastar, mastar_flux) = (
        read_stelib(),
        read_miles(),
        read_mastar(),
    )
    whole = coverage(mastar_flux, 3645, 10310) > 0.98
    red_donors = np.array([bridge(f) for f in mastar_flux[whole]])
    keep = (coverage(miles_flux, 3560, 7390) > 0.99) & np.isfinite(miles["teff"])
    miles, miles_flux = miles[keep], miles_flux[keep]
    keep = coverage(stelib_flux, 4600, 6400) > 0.9
    stelib, stelib_flux = stelib[keep], stelib_flux[keep]
    first, last = np.hstack([_observed_range(f) for f in (miles_flux, stelib_flux, mastar_flux[whole])])

    miles_flux, miles_misfit = _fill_red(miles_flux, red_donors)
    _, ours, theirs = np.intersect1d(stelib["name"], miles["name"], return_indices=True)
    stelib_flux = stelib_flux / relative_response(stelib_flux[ours], miles_flux[theirs])
    blue_donors = np.array([bridge(f) for f in stelib_flux[coverage(stelib_flux, 3215, 6400) > 0.999]])
    stelib_flux, stelib_misfit = _fill_red(stelib_flux, red_donors)

    # MaStarHC gives no parameters: its clusters get those of the most similar MILES star.
    like = miles.iloc[_nearest(red_donors, miles_flux)]
    mastar = mastar[whole].assign(**{c: like[c].to_numpy() for c in ("letter", "teff", "logg", "feh")})
    table = pd.concat([miles, stelib.drop(columns="a_v"), mastar], ignore_index=True)
    flux, blue_misfit = _fill_blue(np.concatenate([miles_flux, stelib_flux, red_donors]), blue_donors)
    flux = np.array([add_black_bodies(bridge(f)) for f in flux])
    red_misfit = np.concatenate([miles_misfit, stelib_misfit, np.zeros(len(mastar))])
    table = table.assign(
        kind=_kinds(table), first=first, last=last, blue_misfit=blue_misfit, red_misfit=red_misfit
    )
    return table, flux


def _good(table: pd.DataFrame) -> np.ndarray:
    """Mask of the spectra that are kept; :func:`assemble_stars` states the rule."""
    locus, colours, g_i = covey_locus(), in_sdss_system(table), table["g_i"]
    offsets = [abs(colours[c] - np.interp(g_i, locus["g_i"], locus[c])) for c in ("g_r", "i_z")]
    allowed = np.where(table["kind"] == "dwarf", _MAX_OFFSET, _MAX_OFFSET_OTHERS)
    near = (np.max(offsets, axis=0) < allowed) | (g_i < 0.3)
    cool_dwarf = (table["kind"] == "dwarf") & (g_i > _COOL)
    wanted = (table["library"] != "MaStarHC") | (cool_dwarf & ~table["name"].str.contains("noism"))
    # Cool stars emit little in u, and STELIB has few of them.
    alike = (table["red_misfit"] < _MAX_MISFIT) & ((table["blue_misfit"] < _MAX_MISFIT) | (g_i > _COOL))
    return (near & wanted & alike).to_numpy()


def _between_cool_dwarfs(table: pd.DataFrame, flux: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Geometric means of two cool dwarfs every 0.05 mag in g - i: of the nearest two, and of the next two.

    STELIB takes no part, because its fluxes are less accurate.
    """
    cool = table[(table["kind"] == "dwarf") & (table["g_i"] > _COOL) & (table["library"] != "STELIB")]
    cool = cool.sort_values("g_i")
    g_i = cool["g_i"].to_numpy()
    rows, spectra = [], []
    for target in np.arange(np.ceil(20 * g_i[0]) / 20, g_i[-1], 0.05):
        after = np.searchsorted(g_i, target, side="right")
        steps = (1, 2) if 1 < after < len(g_i) - 1 else (1,)
        for k in steps:
            blue, red = cool.iloc[after - k], cool.iloc[after + k - 1]
            share = (target - blue["g_i"]) / (red["g_i"] - blue["g_i"])
            row = {c: (1 - share) * blue[c] + share * red[c] for c in ("teff", "logg", "feh")}
            row |= {"name": f"{blue['name']} + {red['name']}", "library": "between", "kind": "dwarf"}
            row |= {"spectral_type": "", "luminosity": "", "letter": (blue if share < 0.5 else red)["letter"]}
            rows.append(row)
            log_flux = (1 - share) * np.log(flux[blue.name]) + share * np.log(flux[red.name])
            spectra.append(np.exp(log_flux))
    return pd.DataFrame(rows), np.array(spectra)


def assemble_stars() -> tuple[pd.DataFrame, np.ndarray]:
    """Make the stellar spectra of the simulated sky from those that come with ``sdss-mangadap``.

    Left out are

    - MILES stars without a temperature, and STELIB stars observed over less than 90 % of 4600-6400 Angstrom;
    - MaStarHC clusters, except dwarfs with g - i above 0.9, of which MILES and STELIB have few; and of these
      the third version, which has the clusters of the second;
    - spectra from which a blend of their continuation differs by 0.12 rms or more; for g - i above 0.9, where
      u is faint and blends for it poor, the red one only;
    - with g - i above 0.3: dwarfs more than 0.10 mag, others more than 0.25 mag off the median locus of
      Covey et al. (2007, AJ 134, 2398) in g - r or i - z.

    Means of two cool dwarfs (log flux interpolated linearly to a given g - i) fill the gaps in colour between
    the observed ones above g - i of 0.9.

    Returns
    -------
    table : pandas.DataFrame
        (N) rows; the columns of :class:`astro_utils.sky.stars.StellarLibrary`.
    flux : numpy.ndarray
        (N, L) float64 on :data:`astro_utils.sky.stellar_libraries.GRID`, of one nanomaggy in SDSS r.
    """
    table, flux = _read_and_continue()
    table = table.join(_colours(flux))
    keep = _good(table)
    table, flux = table[keep].reset_index(drop=True), flux[keep]
    between, more = _between_cool_dwarfs(table, flux)
    table = pd.concat([table, between.join(_colours(more))], ignore_index=True)
    flux = np.concatenate([flux, more])
    return table, flux / (flux @ band_weights(["sdss2010-r"], GRID))
