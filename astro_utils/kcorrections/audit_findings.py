"""What the audit of the published k-corrections expected, what it found, and whether that is confirmed."""

from __future__ import annotations

import pandas as pd

from astro_utils.kcorrections.audit_fits import ALL_MISTAKES, RIGHT
from astro_utils.kcorrections.audit_setup import MAX_Z, PRINTED
from astro_utils.kcorrections.audit_switch import SYSTEM
from astro_utils.results import select

__all__ = ["findings"]


def _number(row: pd.Series, name: str, digits: int = 4, factor: float = 1.0) -> str:
    lo, hi = (row.get(f"{name}_{end}") for end in ("lo", "hi"))
    interval = "" if pd.isna(lo) else f" [{factor * lo:.{digits}f}, {factor * hi:.{digits}f}]"
    return f"{factor * row[name]:.{digits}f}{interval}"


def _unit_findings(metrics: pd.DataFrame) -> list[tuple]:
    rows = [select(metrics, experiment="units", model=model) for model in PRINTED["errors"]]
    squares = sum(round(row["implied"], 4) == row["printed_mse"] for row in rows)
    real = select(metrics, experiment="units", model="real galaxies")
    as_mse = select(metrics, experiment="units", model="read as MSE")["variance"]
    as_rmse = select(metrics, experiment="units", model="read as RMSE")["variance"]
    return [
        (
            1,
            "The printed “MSE” squared is the MSE of the tables: it is an RMSE",
            f"{len(rows)} of {len(rows)}",
            f"{squares} of {len(rows)}",
            squares == len(rows),
        ),
        (
            1,
            f"An MSE of {PRINTED['rmse']:g} at R2 = {PRINTED['r2']:g} needs a variance of K beyond all",
            f"{as_mse:.3f} mag², above what the range of K allows",
            f"real {_number(real, 'variance')} mag², at most {real['variance_bound']:.3f}; "
            f"read as RMSE, {as_rmse:.4f}",
            as_rmse < real["variance_bound"] < as_mse,
        ),
    ]


def _broadcast_findings(metrics: pd.DataFrame) -> list[tuple]:
    row, (low, high) = select(metrics, experiment="broadcast"), PRINTED["few_shot_mae"]
    spread = PRINTED["rmse"] / (1 - PRINTED["r2"]) ** 0.5
    implied = row["broadcast_by_spread"] * spread
    return [
        (
            2,
            "The mean error of all pairs is above the RMSE, which no mean absolute error can be",
            "MAE < RMSE < all pairs",
            f"{_number(row, 'mae')} < {_number(row, 'rmse')} < {_number(row, 'broadcast_mae')}",
            row["mae_hi"] < row["rmse_lo"] and row["rmse_hi"] < row["broadcast_mae_lo"],
        ),
        (
            2,
            "With the published spread of K, all pairs give the published MAE of the networks",
            f"{low:.2f} to {high:.2f}",
            f"{implied:.3f} ({_number(row, 'broadcast_by_spread', 2)} times a spread of {spread:.3f})",
            low <= implied <= high,
        ),
    ]


def _baseline_findings(metrics: pd.DataFrame) -> list[tuple]:
    def score(model: str) -> pd.Series:
        return select(metrics, experiment="baselines", model=model)

    colours, redshift, mean = (score(m) for m in ("g - r, r - z: kNN k = 30", "redshift: boosting", "mean"))
    out = []
    for method in ("kNN k = 30", "boosting"):
        row = score(f"r, g - r, r - z: {method}")
        claim = f"Three catalogue numbers reach the R2 of image embeddings ({method})"
        out.append((3, claim, f"{PRINTED['r2']:g}", _number(row, "r2"), row["r2_lo"] >= PRINTED["r2"]))
    out.append(
        (
            3,
            "The redshift alone is better than the image embeddings, two colours alone are not",
            "0.95 and 0.81",
            f"{_number(redshift, 'r2')} and {_number(colours, 'r2')}; the mean {_number(mean, 'r2')}",
            redshift["r2_lo"] > PRINTED["r2"] > colours["r2_hi"],
        )
    )
    return out


