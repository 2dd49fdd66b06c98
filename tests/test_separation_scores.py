"""From answers to scores: predictions meet the magnitudes and labels of their own objects."""

import numpy as np
import pandas as pd
import pytest
import separation_sample as made
import torch
from safetensors.torch import save_file

from astro_utils.metrics import classification_scores
from astro_utils.models.margformer import MargFormer
from astro_utils.results import anchors, read_metrics, write_metrics
from astro_utils.separation import scores, tables
from astro_utils.separation.inputs import FEATURES, Inputs
from astro_utils.separation.methods import BOOSTING, ENSEMBLE, OURS, PHOTOMETRY, PUBLISHED, ROBUST, TRIVIAL
from astro_utils.separation.protocol import LEAKY, partition
from astro_utils.separation.sets import TASKS, simulated_pool
from astro_utils.training import seeded

SKILLS = {BOOSTING: 1.5, PUBLISHED: 1.2, OURS: 2.5}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return simulated_pool(made.made_up(tmp_path_factory.mktemp("scores") / "compact.h5", 3000, 8))


@pytest.fixture(scope="module")
def answers(pool):
    return made.answers(pool, SKILLS)


@pytest.fixture(scope="module")
def cells(answers, pool):
    return {cell.name: cell for cell in scores.cells(answers, pool)}


@pytest.fixture(scope="module")
def metrics(answers, cells, tmp_path_factory):
    """Rows of every kind, written and read as the notebooks do."""
    rows = scores.cost_rows(answers, "simulated", "smoke")
    for cell in cells.values():
        rows += scores.score_rows(cell, "simulated", "smoke", 30)
        rows += scores.difference_rows(cell, OURS, list(cell.answers), "simulated", "smoke", 30)
    return read_metrics(write_metrics(tmp_path_factory.mktemp("scores") / "metrics.json", rows))


def one(metrics, experiment, model):
    (found,) = metrics[(metrics["experiment"] == experiment) & (metrics["model"] == model)].to_dict("records")
    return found


# --------------------------------------------------------------------------------------------------- cells


def test_every_test_of_every_task_is_a_cell(cells, pool):
    wanted = [f"Experiment {e}, {task}" for e in ("1", "2", "3") for task in TASKS]
    assert list(cells) == [*wanted, f"Experiment {LEAKY}, SGQ"]
    for cell in cells.values():
        np.testing.assert_array_equal(cell.labels, pool.labels(cell.rows, cell.task))
        np.testing.assert_array_equal(cell.groups, pool.table["field"].to_numpy()[cell.rows])
        np.testing.assert_allclose(cell.r, pool.table["model_r"].to_numpy()[cell.rows], rtol=1e-6)
        trained = "faint" if cell.experiment == "2" else "compact"
        parts = partition(pool, trained, cell.task, 1)
        np.testing.assert_array_equal(cell.rows, parts.tests[cell.experiment])
        assert set(cell.answers) == {*SKILLS, scores.seeds_averaged(OURS)}
        for per_seed in cell.answers.values():
            assert all(p.shape == (len(cell.rows), len(TASKS[cell.task])) for p in per_seed)


def test_a_shuffled_table_of_answers_gives_the_same_scores(answers, cells, pool):
    """Joined by place instead of by object, labels and magnitudes would be those of others."""
    for seed in (0, 1):
        shuffled = answers.sample(frac=1, random_state=seed)
        for cell in scores.cells(shuffled, pool):
            known = cells[cell.name]
            for name in ("rows", "labels", "r", "groups"):
                np.testing.assert_array_equal(getattr(cell, name), getattr(known, name))
            assert cell.n_train == known.n_train and set(cell.answers) == set(known.answers)
            for method, per_seed in known.answers.items():
                for mine, theirs in zip(cell.answers[method], per_seed, strict=True):
                    np.testing.assert_array_equal(mine, theirs, err_msg=f"{cell.name}, {method}")
    by_place = classification_scores(
        known.labels,
        shuffled[shuffled["set"] == LEAKY][["p_GALAXY", "p_QSO", "p_STAR"]][: len(known.labels)].to_numpy(),
    )
    assert by_place["accuracy"] < 0.5, "what a join by place would find"


