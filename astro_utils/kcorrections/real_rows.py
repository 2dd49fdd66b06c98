"""Results on the real galaxies: all methods in three tracks, intervals, biases by redshift, speed.

rows, predictions = real_rows(RealSettings(n_galaxies=0, n_folds=5, bands=("grz", "ugriz")), profile="full")
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from astro_utils.kcorrections.coverage import coverage_by_bin
from astro_utils.kcorrections.features import photometric_features
from astro_utils.kcorrections.intervals import IntervalModel
from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions, run_kcorrect
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.real_methods import (
    NONE,
    PHOTOMETRIC,
    SPECTROSCOPIC,
    TRACKS,
    Fold,
    RealSky,
    methods,
    real_sky,
)
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.template_grid import k_over_redshift, redshift_steps
from astro_utils.metrics import summarise
from astro_utils.results import metric_row
from astro_utils.sample_writer import one_thread
from astro_utils.splits import group_folds

__all__ = ["RealSettings", "real_rows"]

#: Redshift bins of biases and of coverage; beyond 0.25 there are too few galaxies for steps of 0.05.
BINS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.39)

#: What intervals of ours are calibrated given, first the one of the main rows: without a known redshift
#: coverage at each true redshift needs the true K, see :mod:`astro_utils.kcorrections.intervals`.
_GIVEN = {
    NONE: ("truth", "prediction", "nothing"),
    PHOTOMETRIC: ("truth", "prediction", "nothing"),
    SPECTROSCOPIC: ("known", "nothing"),
}
_LEVELS = (68, 90, 95)


@dataclass(frozen=True)
class RealSettings:
    """What is run.

    Parameters
    ----------
    n_galaxies : int
        Galaxies, drawn at random; 0 for all.
    n_folds : int
        Folds of sky pixels; each galaxy is tested once.
    bands : tuple of str
        Sets of bands that methods see.
    seed : int
        Of the draw, the folds and the predictors.
    n_bootstrap : int
        Resamples of sky pixels.
    """

    n_galaxies: int = 800
    n_folds: int = 2
    bands: tuple[str, ...] = ("grz",)
    seed: int = 0
    n_bootstrap: int = 50

    def __post_init__(self):
        if isinstance(self.bands, str):
            raise ValueError(f"bands {self.bands!r}; expected a tuple of sets, such as ('grz', 'ugriz')")
        if self.n_galaxies < 0 or 0 < self.n_galaxies < 400 or self.n_folds < 2 or self.n_bootstrap < 1:
            raise ValueError(
                f"{self.n_galaxies} galaxies, {self.n_folds} folds, {self.n_bootstrap} resamples; expected 0 "
                "or 400 galaxies or more, 2 folds or more, 1 resample or more"
            )


@one_thread()  # these samples are too small to share: threads would wait for one another
def real_rows(settings: RealSettings, profile: str = "smoke") -> tuple[list[dict], pd.DataFrame]:
    """Ask all methods for all galaxies, and score them.

    Parameters
    ----------
    settings : RealSettings
    profile : str
        Of the run.

    Returns
    -------
    rows : list of dict
        Metric rows. Their experiment is ``"<bands>, <track>"`` for the scores of
        :func:`astro_utils.kcorrections.scores.k_scores`, ``failures`` (which count as the mean of K) and, for
        ours, ``coverage_68``, ``_90``, ``_95`` and ``mean_width`` of the 90 % intervals; with
        ``", ten-band truth"`` or ``", untouched sky"`` behind it for other truths and for galaxies on which
        nothing was chosen; with ``", z <lo> to <hi>"`` for bins of true redshift; and ``"<bands>, speed"``.
        Other intervals than the chosen ones are models named ``"ours, intervals given <what>"``.
    predictions : pandas.DataFrame
        One row for each set of bands, track, model and galaxy: ``bands``, ``track``, ``model``, ``row`` (in
        the file), ``z``, ``k``, ``k_ten``, ``k_predicted``, and ``low`` and ``high`` of 90 % for ours.
    """
    sky = real_sky(settings.n_galaxies, settings.seed)
    rows, tables = [], []
    for bands in settings.bands:
        answers, spread, speeds = _answers(sky, bands, settings)
        intervals = _intervals(sky, bands, answers, spread, settings)
        scorer = _Scorer(sky, bands, settings, profile)
        rows += [*scorer.rows(answers, intervals), *scorer.bins(answers, intervals), *scorer.speeds(speeds)]
        tables.append(_table(sky, bands, answers, intervals))
    return rows, pd.concat(tables, ignore_index=True)


Answers = dict[tuple[str, str], np.ndarray]
Intervals = dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]


def _answers(sky: RealSky, bands: str, settings: RealSettings) -> tuple[Answers, np.ndarray, dict]:
    """K by each (track, method) (N,), the spread of K under p(z) (N,), and galaxies per second."""
    options = KcorrectOptions(bands)
    run = run_kcorrect(sky.photometry, options)
    known = Knowledge(
        photometric_features(sky.sample, bands),
        sky.sample["pixel"].to_numpy(),
        sky.photometry.z,
        run.trusted,
        k_over_redshift(sky.photometry, options, redshift_steps()),
    )
    speeds = {"kcorrect": _speed(lambda: run_kcorrect(sky.photometry, options), len(known))}
    chosen = methods(bands)
    answers = {(m.track, m.name): np.full(len(known), np.nan) for m in chosen}
    spread = np.empty(len(known))
    folds = group_folds(known.groups, settings.n_folds, settings.seed)
    for number in range(settings.n_folds):
        train, test = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        fold = Fold(known, run.k, sky.k, train, test, settings.seed)
        for method in chosen:
            answers[method.track, method.name][test] = method.predict(fold)
        spread[test] = fold.density.average(known.select(test))[1]
    speeds["ours"] = _speed(lambda: fold.density.direct.predict(known), len(known))
    return answers, np.where(np.isfinite(spread), spread, 0.0), speeds


def _speed(call: Callable[[], object], n: int) -> float:
    """Galaxies per second of processor time of a call that has been made before, so that nothing starts."""
    start = time.process_time()
    call()
    return n / (time.process_time() - start)


def _intervals(
    sky: RealSky, bands: str, answers: Answers, spread: np.ndarray, settings: RealSettings
) -> Intervals:
    """Intervals (low, high) of ours by (track, given what, level), each (N,), mag."""
    features = photometric_features(sky.sample, bands).values
    extra = {NONE: [], PHOTOMETRIC: [spread], SPECTROSCOPIC: [sky.photometry.z]}
    groups = sky.sample["pixel"].to_numpy()
    folds = group_folds(groups, settings.n_folds, settings.seed)
    bins, out = np.searchsorted(BINS[1:-1], sky.photometry.z, side="right"), {}
    for track in TRACKS:
        inputs, predicted = np.column_stack([features, *extra[track]]), answers[track, "ours"]
        for given in _GIVEN[track]:
            known = sky.photometry.z if given == "known" else None
            edges = BINS[1:-1] if given == "known" else None
            for level in _LEVELS:
                out[track, given, level] = np.empty(len(folds)), np.empty(len(folds))
            for number in range(settings.n_folds):
                test = folds == number
                seen, new = (None if known is None else known[part] for part in (~test, test))
                model = IntervalModel(given=given, edges=edges, seed=settings.seed)
                model.fit(inputs[~test], sky.k[~test], predicted[~test], groups[~test], seen)
                for level in _LEVELS:
                    asked = level / 100
                    if given == "truth":  # which is covered more at some redshifts than at others
                        asked = model.nominal(asked, bins[~test])
                    ends = model.predict(inputs[test], predicted[test], asked, new)
                    for whole, part in zip(out[track, given, level], ends, strict=True):
                        whole[test] = part
    return out


def _table(sky: RealSky, bands: str, answers: Answers, intervals: Intervals) -> pd.DataFrame:
    fixed = {"row": sky.sample["source_row"], "z": sky.photometry.z, "k": sky.k, "k_ten": sky.k_ten}
    tables = []
    for (track, name), predicted in answers.items():
        table = pd.DataFrame({"bands": bands, "track": track, "model": name, **fixed})
        low, high = intervals[track, _GIVEN[track][0], 90] if name == "ours" else (np.nan, np.nan)
        tables.append(table.assign(k_predicted=predicted, low=low, high=high))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Metric rows of one set of bands."""

    sky: RealSky
    bands: str
    settings: RealSettings
    profile: str

    def _row(self, what: str, model: str, n_test: int, metrics: dict) -> dict:
        n = len(self.sky.k)
        return metric_row(
            profile=self.profile,
            sky="real",
            experiment=f"{self.bands}, {what}",
            model=model,
            n_train=n - n // self.settings.n_folds,
            n_test=n_test,
            seeds=1,
            metrics=metrics,
        )

    def _summary(self, score: Callable[[np.ndarray], dict], rows: np.ndarray) -> dict:
        """Scores of some galaxies with intervals; `score` takes indices into all."""
        groups = self.sky.sample["pixel"].to_numpy()[rows]
        summary = summarise([lambda index: score(rows[index])], groups, self.settings.n_bootstrap)
        return {name: {key: entry[key] for key in ("value", "lo", "hi")} for name, entry in summary.items()}

    def rows(self, answers: Answers, intervals: Intervals) -> list[dict]:
        """Scores over all galaxies, those with the other truth, and those on which nothing was chosen."""
        sky, out = self.sky, []
        everything, ten = np.arange(len(sky.k)), np.flatnonzero(np.isfinite(sky.k_ten))
        parts = [("", sky.k, everything), (", untouched sky", sky.k, np.flatnonzero(sky.untouched))]
        parts += [(", ten-band truth", sky.k_ten, ten)] if len(ten) > 1 else []
        for (track, model), predicted in answers.items():
            # Nobody is left out of a score: a method that fails has said nothing of the galaxy.
            whole = np.where(np.isfinite(predicted), predicted, sky.k.mean())
            for what, true, rows in parts:
                metrics = self._summary(lambda i, p=whole, t=true: k_scores(p[i], t[i]), rows)
                metrics["failures"] = float((~np.isfinite(predicted[rows])).sum())
                if model == "ours":
                    metrics |= self._coverage(intervals, track, _GIVEN[track][0], true, rows)
                out.append(self._row(track + what, model, len(rows), metrics))
        for track, given in dict.fromkeys(key[:2] for key in intervals):
            if given != _GIVEN[track][0]:  # which stand with the scores
                metrics = self._coverage(intervals, track, given, sky.k, everything)
                out.append(self._row(track, f"ours, intervals given {given}", len(sky.k), metrics))
        return out

    def _coverage(
        self, intervals: Intervals, track: str, given: str, true: np.ndarray, rows: np.ndarray
    ) -> dict:
        def score(index: np.ndarray) -> dict[str, float]:
            out = {}
            for level in _LEVELS:
                low, high = (end[index] for end in intervals[track, given, level])
                out[f"coverage_{level}"] = float(((low <= true[index]) & (true[index] <= high)).mean())
                if level == 90:
                    out["mean_width"] = float((high - low).mean())
            return out

        return self._summary(score, rows)

    def bins(self, answers: Answers, intervals: Intervals) -> list[dict]:
        """Bias and errors of ours and of kcorrect, and coverage of every interval, by true redshift."""
        sky, out = self.sky, []
        z = sky.photometry.z
        for lo, hi in pairwise(BINS):
            rows = np.flatnonzero((z >= lo) & (z < hi))
            name = f"z {lo:.2f} to {hi:.2f}"
            for (track, model), predicted in answers.items():
                if model not in ("ours", "kcorrect") or len(rows) < 2:
                    continue
                whole = np.where(np.isfinite(predicted), predicted, sky.k.mean())
                metrics = self._summary(lambda i, p=whole: k_scores(p[i], sky.k[i]), rows)
                metrics = {key: metrics[key] for key in ("bias", "mae", "rmse")}
                out.append(self._row(f"{track}, {name}", model, len(rows), metrics))
        for track, given in dict.fromkeys(key[:2] for key in intervals):
            low, high = intervals[track, given, 90]
            for bin_ in coverage_by_bin(low, high, sky.k, z, BINS).itertuples():
                share = {"value": bin_.coverage, "lo": bin_.coverage_lo, "hi": bin_.coverage_hi}
                metrics = {"coverage_90": share, "mean_width": bin_.mean_width}
                name = f"z {bin_.lo:.2f} to {bin_.hi:.2f}"
                model = f"ours, intervals given {given}"
                out.append(self._row(f"{track}, {name}", model, bin_.n, metrics))
        return out

    def speeds(self, galaxies_per_second: dict[str, float]) -> list[dict]:
        """One row for each method that was timed, on one thread."""
        return [
            self._row("speed", model, len(self.sky.k), {"galaxies_per_second": speed, "threads": 1})
            for model, speed in galaxies_per_second.items()
        ]
