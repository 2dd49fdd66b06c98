"""What the audit of ASTRA expected, what it found, and whether that is confirmed."""

from __future__ import annotations

import pandas as pd

from astro_utils.astra.audit_validation import RATIO
from astro_utils.results import select

__all__ = ["cost_findings", "findings"]

_COLUMNS = ["finding", "claim", "expected", "found", "confirmed"]


def _number(row: pd.Series, name: str, digits: int = 3, factor: float = 1.0) -> str:
    lo, hi = (row.get(f"{name}_{end}") for end in ("lo", "hi"))
    interval = "" if pd.isna(lo) else f" [{factor * lo:.{digits}f}, {factor * hi:.{digits}f}]"
    return f"{factor * row[name]:.{digits}f}{interval}"


def _token_findings(metrics: pd.DataFrame) -> list[tuple]:
    out = []
    for version in ("v1", "v2"):
        drawn, frozen = (
            select(metrics, experiment="tokens", model=f"{version}, {kind}") for kind in ("redrawn", "frozen")
        )
        n = int(drawn["candidates"])
        out.append(
            (
                1,
                f"Tokens do not know their galaxy in the next epoch ({version})",
                f"found among {n} as by chance, {drawn['chance']:.3f}; with a frozen CNN always",
                f"{_number(drawn, 'found_share')}; frozen {frozen['found_share']:.3f}",
                drawn["found_share_lo"] <= drawn["chance"] and frozen["found_share"] == 1,
            )
        )
        out.append(
            (
                1,
                f"Nothing else of a galaxy survives: how alike its patches are does not tell it ({version})",
                f"as by chance, {drawn['chance']:.3f}",
                _number(drawn, "likeness_share"),
                drawn["likeness_share_lo"] <= drawn["chance"],
            )
        )
    counts = [select(metrics, experiment="parameters", model=version) for version in ("v1", "v2")]
    out.append(
        (
            1,
            "Weights of the patch CNN are never trained",
            "all of them: more than none",
            ", ".join(
                f"{row['model']}: {row['never_trained']:,.0f}, beside {row['parameters']:,.0f}"
                for row in counts
            ),
            all(row["never_trained"] > 0 for row in counts),
        )
    )
    channel = select(metrics, experiment="channels", model="as published")
    out.append(
        (
            1,
            "Version 1 reads pixels and bands mixed up: an input channel holds all bands",
            "5",
            f"{channel['bands']:.0f}",
            channel["bands"] == 5,
        )
    )
    return out


def _colour_findings(metrics: pd.DataFrame) -> list[tuple]:
    out = []
    for name in ("arcsin", "arcsinh"):
        for quantity in ("g - r", "redshift"):
            row = select(metrics, experiment=f"from images: {quantity}", model=f"{name}, each band alone")
            whole = select(
                metrics, experiment=f"from images: {quantity}", model=f"{name}, one scale per galaxy"
            )
            claim = f"Scaling each band alone costs R² of {quantity} ({name})"
            found = f"{_number(row, 'r2_loss')}, from {whole['r2']:.3f} to {row['r2']:.3f}"
            out.append((2, claim, "more than 0", found, row["r2_loss_lo"] > 0))
        row = select(metrics, experiment="from images: g - r", model=f"{name}, each band alone")
        claim = f"Of the colour nothing is left ({name})"
        out.append((2, claim, "R² of g - r 0", _number(row, "r2"), row["r2_lo"] <= 0))
    return out


def _stretch_findings(metrics: pd.DataFrame) -> list[tuple]:
    arcsin, usual, linear = (
        select(metrics, experiment="stretch", model=name)
        for name in ("arcsin", "arcsinh of flux over noise", "linear")
    )
    second = select(metrics, experiment="stretch", model="arcsinh")
    return [
        (
            3,
            "The arcsine leaves the outskirts less of its range than the arcsinh of flux over noise",
            "less",
            f"{_number(arcsin, 'outskirts_range')} against {_number(usual, 'outskirts_range')}",
            arcsin["outskirts_range_hi"] < usual["outskirts_range_lo"],
        ),
        (
            3,
            "It stretches the outskirts no more than a straight line",
            f"{linear['outskirts_range']:.3f} or less",
            _number(arcsin, "outskirts_range"),
            arcsin["outskirts_range"] <= linear["outskirts_range"],
        ),
        (
            3,
            "Version 2 cuts off the cores of galaxies",
            "less than 0.05 of its range between half the brightest pixel and it",
            _number(second, "core_range"),
            second["core_range_hi"] < 0.05,
        ),
    ]


