"""What the audit of the published stellar study measured, as rows of metrics, simulated stars throughout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from astro_utils.class_bootstrap import resample_weights
from astro_utils.models.star_classifiers import CNNClassifier
from astro_utils.results import anchors, metric_row
from astro_utils.starsed import audit
from astro_utils.starsed.audit import JUDGED, LIKELIHOOD, LIKELIHOOD_FREE, OTHER_FIELD, SVM, AuditField
from astro_utils.starsed.stars import SUBSETS

__all__ = [
    "SETS",
    "SNR_EDGES",
    "answer_rows",
    "printed",
    "printed_svm",
    "protocol_rows",
    "pupil_rows",
    "reshuffle_rows",
]

SNR_EDGES = (20, 50, 80, 110)
#: Sets of stars of known spectrum to which the study fits PSFs, and their sizes.
SETS = {name: SUBSETS[name].stop for name in ("S1", "S2", "S3", "S4", "S5", "S6")}


def printed() -> pd.DataFrame:
    """Numbers that the study prints, by model."""
    return anchors("starsed").set_index("model")


def printed_svm(name: str) -> float:
    """Return a printed score of the SVM with the true PSF; "top-two accuracy" is kept as ``within_one``."""
    return float(printed().loc["SVM+PSF, PSF true", name])


def _row(
    profile: str, experiment: str, model: str, n_train: int, n_test: int, seeds: int, metrics: dict
) -> dict[str, Any]:
    return metric_row(
        profile=profile,
        sky="simulated",
        experiment=experiment,
        model=model,
        n_train=int(n_train),
        n_test=int(n_test),
        seeds=int(seeds),
        metrics=metrics,
    )


# -------------------------------------------------------------------------------------------------- rows


def answer_rows(table: pd.DataFrame, profile: str, n_bootstrap: int, seed: int = 0) -> list[dict[str, Any]]:
    """Score the answers: experiments ``top two``, ``flux``, ``labels`` and ``SNR``.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`astro_utils.starsed.audit.answer_table`.
    profile : str
    n_bootstrap, seed : int
        Resamples of test stars, the same for all methods. The spread ``_sd`` is that over fields.

    Returns
    -------
    list of dict
        Of :func:`astro_utils.results.metric_row`. ``within_less_top``: share within one class less that of
        true top two. ``accuracy_loss``: accuracy of the same method with flux one, and in ``labels`` of the
        machine with all labels, less this accuracy.
    """
    wide = table.pivot(index=["field", "star"], columns="model", values=list(JUDGED))
    stars = table.drop_duplicates(["field", "star"]).set_index(["field", "star"]).loc[wide.index]
    n_train = table.groupby("model")["n_train"].first()
    field = wide.index.get_level_values("field").to_numpy()
    n_fields = len(np.unique(field))
    weights = resample_weights(np.arange(len(wide)), n_bootstrap, seed).astype(float)

    def summary(values: pd.Series, mask: np.ndarray | slice = slice(None)) -> dict[str, float]:
        chosen, share = values.to_numpy()[mask], weights[:, mask]
        drawn = share @ chosen / share.sum(1)
        lo, hi = np.percentile(drawn[1:], [2.5, 97.5])
        sd = pd.Series(chosen).groupby(field[mask]).mean().std(ddof=1)
        return {"value": drawn[0], "lo": lo, "hi": hi, "sd": sd}

    def row(experiment: str, model: str, reference: str | None = None) -> dict[str, Any]:
        metrics = {name: summary(wide[name, model]) for name in JUDGED}
        metrics["within_less_top"] = summary(wide["within_one", model] - wide["top_two", model])
        if reference not in (None, model):
            metrics["accuracy_loss"] = summary(wide["accuracy", reference] - wide["accuracy", model])
        return _row(profile, experiment, model, n_train[model], len(wide), n_fields, metrics)

    few = sorted((name for name in n_train.index if name.endswith(" labels")), key=n_train.get)
    rows = [row("top two", model) for model in (SVM, LIKELIHOOD, LIKELIHOOD_FREE)]
    rows += [row("flux", model, SVM) for model in (SVM, audit.SVM_MATCHED, audit.SVM_SUM)]
    rows += [row("flux", model, LIKELIHOOD) for model in (LIKELIHOOD, LIKELIHOOD_FREE)]
    rows += [row("labels", model, SVM) for model in (*few, SVM, OTHER_FIELD, LIKELIHOOD, LIKELIHOOD_FREE)]
    for lo, hi in pairwise(SNR_EDGES):
        mask = ((stars["snr"] >= lo) & (stars["snr"] < hi)).to_numpy()
        for model in (SVM, LIKELIHOOD, LIKELIHOOD_FREE):
            metrics = {"accuracy": summary(wide["accuracy", model], mask)}
            metrics["matched_sn"] = stars["matched_sn"][mask].mean()
            name = f"{model}, SNR {lo}-{hi}"
            rows.append(_row(profile, "SNR", name, n_train[model], mask.sum(), n_fields, metrics))
    return rows


def reshuffle_rows(table: pd.DataFrame, profile: str) -> list[dict[str, Any]]:
    """Score the reshuffles of :func:`astro_utils.starsed.audit.reshuffle_table`, of each field and of all.

    The last has ``reshuffles_spread``, the spread of reshuffles of one field; ``standard_error`` of one
    accuracy and ``standard_error_mean`` of a field's mean, binomial; ``fields_spread``, the spread of the
    means of fields; ``field_scatter``, what of it the binomial error leaves; and ``p_value``, the chance of
    such a spread if fields were equal (chi-squared of the means about their mean).
    """
    fields = table.groupby("field")
    mean, sd = fields["accuracy"].mean(), fields["accuracy"].std(ddof=1)
    lowest, highest = fields["accuracy"].min(), fields["accuracy"].max()
    n_train, n_test = table["n_train"].iloc[0], table["n_test"].iloc[0]
    overall = float(mean.mean())
    variance = overall * (1 - overall) / fields["n_effective"].first()
    metrics = {
        "accuracy": {"value": overall, "sd": mean.std(ddof=1)},
        "reshuffles_spread": np.sqrt((sd**2).mean()),
        "standard_error": np.sqrt(overall * (1 - overall) / n_test),
        "standard_error_mean": np.sqrt(variance.mean()),
        "fields_spread": mean.std(ddof=1),
        "field_scatter": np.sqrt(max(0.0, mean.var(ddof=1) - variance.mean())),
        "p_value": chi2.sf(((mean - overall) ** 2 / variance).sum(), len(mean) - 1),
    }
    repeats = table["reshuffle"].nunique()
    rows = []
    for k in mean.index:
        scores = {"accuracy": {"value": mean[k], "sd": sd[k]}, "lowest": lowest[k], "highest": highest[k]}
        rows.append(_row(profile, "reshuffles", f"SVM, field {k + 1}", n_train, n_test, repeats, scores))
    return [*rows, _row(profile, "reshuffles", "SVM, all fields", n_train, n_test, len(mean), metrics)]


def pupil_rows(table: pd.DataFrame, profile: str) -> list[dict[str, Any]]:
    """Score the cases of :func:`astro_utils.starsed.audit.pupil_errors`, per cent: mean, lowest, highest."""
    rows = []
    for case, part in table.groupby("case", sort=False):
        error = part["relative"]
        scores = {"relative": error.mean(), "relative_std": error.std(ddof=0)}
        scores |= {"lowest": error.min(), "highest": error.max()}
        rows.append(_row(profile, "pupil", case, 0, len(part), part["field"].nunique(), scores))
    return rows


def protocol_rows(fields: Sequence[AuditField], profile: str) -> list[dict[str, Any]]:
    """State the signal-to-noise ratios of all stars, and of how many of 10,000 stars the CNN learns."""
    snr, matched = (np.concatenate([getattr(f, name) for f in fields]) for name in ("snr", "matched_sn"))
    scores = {"snr_lowest": snr.min(), "snr_highest": snr.max()}
    scores |= {"matched_lowest": matched.min(), "matched_highest": matched.max()}
    scores["matched_squared_by_snr"] = (matched**2 / snr).mean()
    share = CNNClassifier().train_share
    return [
        _row(profile, "protocol", "signal-to-noise", 0, len(snr), len(fields), scores),
        _row(
            profile,
            "protocol",
            "CNN",
            10_000,
            len(snr),
            1,
            {"trained": round(10_000 * share), "share": share},
        ),
    ]
