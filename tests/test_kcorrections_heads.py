"""The published heads: sizes and formulas by hand, the training step by step, neighbours and trees."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from astro_utils.kcorrections import heads
from astro_utils.kcorrections.heads import KINDS, PublishedHead, neighbour_sweep
from astro_utils.models.kcorrection_heads import AttentionHead, MLPHead, ResidualHead
from astro_utils.splits import hold_out
from astro_utils.training import seeded

NETWORKS = KINDS[:4]

#: The narrow residual network takes long to find the scale of a target that is not standardised.
OPTIONS = {
    "MLP": {"epochs": 5},
    "MLP 64": {"epochs": 20},
    "residual MLP": {"epochs": 40, "standardise_target": True},
    "self-attention": {"epochs": 5},
}


def galaxies(n=700, n_features=12, seed=0):
    """Embeddings of which three directions tell K, the three in unlike units."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_features))
    k = 0.1 + 0.1 * np.tanh(x[:, 0] + x[:, 1]) + 0.05 * x[:, 2]
    return x * np.geomspace(0.1, 100, n_features) + 3, k, rng.integers(30, size=n)


@cache
def fitted(kind):
    return PublishedHead(kind, **OPTIONS.get(kind, {})).fit(*galaxies())


def r2(predicted, true):
    return 1 - np.square(predicted - true).sum() / np.square(true - true.mean()).sum()


def n_weights(model):
    return sum(p.numel() for p in model.parameters())


