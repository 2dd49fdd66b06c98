"""Gate 1: colours of galaxies, stars and quasars against those of the real sky."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from astro_utils.galaxies import galaxy_sample
from astro_utils.photometry import SDSS_BANDS
from astro_utils.sky.gates import Gate
from astro_utils.sky.quasars import quasar_track
from astro_utils.sky.selections import photoz_sample
from astro_utils.sky.stellar_locus import covey_locus, locus_offsets

__all__ = ["galaxy_colours", "observed_colours", "quasar_colours", "star_colours"]

#: Redshift bins of the galaxies; the real ones beyond 0.3 are too few for a median to 0.05 mag.
Z_EDGES = np.array([0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30])


def galaxy_colours(simulated: pd.DataFrame) -> tuple[list[Gate], pd.DataFrame]:
    """Median colours in bins of redshift against the 10,000 real galaxies.

    Parameters
    ----------
    simulated : pandas.DataFrame
        Measured catalogue of the population ``main_galaxies``.

    Returns
    -------
    gates : list of Gate
    table : pandas.DataFrame
        Per bin and colour: numbers, medians, offset (simulated minus real).
    """
    real, mine = galaxy_sample(), photoz_sample(simulated)
    rows = []
    for low, high in pairwise(Z_EDGES):
        parts = [sample[(sample["z"] > low) & (sample["z"] <= high)] for sample in (mine, real)]
        for blue, red in ("ug", "gr", "ri", "iz"):
            a, b = ((part[f"model_mag_{blue}"] - part[f"model_mag_{red}"]) for part in parts)
            rows.append(
                {
                    "z": (low + high) / 2,
                    "colour": f"{blue}-{red}",
                    "n_simulated": len(a),
                    "n_real": len(b),
                    "simulated": a.median(),
                    "real": b.median(),
                    "offset": a.median() - b.median(),
                }
            )
    table = pd.DataFrame(rows)
    gates = []
    for colour in ("g-r", "r-i"):
        chosen = table[(table["colour"] == colour) & (table["n_simulated"] >= 30)]
        gates.append(
            Gate(
                1,
                f"galaxies: largest offset of the median {colour} in bins of redshift, mag",
                -np.inf,
                0.05,
                float(chosen["offset"].abs().max()),
                int(chosen["n_simulated"].sum()),
            )
        )
    return gates, table


def observed_colours(catalogue: pd.DataFrame, kind: str = "psf", deredden: bool = True) -> pd.DataFrame:
    """Magnitudes and colours of a measured SDSS catalogue.

    Parameters
    ----------
    catalogue : pandas.DataFrame
    kind : {"psf", "model"}
        Which fluxes.
    deredden : bool
        Whether to correct for the extinction of the dust map.

    Returns
    -------
    pandas.DataFrame
        ``u`` to ``z`` (pure AB-like magnitudes; a flux that is not positive becomes magnitude 30), ``u_g``,
        ``g_r``, ``r_i``, ``i_z``, ``g_i``, and ``redshift``.
    """
    out = {}
    for band in SDSS_BANDS:
        flux = np.maximum(catalogue[f"{kind}_flux_{band}"].to_numpy(), 1e-3)
        out[band] = (
            22.5 - 2.5 * np.log10(flux) - (catalogue[f"extinction_{band}"].to_numpy() if deredden else 0)
        )
    for blue, red in ("ug", "gr", "ri", "iz", "gi"):
        out[f"{blue}_{red}"] = out[blue] - out[red]
    return pd.DataFrame(out | {"redshift": catalogue["z"].to_numpy()})


def star_colours(catalogue: pd.DataFrame) -> tuple[list[Gate], pd.DataFrame]:
    """Measured PSF colours of stars with r < 19 against the locus of Covey et al. (2007, AJ 134, 2398).

    Returns
    -------
    gates : list of Gate
    table : pandas.DataFrame
        Offsets in bins of g - i, from :func:`astro_utils.sky.stellar_locus.locus_offsets`.
    """
    stars = observed_colours(catalogue[catalogue["class"] == "STAR"]).query("r < 19")
    table = locus_offsets(stars, covey_locus(), np.arange(0.3, 3.0, 0.3), n_least=20)
    blue = table["high"] <= 1.5 + 1e-9
    cases = (
        ("g_r", table, 0.05, ""),
        ("r_i", table, 0.05, ""),
        ("i_z", table, 0.05, ""),
        ("u_g", table[blue], 0.10, ", g-i below 1.5"),
        ("u_g", table[~blue], 0.10, ", g-i of 1.5 to 3"),
    )
    gates = [
        Gate(
            1,
            f"stars: largest offset of the median {colour.replace('_', '-')} from the published locus{where}",
            -np.inf,
            limit,
            float(part[colour].abs().max()),
            int(part["number"].sum()),
        )
        for colour, part, limit, where in cases
    ]
    return gates, table


def quasar_colours(catalogue: pd.DataFrame) -> tuple[list[Gate], pd.DataFrame]:
    """Measured PSF colours of quasars with i < 20.5 against the track of real ones (SDSS DR17).

    Both are behind the Galactic dust, for the real table says nothing of dust. Bins of redshift are compared
    where at least 30 real and 20 simulated quasars are.

    Returns
    -------
    gates : list of Gate
    table : pandas.DataFrame
        Per bin of redshift: numbers, and simulated minus real median of each colour.
    """
    mine = observed_colours(catalogue[catalogue["class"] == "QSO"], deredden=False).query("i < 20.5")
    real, rows = quasar_track(), []
    for _, bin_ in real.iterrows():
        here = mine[(mine["redshift"] - bin_["z"]).abs() < 0.1]
        if bin_["number"] >= 30 and len(here) >= 20:
            offsets = {c: here[c].median() - bin_[c] for c in ("u_g", "g_r", "r_i", "i_z")}
            rows.append({"z": bin_["z"], "n_real": int(bin_["number"]), "n_simulated": len(here)} | offsets)
    table = pd.DataFrame(rows)
    low, n = table["z"].between(0.6, 2.2), int(table["n_simulated"].sum())
    text = "quasars: largest offset of the median u-g from the observed track, mag, redshift"
    gates = [
        Gate(1, f"{text} 0.6 to 2.2", -np.inf, 0.10, float(table.loc[low, "u_g"].abs().max()), n),
        Gate(
            1, f"{text} 2.2 to 3.4", -np.inf, 0.15, float(table.loc[table["z"] > 2.2, "u_g"].abs().max()), n
        ),
    ]
    return gates, table