def test_seeds_are_in_their_order_in_whatever_order_their_files_are(answers, pool):
    late_first = pd.concat([answers[answers["seed"] == seed] for seed in (1, 0)], ignore_index=True)
    for cell in scores.cells(late_first, pool):
        part = answers[(answers["set"] == cell.experiment) & (answers["task"] == cell.task)]
        for seed in (0, 1):
            mine = (
                part[(part["seed"] == seed) & (part["method"] == PUBLISHED)].set_index("row").loc[cell.rows]
            )
            columns = [f"p_{c}" for c in TASKS[cell.task]]
            np.testing.assert_allclose(cell.answers[PUBLISHED][seed], mine[columns])


def test_answers_of_our_networks_are_averaged_over_seeds(cells, answers, pool):
    for cell in cells.values():
        (mean,) = cell.answers[scores.seeds_averaged(OURS)]
        np.testing.assert_allclose(mean, np.mean(cell.answers[OURS], axis=0))
        np.testing.assert_allclose(mean.sum(1), 1)
    (alone,) = (c for c in scores.cells(answers[answers["seed"] == 0], pool) if c.name == "Experiment 1, SG")
    assert set(alone.answers) == set(SKILLS), "one seed has no average"


def test_seeds_that_were_tested_on_other_objects_are_refused(answers, pool):
    which = (answers["set"] == "3") & (answers["method"] == OURS) & (answers["seed"] == 1)
    changed = answers.drop(index=answers.index[which][:1])
    with pytest.raises(ValueError, match=f"{OURS}, seed 1: tested on other objects than another method"):
        list(scores.cells(changed, pool))
    changed = answers.copy()
    changed.loc[answers.index[which][0], "row"] = pool.compact[0]
    with pytest.raises(ValueError, match="tested on other objects"):
        list(scores.cells(changed, pool))


def test_answers_are_read_from_all_files(answers, tmp_path):
    categories = {name: "category" for name in ("set", "method", "trained", "task")}
    for i, (_, part) in enumerate(answers.groupby(["method", "seed", "task"])):
        part.astype(categories).to_parquet(tmp_path / f"{i}.parquet", index=False)
    found = scores.read_answers(list(tmp_path.iterdir()))
    assert all(found[name].dtype == answers[name].dtype for name in categories)
    keys = ["trained", "task", "set", "method", "seed", "row", "r"]
    first, second = (t.sort_values(keys).reset_index(drop=True)[list(answers)] for t in (found, answers))
    pd.testing.assert_frame_equal(first, second, check_dtype=False)


def test_answers_to_be_kept_are_those_of_tests_and_small(answers):
    kept = scores.compact_answers(answers)
    assert set(kept["set"]) == {"1", "2", "3", LEAKY} and (kept["row"] >= 0).all() and "seed" not in kept
    columns = ["p_GALAXY", "p_QSO", "p_STAR"]
    assert (kept[[*columns, "r"]].dtypes == np.float16).all()
    keys = ["trained", "task", "set", "method", "row"]
    wanted = answers["set"].isin(["1", "2", "3", LEAKY]) & answers["method"].isin([OURS, PUBLISHED])
    known = answers[wanted].groupby(keys)[[*columns, "r", "label"]].mean()
    assert len(kept) == len(known) == kept[keys].drop_duplicates().shape[0]
    mine = kept.set_index(keys).loc[known.index]
    np.testing.assert_allclose(mine[columns].astype(float), known[columns], atol=5e-4)
    np.testing.assert_allclose(mine["r"].astype(float), known["r"], atol=0.01)
    np.testing.assert_array_equal(mine["label"], known["label"])
    assert kept.memory_usage(deep=True).sum() / len(kept) < 32, "bytes a row"