def _target_findings(metrics: pd.DataFrame) -> list[tuple]:
    out = []
    for _, row in metrics[metrics["experiment"] == "own grid"].iterrows():
        out.append(
            (
                4,
                f"An element moves from spectrum to spectrum ({row['n_test']} of {row['model']}, real)",
                "the first, the middle or the last by more than one element",
                f"{row['shift_first']:.1f}, {row['shift_middle']:.1f}, {row['shift_last']:.1f} Å; "
                f"{row['elements']:.1f} elements",
                row["elements"] > 1,
            )
        )
    maximum = select(metrics, experiment="maximum")
    out.append(
        (
            4,
            "Spikes of noise set the scale of spectra",
            "maximum off lines and above 5 σ in more than 1 %",
            f"{_number(maximum, 'spike_share', 1, 100)} %; lines {_number(maximum, 'line_share', 1, 100)} %",
            maximum["spike_share_lo"] > 0.01,
        )
    )
    scale = select(metrics, experiment="scale of the target", model="v1")
    out.append(
        (
            4,
            "Most of the variance of version 1's targets is brightness",
            "more than 0.5",
            _number(scale, "scale_share"),
            scale["scale_share_lo"] > 0.5,
        )
    )
    bright = {
        name: select(metrics, experiment="from images: brightness", model=name)
        for name in ("arcsin, each band alone", "arcsinh of flux over noise")
    }
    low, high = bright.values()
    out.append(
        (
            4,
            "Its scaled images tell the brightness worse than flux over noise",
            "lower R²",
            f"{_number(low, 'r2')} against {_number(high, 'r2')}",
            low["r2_hi"] < high["r2_lo"],
        )
    )
    return out


def _validation_findings(metrics: pd.DataFrame) -> list[tuple]:
    own, other = (
        select(metrics, experiment="validation", model=name) for name in ("training set", "other galaxies")
    )
    return [
        (
            5,
            "An epoch chosen on the training set has a higher loss on other galaxies",
            "ratio above 1",
            f"{_number(own, 'test_loss_ratio')}; epoch {own['best_epoch']:.0f} instead of "
            f"{other['best_epoch']:.0f}",
            own["test_loss_ratio_lo"] > 1,
        ),
        (
            5,
            "The rule that raises dropout sees overfitting on other galaxies, and never on the training set",
            f"validation over training loss above {RATIO:g}",
            f"at most {other['loss_ratio']:.2f} and {own['loss_ratio']:.2f}",
            own["loss_ratio"] < RATIO < other["loss_ratio"],
        ),
    ]


def _attention_findings(metrics: pd.DataFrame) -> list[tuple]:
    theirs, plain = (
        select(metrics, experiment="attention", model=name) for name in ("among frequencies", "among tokens")
    )
    return [
        (
            6,
            "Frequencies f and N - f have equal queries",
            f"{theirs['positions'] / 2 + 1:.0f} distinct of {theirs['positions']:.0f}",
            f"{theirs['distinct']:.0f}",
            theirs["distinct"] == theirs["positions"] / 2 + 1,
        ),
        (
            6,
            "Tokens t and N - t get equal outputs, which plain attention tells apart",
            "some; 0",
            f"{theirs['equal_tokens']:.0f} of {theirs['tokens']:.0f}; {plain['equal_tokens']:.0f}",
            theirs["equal_tokens"] > 0 == plain["equal_tokens"],
        ),
        (
            6,
            "The order of patches matters although they carry their positions; not to plain attention",
            "above 0.1; below 0.01",
            f"{theirs['order_change']:.3g}; {plain['order_change']:.1g} of the scatter between galaxies",
            theirs["order_change"] > 0.1 and plain["order_change"] < 0.01,
        ),
    ]


def findings(metrics: pd.DataFrame) -> pd.DataFrame:
    """Judge the metrics of all checks against what was expected of them.

    Parameters
    ----------
    metrics : pandas.DataFrame
        Of the rows of :func:`astro_utils.astra.audit.audit_rows`.

    Returns
    -------
    pandas.DataFrame
        Columns ``finding`` (1 to 6), ``claim``, ``expected``, ``found`` with 95 % intervals, ``confirmed``.

    Raises
    ------
    KeyError
        If a row is missing.
    """
    parts = (
        _token_findings,
        _colour_findings,
        _stretch_findings,
        _target_findings,
        _validation_findings,
        _attention_findings,
    )
    rows = [row for part in parts for row in part(metrics)]
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"confirmed": bool})


def cost_findings(costs: pd.DataFrame) -> pd.DataFrame:
    """Judge what findings cost a trained network.

    Parameters
    ----------
    costs : pandas.DataFrame
        Of :func:`astro_utils.astra.audit.ablation_costs`.

    Returns
    -------
    pandas.DataFrame
        As :func:`findings`; a cost is confirmed when the whole 95 % interval of the loss of continuum R2 is
        above 0, so never without an interval.
    """
    rows = [
        (
            row["finding"],
            f"“{row['model']}” is worse than “{row['whole']}”",
            "loss of continuum R² above 0",
            f"{_number(row, 'r2_continuum_loss')}; all pixels {_number(row, 'r2_loss')}",
            row["r2_continuum_loss_lo"] > 0,
        )
        for _, row in costs.iterrows()
    ]
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"confirmed": bool})