def _switch_findings(metrics: pd.DataFrame) -> list[tuple]:
    nearest, fixed = (
        select(metrics, experiment="jump", model=model) for model in ("nearest band", "fixed band")
    )
    steps = metrics[metrics["experiment"] == "switches"].set_index("model")["switch_redshift"]
    pairs = [
        (steps[[name for name in steps.index if name.startswith(f"{system} {band},")]].tolist(), printed)
        for (system, band), printed in PRINTED["switches"].items()
    ]
    right = all(
        len(found) == len(printed)
        and all(abs(a - b) < 1e-4 for a, b in zip(sorted(found), printed, strict=True))
        for found, printed in pairs
    )
    balmer, old = (
        select(metrics, experiment="breaks", model=f"{name}, {SYSTEM} r")
        for name in ("Balmer jump, 3646 A", "break at 4000 A")
    )
    return [
        (
            4,
            "The nearest band switches at the redshifts of the jumps",
            ", ".join(f"{z:.4f}" for _, printed in pairs for z in printed),
            ", ".join(f"{z:.4f}" for found, _ in pairs for z in found),
            right,
        ),
        (
            4,
            "The jump is the observed colour of the galaxy, and there is none with a fixed band",
            "equal; below 0.01 mag",
            f"{_number(nearest, 'jump', 3)} and {_number(nearest, 'colour_offset', 3)} mag, "
            f"rms difference {nearest['mismatch']:.4f}; fixed band {_number(fixed, 'jump', 4)}",
            nearest["mismatch"] < 0.01 and abs(fixed["jump"]) < 0.01 < abs(nearest["jump"]),
        ),
        (
            4,
            "The Balmer jump is not in the r band at the redshift of the jump",
            "enters above z = 0.5",
            f"3646 Å from z = {balmer['enters']:.2f} to {balmer['leaves']:.2f}; "
            f"4000 Å from {old['enters']:.2f} to {old['leaves']:.2f}",
            balmer["enters"] > 0.5,
        ),
        (
            4,
            "Breaks that pass a fixed band change K slowly",
            "0.01 in redshift changes it by less than a tenth of the jump",
            f"{nearest['steepest']:.3f} against {abs(nearest['jump']):.3f} mag",
            nearest["steepest"] < 0.1 * abs(nearest["jump"]),
        ),
    ]


def _choice_findings(metrics: pd.DataFrame) -> list[tuple]:
    row = select(metrics, experiment="model choice", model="epoch chosen on the test set")
    lead = PRINTED["kcorrect_test_rmse"] / PRINTED["rmse"] - 1
    claim = "Choosing the epoch on the test set flatters the RMSE, but by less than the lead over kcorrect"
    found = f"{_number(row, 'optimism', 2, 100)} %"
    confirmed = 0 < row["optimism_lo"] and row["optimism_hi"] < lead
    return [(5, claim, f"0 to {100 * lead:.1f} %", found, confirmed)]


def _failure_findings(metrics: pd.DataFrame) -> list[tuple]:
    counts = select(metrics, experiment="counts")
    theirs = select(metrics, experiment="failures", model="published options")
    out = [
        (
            6,
            "Most galaxies that kcorrect has no score for are in no count of failures",
            "51,448 of 64,327, 26 % of the sample",
            f"{counts['silent']:,.0f} of {counts['missing']:,.0f}, {100 * counts['silent_share']:.1f} %",
            counts["silent"] > 0.5 * counts["missing"],
        ),
        (
            6,
            "The published options make kcorrect fail, with today's solver",
            f"{100 * counts['logged_share']:.1f} %",
            f"{theirs['failed']:,.0f} of {theirs['n_test']:,.0f}; chi2 above 50: {theirs['misfits']:,.0f}",
            theirs["failed"] > 0,
        ),
    ]
    for precision in ("float64", "float32"):
        row = select(metrics, experiment="failures", model=f"SciPy 1.12 to 1.14, {precision}")
        out.append(
            (
                6,
                f"The solver of SciPy 1.12 to 1.14 fails as often as was logged, or more ({precision})",
                f"{100 * counts['logged_share']:.1f} %",
                f"{_number(row, 'failed_share', 1, 100)} %",
                row["failed_share_lo"] > counts["logged_share"],
            )
        )
    return out