# --------------------------------------------------------------------------------------------------- scores


def test_confusion_counts_have_true_classes_in_rows():
    labels = np.array([0, 0, 0, 1, 2, 2])
    called = np.array([0, 0, 2, 1, 2, 1])
    counts = scores.confusion_counts(labels, np.eye(3)[called], 3)
    assert counts.tolist() == [[2, 0, 1], [0, 1, 0], [0, 1, 1]]


def test_scores_are_means_over_seeds_with_counts_of_the_first(metrics, cells):
    for cell in cells.values():
        found = one(metrics, cell.name, PUBLISHED)
        known = [classification_scores(cell.labels, p) for p in cell.answers[PUBLISHED]]
        for name in known[0]:
            values = [k[name] for k in known]
            assert found[name] == pytest.approx(np.mean(values), abs=1e-6), name
            assert found[f"{name}_sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6), name
            low, high = found[f"{name}_lo"], found[f"{name}_hi"]
            # A resample is never as well calibrated as its sample: the interval of the ECE lies higher.
            assert low < high and found[name] <= high and (low <= found[name] or name == "ece"), name
        classes = TASKS[cell.task]
        counts = np.array([[found[f"true_{t}_as_{p}"] for p in classes] for t in classes])
        assert np.trace(counts) / counts.sum() == pytest.approx(known[0]["accuracy"])
        np.testing.assert_array_equal(counts.sum(1), np.bincount(cell.labels))
        assert found["seeds"] == 2 and found["n_test"] == len(cell.labels)
        recalls = [found[f"recall_{name}"] for name in classes]
        assert np.mean(recalls) == pytest.approx(found["recall"])
        assert found["n_train"] == pytest.approx(cell.n_train[PUBLISHED]) and found["n_train"] > 100


def test_the_trivial_method_calls_everything_one_class(metrics, cells):
    for cell in cells.values():
        found = one(metrics, cell.name, TRIVIAL)
        share = np.bincount(cell.labels).max() / len(cell.labels)
        assert found["accuracy"] == pytest.approx(share) and found["auc"] == pytest.approx(0.5)
        assert found["recall"] == pytest.approx(1 / len(TASKS[cell.task])) and found["n_train"] == 0
        assert one(metrics, cell.name, OURS)["accuracy"] > share + 0.2


def test_differences_are_of_the_same_objects(metrics, cells):
    for cell in cells.values():
        part = metrics[metrics["experiment"] == f"{cell.name}: difference"]
        others = [BOOSTING, PUBLISHED, scores.seeds_averaged(OURS)]
        assert part["model"].tolist() == [f"{OURS} − {other}" for other in others]
        for other in others:
            gain = one(metrics, f"{cell.name}: difference", f"{OURS} − {other}")
            both = [one(metrics, cell.name, m) for m in (OURS, other)]
            for name in ("accuracy", "nll", "auc"):
                assert gain[f"{name}_gain"] == pytest.approx(both[0][name] - both[1][name], abs=1e-6)
        assert one(metrics, f"{cell.name}: difference", f"{OURS} − {PUBLISHED}")["accuracy_gain_lo"] > 0
    assert scores.difference_rows(cell, OURS, [OURS, ENSEMBLE], "simulated", "smoke", 3) == []


def test_accuracy_by_magnitude_adds_up_to_the_whole(cells):
    cell = cells["Experiment 1, SGQ"]
    table = scores.magnitude_table(cell, [OURS, ENSEMBLE])
    assert set(table["method"]) == {OURS} and (table[["experiment", "task"]] == ["1", "SGQ"]).all(axis=None)
    filled = table[table["n"] > 0]
    shown = (cell.r >= 16) & (cell.r <= 24)
    right = (cell.answers[OURS][0].argmax(1) == cell.labels)[shown]
    assert filled["n"].sum() == len(right) > 0.9 * len(cell.labels)
    assert (filled["n"] * filled["accuracy"]).sum() == pytest.approx(right.sum())
    assert (
        (filled["accuracy_lo"] <= filled["accuracy"]) & (filled["accuracy"] <= filled["accuracy_hi"] + 1e-12)
    ).all()
    row = filled.iloc[2]
    inside = (cell.r >= row["lo"]) & (cell.r < row["hi"])
    hits = cell.answers[OURS][0].argmax(1)[inside] == cell.labels[inside]
    assert (row["n"], row["accuracy"]) == (inside.sum(), pytest.approx(hits.mean()))


def test_cost_is_of_the_trainings_on_the_compact_set(metrics, answers):
    found = one(metrics, "cost, SGQ", PUBLISHED)
    assert [found[k] for k in ("parameters", "seconds", "epochs", "best_epoch")] == [200, 2.5, 7, 5]
    part = answers[(answers["trained"] == "compact") & (answers["task"] == "SGQ")]
    assert found["n_train"] == round(part.groupby("seed")["n_train"].first().mean()) and found["seeds"] == 2
    assert found["n_test"] == part[part["set"] == "1"]["row"].nunique()
    assert set(answers[answers["trained"] == "faint"]["n_train"]).isdisjoint(part["n_train"])
    backwards = scores.cost_rows(answers[::-1], "simulated", "smoke")
    (again,) = (r for r in backwards if (r["experiment"], r["model"]) == ("cost, SGQ", PUBLISHED))
    assert again["n_train"] == found["n_train"]


# --------------------------------------------------------------------------------------------------- tables


def test_the_accuracy_table_has_what_was_printed_beside(metrics):
    table = tables.accuracy_table(metrics, anchors("margformer"))
    assert table.index.tolist() == [TRIVIAL, BOOSTING, PUBLISHED, OURS, scores.seeds_averaged(OURS)]
    assert list(table)[:4] == ["1 SG", "1 SG, printed", "1 SGQ", "1 SGQ, printed"] and table.shape[1] == 12
    assert table.loc[PUBLISHED, "3 SGQ, printed"] == "75.2" and table.loc[OURS, "3 SGQ, printed"] == "–"
    value = one(metrics, "Experiment 3, SG", OURS)["accuracy"]
    assert table.loc[OURS, "3 SG"].startswith(f"{100 * value:.1f} ± ")


def test_a_difference_beyond_its_interval_is_bold(metrics):
    table = tables.difference_table(metrics)
    assert table.index.tolist() == [BOOSTING, PUBLISHED, scores.seeds_averaged(OURS)]
    assert list(table) == [f"{e} {task}" for e in "123" for task in TASKS]
    assert table.loc[PUBLISHED].str.fullmatch(r"<b>\+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\]</b>").all()
    tied = metrics.copy()
    tied["accuracy_gain_lo"] = -0.01
    tied["accuracy_gain_hi"] = 0.5
    assert not tables.difference_table(tied).stack().str.contains("<b>").any()


def test_other_tables_say_what_the_rows_say(metrics, cells, answers):
    ablation = tables.ablation_table(metrics, [OURS, ROBUST, BOOSTING])
    assert ablation.index.tolist() == [OURS, BOOSTING]
    assert list(ablation) == [f"{e}: {name}" for e in "123" for name in ("accuracy", "NLL")]
    cost = tables.cost_table(metrics)
    assert cost.loc[OURS, ["parameters", "epochs", "kept epoch"]].tolist() == ["300", "7", "5.0"]
    n = one(metrics, "cost, SGQ", OURS)["n_train"]
    assert cost.loc[OURS, "objects trained per second"] == f"{n * 7 / 2.5:,.0f}"
    main = metrics[~metrics["experiment"].str.contains("cost|difference|published")]
    assert tables.sizes(main).endswith(f"{main['n_test'].max():,d} test objects, 1 to 2 seeds")
    counts = tables.confusion_matrices(cells.values(), "SGQ", OURS)
    assert list(counts) == ["Experiment 1", "Experiment 2", "Experiment 3"]
    cell = cells["Experiment 2, SGQ"]
    assert np.trace(counts["Experiment 2"]) == (cell.answers[OURS][0].argmax(1) == cell.labels).sum()


def keep(path, model, read):
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file({**weights, **read.tensors()}, path)


def test_kept_weights_are_read_with_what_scales_their_inputs(pool, tmp_path):
    table, images = pool.table.iloc[:50], made.stamps(pool.table.iloc[:50])
    read = Inputs.of(table)
    model = seeded(3, lambda: MargFormer(n_outputs=3, n_features=len(read.mean))).eval()
    torch.nn.init.ones_(model.head.weight)
    keep(tmp_path / "ours.safetensors", model, read)
    again, inputs = tables.load_ours(tmp_path / "ours.safetensors", 3)
    assert inputs.kind == FEATURES[1] and not again.training
    with torch.no_grad():
        expected = model(read.stamps(images), read.features(table))
        assert torch.equal(again(inputs.stamps(images), inputs.features(table)), expected)


def test_attention_is_shown_of_a_bright_and_a_faint_object_of_each_class(tmp_path):
    table = made.catalogue(900, n_fields=12)
    pool = simulated_pool(made.write(tmp_path / "compact.h5", table, made.stamps(table)))
    cell = next(
        c for c in scores.cells(made.answers(pool, {OURS: 2}, 1), pool) if c.name == "Experiment 1, SGQ"
    )
    read = Inputs.of(pool.table)
    model = seeded(3, lambda: MargFormer(n_outputs=3, n_features=len(read.mean)))
    keep(tmp_path / "ours.safetensors", model, read)
    images, maps, titles, tokens = tables.attention_example(tmp_path / "ours.safetensors", pool, cell)
    assert images.shape == (6, 5, 32, 32) and maps.shape == (6, 6, 8, 8) and len(set(tokens)) == 2
    assert [title.split(",")[0] for title in titles] == ["GALAXY"] * 2 + ["QSO"] * 2 + ["STAR"] * 2
    r = [float(title.split("= ")[1]) for title in titles]
    assert all(r[i] < r[i + 1] for i in (0, 2, 4))
    assert (maps >= 0).all() and (maps.sum((2, 3)) <= 1 + 1e-5).all()


def test_the_gain_by_the_image_is_bold_where_it_leaves_zero_out():
    cells_ = [(e, t) for e in "123" for t in TASKS]
    rows = [
        {
            "experiment": f"{scores.experiment_name(e, t)}: difference",
            "model": f"{OURS} − {other}",
            "n_test": 1000 + i,
            "accuracy_gain": 0.01 * i,
            "accuracy_gain_lo": 0.01 * (i - 2),
            "accuracy_gain_hi": 0.01 * (i + 2),
            **{f"{name}_gain{end}": -0.5 for name in ("auc", "nll") for end in ("", "_lo", "_hi")},
        }
        for i, (e, t) in enumerate(cells_)
        for other in (PUBLISHED, PHOTOMETRY)
    ]
    metrics = pd.DataFrame(rows)
    assert tables.image_gain(metrics, "3", "SGQ")["n_test"] == 1005
    shown = tables.image_gain_table(metrics)
    assert shown.index.tolist() == [scores.experiment_name(*cell) for cell in cells_]
    assert shown["accuracy [points]"].tolist()[1:4:2] == [
        "+1.00 [-1.00, +3.00]",
        "<b>+3.00 [+1.00, +5.00]</b>",
    ]
    assert shown["NLL (less is better)"].str.startswith("<b>-0.5000").all()