def randomised(model):
    """Set every weight and running mean at random, variances above zero, and leave the model in eval mode."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return model.eval()


def arrays(model):
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w, name, x):
    scaled = (x - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def relu(x):
    return np.maximum(x, 0)


def test_sizes_at_1024_inputs():
    mlp = (1024 + 1) * 1024 + (1024 + 1) * 512 + (512 + 1) * 512 + (512 + 1) * 256 + 257
    assert n_weights(MLPHead(n_inputs=1024)) == mlp == 1_968_641
    assert n_weights(MLPHead.early(n_inputs=1024)) == 1025 * 64 + 65 * 64 + 65 == 69_825
    pair = 17 * 16 + 2 * 16  # linear and batch norm
    residual = 1025 * 16 + 32 + 3 * 2 * pair + 2 * pair + 17
    assert n_weights(ResidualHead(n_inputs=1024)) == residual == 18_881
    attention = 1025 * 512 + 4 * (32 * 32 + 32) + 513 * 256 + 257
    assert n_weights(AttentionHead(n_inputs=1024)) == attention == 660_609


@pytest.mark.parametrize(
    ("head", "rates"),
    [(MLPHead, [0.2] * 4), (MLPHead.early, [0.1] * 2), (ResidualHead, [0.2] * 3), (AttentionHead, [0.1] * 2)],
)
def test_one_number_for_a_galaxy_and_the_published_dropout(head, rates):
    model = head(n_inputs=5).eval()
    assert model(torch.zeros(7, 5)).shape == (7,)
    assert model(torch.zeros(1, 5)).shape == (1,)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == rates


def test_formula_of_the_perceptron():
    model, x = randomised(MLPHead(n_inputs=4, hidden=(6, 3))), torch.randn(5, 4)
    w = arrays(model)
    hidden = relu(linear(w, "layers.3", relu(linear(w, "layers.0", x.double().numpy()))))
    expected = linear(w, "layers.6", hidden)[:, 0]
    np.testing.assert_allclose(model(x).detach(), expected, rtol=1e-4, atol=1e-5)


def test_formula_of_the_residual_network():
    model, x = randomised(ResidualHead(n_inputs=4, hidden=(6, 3))), torch.randn(5, 4)
    w, y = arrays(model), x.double().numpy()
    for start in (0, 4):  # linear, batch norm, ReLU, block; no ReLU after the sum
        y = relu(norm(w, f"layers.{start + 1}", linear(w, f"layers.{start}", y)))
        block = f"layers.{start + 3}.layers"
        inner = relu(norm(w, f"{block}.1", linear(w, f"{block}.0", y)))
        y = y + norm(w, f"{block}.5", linear(w, f"{block}.4", inner))
    expected = linear(w, "layers.8", y)[:, 0]
    np.testing.assert_allclose(model(x).detach(), expected, rtol=1e-4, atol=1e-4)


def test_formula_of_the_attention():
    model, x = randomised(AttentionHead(n_inputs=4, hidden=(256, 5))), torch.randn(3, 4)
    w = arrays(model)
    tokens = relu(linear(w, "first.0", x.double().numpy())).reshape(3, 16, 16)
    mapped = tokens @ w["attention.in_proj_weight"].T + w["attention.in_proj_bias"]
    q, k, v = (part.reshape(3, 16, 8, 2) for part in np.split(mapped, 3, axis=2))
    scores = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(2))
    scores /= scores.sum(3, keepdims=True)
    mixed = linear(w, "attention.out_proj", np.einsum("bhqk,bkhd->bqhd", scores, v).reshape(3, 16, 16))
    expected = linear(w, "last.3", relu(linear(w, "last.0", mixed.reshape(3, 256))))[:, 0]
    for mode in (model, lambda x: model(x.requires_grad_())):  # torch has two routes to attention
        np.testing.assert_allclose(mode(x).detach(), expected, rtol=1e-3, atol=1e-4)


def test_the_third_width_of_the_attention_is_ignored():
    two, three = (
        seeded(0, lambda hidden=hidden: AttentionHead(n_inputs=4, hidden=hidden))
        for hidden in ((128, 8), (128, 8, 4))
    )
    torch.testing.assert_close(two.state_dict(), three.state_dict())


def test_widths_that_cannot_be():
    for head in (MLPHead, ResidualHead):
        for hidden in ((), (8, 0), (8, 2.5)):
            with pytest.raises(ValueError, match="at least 1, integers above 0"):
                head(n_inputs=4, hidden=hidden)
    with pytest.raises(ValueError, match=r"\[1024\]; expected at least 2"):
        AttentionHead(n_inputs=4, hidden=(1024,))
    with pytest.raises(ValueError, match="width 100 is not divisible by 16 tokens"):
        AttentionHead(n_inputs=4, hidden=(100, 8))
    with pytest.raises(ValueError, match="width 16 makes tokens of 1, not divisible by 8 heads"):
        AttentionHead(n_inputs=4, hidden=(16, 8))


def test_all_learn_and_networks_ignore_what_tells_nothing():
    x, k, _ = galaxies(400, seed=1)
    score = {kind: r2(fitted(kind).predict(x), k) for kind in KINDS}
    assert min(score.values()) > 0.5
    # Three directions of twelve matter: a distance in all twelve does not know which.
    assert all(score[kind] > score["nearest neighbours"] + 0.1 for kind in NETWORKS), score


def test_training_is_adam_on_squared_errors_in_batches_of_64():
    (x, k, groups), epochs, seed = galaxies(), 3, 5
    head = PublishedHead("MLP 64", epochs=epochs, seed=seed).fit(x, k, groups)
    assert head.history.best_epoch == epochs - 1  # so that the last weights are the ones to compare with
    train = torch.as_tensor(~head.validation)
    scaled = torch.as_tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    inputs, target = scaled[train], torch.as_tensor(k, dtype=torch.float32)[train]
    model = seeded(seed, lambda: MLPHead.early(n_inputs=12)).train()
    adam, order = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(epochs):
            for index in torch.randperm(len(inputs), generator=order).split(64):
                adam.zero_grad()
                nn.functional.mse_loss(model(inputs[index]), target[index]).backward()
                adam.step()
    with torch.no_grad():
        np.testing.assert_allclose(head.predict(x), model.eval()(scaled), atol=1e-5)


def test_whole_groups_are_held_out_and_never_trained_on():
    x, k, groups = galaxies()
    head = PublishedHead("MLP 64", epochs=1).fit(x, k, groups)
    assert not set(groups[head.validation]) & set(groups[~head.validation])
    assert len(set(groups[head.validation])) == round(0.15 * 30)
    wrong = np.where(head.validation, 9.0, k)
    np.testing.assert_array_equal(
        PublishedHead("MLP 64", epochs=1).fit(x, wrong, groups).predict(x), head.predict(x)
    )


def test_the_best_epoch_is_kept_and_all_are_run():
    x, k, groups = galaxies()
    held = hold_out(groups, 0.15, 0)
    k = np.where(held, 0.2 - k, k)  # what is learned from the others is wrong for these: training spoils it
    head = PublishedHead("MLP 64", epochs=12).fit(x, k, groups)
    best = head.history.best_epoch
    assert len(head.history.train_loss) == 12
    assert best == np.argmin(head.history.validation_loss) < 8
    stopped = PublishedHead("MLP 64", epochs=best + 1).fit(x, k, groups)
    np.testing.assert_array_equal(stopped.predict(x), head.predict(x))


def test_the_seed_decides_and_torch_is_left_as_it_was():
    x, k, groups = galaxies()
    before = torch.get_rng_state()
    first, second, other = (
        PublishedHead("residual MLP", epochs=2, seed=seed).fit(x, k, groups) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    drawn = first.confidence(x)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        np.testing.assert_array_equal(second.confidence(x), drawn)
    assert np.abs(first.predict(x) - other.predict(x)).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", NETWORKS)
def test_only_dropout_is_random_and_only_in_confidence(kind):
    x = galaxies()[0]
    head = fitted(kind)
    weights, predicted = {n: t.clone() for n, t in head._network.state_dict().items()}, head.predict(x)
    mean, sd = head.confidence(x)
    assert mean.shape == sd.shape == predicted.shape
    assert sd.min() > 0
    assert np.abs(mean - predicted).max() > 0
    assert np.corrcoef(mean, predicted)[0, 1] > 0.9
    np.testing.assert_array_equal(head.predict(x), predicted)
    torch.testing.assert_close(head._network.state_dict(), weights, rtol=0, atol=0)
    dropouts = [m for m in head._network.modules() if isinstance(m, nn.Dropout)]
    rates = [m.p for m in dropouts]
    try:
        for module in dropouts:
            module.p = 0.0
        mean, sd = head.confidence(x, passes=3)
    finally:
        for module, rate in zip(dropouts, rates, strict=True):
            module.p = rate
    if kind == "self-attention":  # drops attention weights, too
        assert sd.min() > 0
    else:
        np.testing.assert_allclose(sd, 0, atol=1e-9)
        np.testing.assert_allclose(mean, predicted, atol=1e-9)


def test_passes_are_drawn_one_after_another():
    x = galaxies()[0][:20]
    head = fitted("MLP 64")
    two, three = (head.confidence(x, passes=n) for n in (2, 3))
    first, second = two[0] - two[1], two[0] + two[1]  # of two, mean and deviation give both, but not in order
    third = 3 * three[0] - first - second
    expected = np.std([first, second, third], axis=0)
    np.testing.assert_allclose(three[1], expected, rtol=1e-6)


def test_a_standardised_target_makes_units_irrelevant():
    x, k, groups = galaxies()
    plain, scaled = (
        PublishedHead("MLP 64", epochs=2, standardise_target=True).fit(x, target, groups)
        for target in (k, 500 * k - 7)
    )
    np.testing.assert_allclose(scaled.predict(x), 500 * plain.predict(x) - 7, atol=0.01)
    np.testing.assert_allclose(scaled.confidence(x)[1], 500 * plain.confidence(x)[1], rtol=1e-3, atol=1e-4)


def test_single_precision_and_a_constant_feature_change_nothing():
    x, k, groups = galaxies()
    for kind in ("MLP 64", "gradient boosting", "nearest neighbours"):
        single = PublishedHead(kind, epochs=2).fit(x.astype(np.float32), k, groups)
        predicted = single.predict(x.astype(np.float32))
        wide = np.column_stack([x, np.full(len(x), 4.0)])
        assert predicted.dtype == np.float64
        if kind != "MLP 64":  # one more input is another network
            constant = PublishedHead(kind).fit(wide, k, groups).predict(wide)
            np.testing.assert_allclose(predicted, constant, atol=0.02)
        else:
            double = PublishedHead(kind, epochs=2).fit(x, k, groups).predict(x)
            np.testing.assert_allclose(predicted, double, atol=1e-4)


def test_a_last_batch_of_one_galaxy():
    x, k, _ = galaxies(76)  # 11 of 76 groups are held out, 65 galaxies train
    head = PublishedHead("residual MLP", epochs=1).fit(x, k, np.arange(76))
    assert (~head.validation).sum() == 65
    assert np.isfinite(head.predict(x)).all()


def test_leaves_have_xgboosts_ridge_and_may_hold_one_galaxy():
    x, k = np.array([[0.0], [1.0]]), np.array([-1.0, 1.0])
    predicted = PublishedHead("gradient boosting").fit(x, k, np.arange(2)).predict(x)
    # A leaf of one galaxy with residual r gives r / (1 + 1), of which a tenth is added, a hundred times.
    np.testing.assert_allclose(predicted, k * (1 - 0.95**100), rtol=1e-5)


def test_trees_are_three_splits_deep():
    bits = np.array(np.meshgrid(*[[0.0, 1.0]] * 4)).reshape(4, -1).T.repeat(20, 0)
    parity = np.prod(2 * bits - 1, axis=1)
    for used, left in ((4, 1 / 16), (3, 0)):
        k = bits[:, :used].prod(1)
        error = k - PublishedHead("gradient boosting").fit(bits, k, np.arange(len(k))).predict(bits)
        # No sum of trees of three splits has anything of a product of four, which is a 16th of this target.
        assert np.mean(parity * error) == pytest.approx(left, abs=1e-6)
        assert np.abs(error).max() < (0.3 if left else 0.01)


def test_neighbours_are_weighted_by_inverse_distance():
    x, k, groups = galaxies()
    new = np.concatenate([galaxies(60, seed=2)[0], x[:5]])
    for neighbours in (1, 64):
        scikit = make_pipeline(StandardScaler(), KNeighborsRegressor(neighbours, weights="distance"))
        head = PublishedHead("nearest neighbours", neighbours=neighbours).fit(x, k, groups)
        np.testing.assert_allclose(head.predict(new), scikit.fit(x, k).predict(new), rtol=1e-12)


def test_a_sweep_over_neighbours_is_each_by_itself(monkeypatch):
    x, k, groups = galaxies(n_features=5)
    x[1] = x[0]  # two K at no distance
    new = np.concatenate([galaxies(60, 5, seed=2)[0], x[:5]])
    ks = (64, 1, 3, 300, 10)
    monkeypatch.setattr(heads, "_BLOCK", 23)
    swept = neighbour_sweep(x, k, new, ks)
    assert swept.shape == (5, 65)
    for row, n in zip(swept, ks, strict=True):
        alone = PublishedHead("nearest neighbours", neighbours=n).fit(x, k, groups).predict(new)
        # Which of two twins is the nearest one is open.
        compared = np.delete(np.arange(65), (60, 61)) if n == 1 else np.arange(65)
        np.testing.assert_allclose(row[compared], alone[compared], rtol=1e-9)
    np.testing.assert_allclose(swept[ks.index(3)][60:62], k[:2].mean())


def test_more_neighbours_first_help_and_then_blur():
    (x, k, _), (new, true, _) = galaxies(n_features=5), galaxies(300, 5, seed=3)
    rng = np.random.default_rng(0)
    one, ten, everyone = (
        r2(p, true) for p in neighbour_sweep(x, k + rng.normal(0, 0.05, 700), new, (1, 10, 700))
    )
    assert everyone < one < ten


def test_input_that_cannot_be():
    x, k, groups = galaxies(100)
    with pytest.raises(ValueError, match="kind is 'XGBoost'; expected one of"):
        PublishedHead("XGBoost")
    head = PublishedHead("nearest neighbours")
    hole = x.copy()
    hole[4, 2] = np.nan
    with pytest.raises(ValueError, match="embedding of galaxy 4 is not all finite"):
        head.fit(hole, k, groups)
    with pytest.raises(ValueError, match=r"embeddings of shape \(100,\)"):
        head.fit(k, k, groups)
    with pytest.raises(ValueError, match=r"k of shape \(100, 1\); expected \(100,\)"):
        head.fit(x, k[:, None], groups)
    with pytest.raises(ValueError, match="k of galaxy 7 is inf"):
        head.fit(x, np.where(np.arange(100) == 7, np.inf, k), groups)
    with pytest.raises(ValueError, match=r"groups of shape \(99,\)"):
        head.fit(x, k, groups[1:])
    with pytest.raises(ValueError, match="64 neighbours; expected from 1 to 50"):
        head.fit(x[:50], k[:50], groups[:50])
    with pytest.raises(ValueError, match="one group cannot be on both sides"):
        PublishedHead("MLP 64").fit(x, k, np.zeros(100))
    with pytest.raises(ValueError, match="cannot be standardised"):
        PublishedHead("MLP 64", standardise_target=True).fit(x, np.ones(100), groups)
    head.fit(x, k, groups)
    with pytest.raises(ValueError, match="11 features; fitted to 12"):
        head.predict(x[:, 1:])
    for kind in KINDS[4:]:
        with pytest.raises(ValueError, match=f"{kind} has no dropout"):
            PublishedHead(kind).fit(x, k, groups).confidence(x)
    with pytest.raises(ValueError, match="1 passes; expected at least 2"):
        fitted("MLP 64").confidence(x, passes=1)
    for ks, message in (
        ([3, 101], "101 neighbours; expected from 1 to 100"),
        ([0], "0 neighb"),
        ([], "no num"),
    ):
        with pytest.raises(ValueError, match=message):
            neighbour_sweep(x, k, x, ks)
    with pytest.raises(ValueError, match="11 features of test galaxies; expected 12"):
        neighbour_sweep(x, k, x[:, 1:], [3])