def _handicap_findings(metrics: pd.DataFrame) -> list[tuple]:
    def score(model: str) -> pd.Series:
        return select(metrics, experiment="handicaps", model=model)

    together, rounded, right = score(ALL_MISTAKES), score("rounded redshift"), score(RIGHT)
    out = []
    for name in ("mae", "rmse"):
        claim = f"The published choices together raise kcorrect's {name.upper()}"
        found = f"by {_number(together, f'{name}_ratio', 3)}, from {_number(right, name)}"
        out.append((7, claim, "more than 1", found, together[f"{name}_ratio_lo"] > 1))
    out.append(
        (
            7,
            "Rounding the redshift to three digits is harmless",
            "RMSE within 1 %",
            f"by {_number(rounded, 'rmse_ratio', 4)}",
            rounded["rmse_ratio_lo"] > 0.99 and rounded["rmse_ratio_hi"] < 1.01,
        )
    )
    theirs, network = PRINTED["kcorrect_test_mae"], PRINTED["mae"]
    claim = "On the test sample alone kcorrect has the lower MAE, as printed"
    out.append((7, claim, "kcorrect lower", f"{theirs:.4f} against {network:.4f}", theirs < network))
    return out


def _absmag_findings(metrics: pd.DataFrame) -> list[tuple]:
    one = select(metrics, experiment="absolute magnitudes", model="one sentinel, g")
    hubble = select(metrics, experiment="absolute magnitudes", model="Hubble constant")
    return [
        (
            8,
            "One galaxy with kcorrect's sentinel makes the MSE of the absolute magnitude in g, to 10 %",
            f"{one['printed_mse']:.0f} mag²",
            f"{one['implied']:.0f} mag², with {one['sentinel']:.0f}; "
            f"the true magnitudes have a variance of {one['variance']:.1f} mag²",
            abs(one["implied"] / one["printed_mse"] - 1) < 0.1 and one["sentinel"] == -9999,
        ),
        (
            8,
            "Another Hubble constant is most of the error of 1 mag in r and z",
            "0.85 mag",
            f"{hubble['magnitude_offset']:.3f} mag",
            0.5 < hubble["magnitude_offset"] < 1.06,
        ),
    ]


def _noise_findings(metrics: pd.DataFrame) -> list[tuple]:
    out = []
    for sigma in (0.05, 0.1, 0.2):
        near, far = (
            select(metrics, experiment="redshift noise", model=f"noise {sigma:g}, z < {end:g}")
            for end in (0.3, MAX_Z)
        )
        out.append(
            (
                9,
                f"The same K has another R2 on the wider sample (redshift noise {sigma:g})",
                "higher at z < 0.37",
                f"{_number(near, 'r2', 3)} and {_number(far, 'r2', 3)}, "
                f"difference {_number(far, 'r2_gain', 3)}",
                far["r2_gain_lo"] > 0,
            )
        )
    return out


def _split_findings(metrics: pd.DataFrame) -> list[tuple]:
    out = []
    for k in (1, 30):
        plain, twice = (
            select(metrics, experiment="splits", model=f"kNN k = {k}, random split{name}")
            for name in ("", ", duplicates")
        )
        found, inside = _number(plain, "r2_gain", 4), max(abs(plain["r2_gain_lo"]), abs(plain["r2_gain_hi"]))
        claim = f"Without duplicates a random split is as good as one by sky pixel (k = {k})"
        out.append((10, claim, "R2 within 0.01", found, inside < 0.01))
        claim = f"Galaxies that stand twice flatter a random split (k = {k})"
        out.append((10, claim, "R2 higher", _number(twice, "r2_gain", 4), twice["r2_gain_lo"] > 0))
    return out


def findings(metrics: pd.DataFrame) -> pd.DataFrame:
    """Judge the metrics of all checks against what was expected of them.

    Parameters
    ----------
    metrics : pandas.DataFrame
        Of the rows of :func:`astro_utils.kcorrections.audit.audit_rows`.

    Returns
    -------
    pandas.DataFrame
        Columns ``check`` (1 to 10), ``claim``, ``expected``, ``found`` with 95 % intervals, ``confirmed``.

    Raises
    ------
    KeyError
        If a row is missing.
    """
    parts = (
        _unit_findings,
        _broadcast_findings,
        _baseline_findings,
        _switch_findings,
        _choice_findings,
        _failure_findings,
        _handicap_findings,
        _absmag_findings,
        _noise_findings,
        _split_findings,
    )
    rows = [row for part in parts for row in part(metrics)]
    out = pd.DataFrame(rows, columns=["check", "claim", "expected", "found", "confirmed"])
    return out.astype({"confirmed": bool})
