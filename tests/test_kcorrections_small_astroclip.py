"""The small AstroCLIP: what is trained when, a killed run, its file, and scores of embeddings."""

import dataclasses

import numpy as np
import pytest
import torch
from kcorrection_sample import CONFIG
from safetensors.torch import save_file
from scipy.stats import rankdata

from astro_utils import training
from astro_utils.kcorrections.embedding_scores import (
    normalised,
    redshift_scores_of,
    retrieval_ranks,
    retrieval_scores,
)
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.small_astroclip import (
    ClipBudget,
    SmallAstroClip,
    load_clip,
    save_clip,
    small_images,
    train_small_astroclip,
)
from astro_utils.training import seeded

BUDGET = ClipBudget(masked_epochs=2, epochs=3, batch_size=32, learning_rate=2e-3, seed=3)


def pairs(n, seed=0):
    """Galaxies whose image and spectrum show the same two numbers: a hue and a brightness; and sky pixels."""
    rng = np.random.default_rng(seed)
    hue, bright = rng.uniform(-1, 1, n), rng.uniform(0.3, 1, n)
    y, x = np.mgrid[: CONFIG.size, : CONFIG.size] - (CONFIG.size - 1) / 2
    blob = np.exp(-(x**2 + y**2) / 30)
    colour = bright[:, None] * np.exp(hue[:, None] * np.array([-1, 0, 1]))
    images = 0.5 * colour[:, :, None, None] * blob + rng.normal(0, 0.002, (n, 3, CONFIG.size, CONFIG.size))
    wavelength = np.linspace(-1, 1, CONFIG.pixels)
    spectra = 5 * bright[:, None] * np.exp(hue[:, None] * wavelength)
    spectra = spectra + rng.normal(0, 0.1, spectra.shape)
    return images.astype(np.float32), spectra.astype(np.float32), rng.integers(12, size=n)


@pytest.fixture(scope="module")
def untrained():
    """Weights that training starts from."""
    return seeded(BUDGET.seed, CONFIG.build).state_dict()


@pytest.fixture(scope="module")
def short():
    """A short training that nothing interrupts."""
    return train_small_astroclip(*pairs(96), CONFIG, BUDGET)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---------------------------------------------------------------------------------------------- network


def test_the_default_sizes():
    model = SmallAstroClip().build().eval()
    assert SmallAstroClip().tokens == 97
    assert model.spectrum_encoder.backbone(torch.randn(2, 972)).shape == (2, 97, 64)
    assert model.image_encoder.backbone(torch.rand(2, 3, 48, 48)).shape[0::2] == (2, 96)
    assert model.embed_images(torch.rand(3, 3, 48, 48), prepare=small_images).shape == (3, 128)
    assert model.embed_spectra(torch.randn(3, 972)).shape == (3, 128)
    n = sum(p.numel() for p in model.parameters())
    assert 3e5 < n < 1e6  # "some hundred thousand"


def test_tokens_are_counted_as_the_network_cuts_them():
    for pixels in (243, 244, 250, 251, 972):
        config = dataclasses.replace(CONFIG, pixels=pixels)
        assert config.build().spectrum_encoder.backbone(torch.randn(1, pixels)).shape[1] == config.tokens


def test_the_network_knows_where_a_patch_is():
    model = seeded(1, CONFIG.build).eval()
    image = torch.zeros(1, 3, 24, 24)
    image[:, :, :8, :8] = 1
    a, b = (model.embed_images(picture) for picture in (image, image.roll((8, 8), (2, 3))))
    assert not torch.allclose(a, b, atol=1e-4)


def test_pictures_are_between_black_and_white():
    images, _, _ = pairs(8)
    found = small_images(torch.from_numpy(images * 100))
    assert found.shape == images.shape
    assert (found.min(), found.max()) == (0, 1)
    # Red comes first: the galaxy with the reddest hue has more of z.
    red = small_images(torch.tensor([0.1, 0.2, 0.8]).view(1, 3, 1, 1))[0, :, 0, 0]
    assert red[0] > red[1] > red[2]


# ---------------------------------------------------------------------------------------------- training


def test_the_backbone_of_spectra_learns_first_and_is_frozen_then(untrained, short, tmp_path):
    now = weights(short.model)
    moved = {name for name in now if not torch.equal(now[name], untrained[name])}
    for part in ("image_encoder.backbone.", "image_encoder.mlp.", "spectrum_encoder.mlp."):
        assert any(name.startswith(part) for name in moved), part
    stage = torch.load(_first_stage(tmp_path), weights_only=True)["best"]
    prefix = "spectrum_encoder.backbone."
    assert stage.keys() == {name.removeprefix(prefix) for name in now if name.startswith(prefix)}
    for name, tensor in stage.items():
        assert torch.equal(tensor, now[prefix + name]), name  # as the first stage left it
        assert prefix + name in moved or "running" in name, name
    assert len(short.masked.train_loss) == BUDGET.masked_epochs
    assert len(short.contrastive.train_loss) == BUDGET.epochs
    assert not short.model.training
    trains = {name: p.requires_grad for name, p in short.model.named_parameters()}
    assert not any(value for name, value in trains.items() if name.startswith(prefix))
    assert all(value for name, value in trains.items() if not name.startswith(prefix))


def _first_stage(folder):
    train_small_astroclip(*pairs(96), CONFIG, dataclasses.replace(BUDGET, epochs=1), checkpoints=folder)
    return folder / "masked.pt"


def test_training_depends_on_its_seed_alone(short):
    torch.manual_seed(12345)
    again = train_small_astroclip(*pairs(96), CONFIG, BUDGET)
    assert_same(weights(again.model), weights(short.model))
    other = train_small_astroclip(*pairs(96), CONFIG, dataclasses.replace(BUDGET, seed=4))
    assert not torch.equal(next(other.model.parameters()), next(short.model.parameters()))


class Killed(Exception):
    """Stands for the end of the process."""


def killed_after(n_epochs, monkeypatch, folder):
    """Train until so many epochs, of both stages together, have been written; then stop."""
    written, save = [], training.save_checkpoint

    def save_and_perhaps_die(path, *arguments, **more):
        save(path, *arguments, **more)
        written.append(path)
        if len(written) == n_epochs:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "save_checkpoint", save_and_perhaps_die)
        with pytest.raises(Killed):
            train_small_astroclip(*pairs(96), CONFIG, BUDGET, checkpoints=folder)
    return written


@pytest.mark.parametrize("n_epochs", [1, 2, 4])
def test_a_killed_run_goes_on_to_the_same_weights(short, monkeypatch, tmp_path, n_epochs):
    written = killed_after(n_epochs, monkeypatch, tmp_path)
    assert written[-1].name == ("masked.pt" if n_epochs <= BUDGET.masked_epochs else "pairs.pt")
    saved = []
    save = training.save_checkpoint
    monkeypatch.setattr(
        training, "save_checkpoint", lambda path, *a, **k: (saved.append(path), save(path, *a, **k))
    )
    resumed = train_small_astroclip(*pairs(96), CONFIG, BUDGET, checkpoints=tmp_path)
    assert len(saved) == BUDGET.masked_epochs + BUDGET.epochs - n_epochs  # no epoch is done twice
    assert_same(weights(resumed.model), weights(short.model))
    assert resumed.contrastive == short.contrastive


def test_pairs_are_learned_where_images_show_what_spectra_show():
    images, spectra, groups = pairs(320, seed=1)
    budget = ClipBudget(masked_epochs=1, epochs=14, batch_size=32, learning_rate=4e-3, seed=0)
    config = dataclasses.replace(CONFIG, vision_dim=32, dim=32)
    learned = train_small_astroclip(images, spectra, groups, config, budget)
    no_skill = np.log(32)
    assert learned.contrastive.train_loss[-1] < 0.75 * no_skill
    assert learned.contrastive.best_loss < 0.85 * no_skill
    # On other galaxies: images find their spectra, and embeddings tell the hue.
    images, spectra, groups = pairs(100, seed=2)
    a = learned.model.embed_images(images, prepare=small_images).numpy()
    b = learned.model.embed_spectra(spectra).numpy()
    assert np.median(retrieval_ranks(a, b)) < 15
    assert np.median(retrieval_ranks(a, np.roll(b, 1, 0))) > 25


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            lambda i, s: (i[:, :, :20, :20], s),
            r"images \(96, 3, 20, 20\) and spectra .*expected \(N, 3, 24, 24\)",
        ),
        (lambda i, s: (i[:, :2], s), r"images \(96, 2, 24, 24\)"),
        (lambda i, s: (i, s[:, :200]), r"spectra \(96, 200\); expected .* \(N, 243\)"),
        (lambda i, s: (i, s[:90]), r"spectra \(90, 243\); expected .* of the same N galaxies"),
    ],
)
def test_other_sizes_are_refused(change, shown):
    images, spectra, groups = pairs(96)
    with pytest.raises(ValueError, match=shown):
        train_small_astroclip(*change(images, spectra), groups, CONFIG, BUDGET)


# ---------------------------------------------------------------------------------------------- file


def test_a_file_gives_the_network_back(short, tmp_path):
    path = save_clip(tmp_path / "clip.safetensors", short.model, CONFIG)
    model, config = load_clip(path)
    assert config == CONFIG
    assert not model.training
    assert_same(weights(model), weights(short.model))
    images, spectra, _ = pairs(12, seed=5)
    for name, values in (("embed_images", images), ("embed_spectra", spectra)):
        assert torch.equal(getattr(model, name)(values), getattr(short.model, name)(values))


def test_other_files_are_refused(short, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such file of weights"):
        load_clip(tmp_path / "none.safetensors")
    (tmp_path / "words").write_text("not weights at all")
    with pytest.raises(ValueError, match=r"words: not the weights of a small AstroCLIP"):
        load_clip(tmp_path / "words")
    save_file({"weight": torch.ones(2)}, tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare: not the weights of a small AstroCLIP"):
        load_clip(tmp_path / "bare")
    save_clip(tmp_path / "wrong", short.model, dataclasses.replace(CONFIG, dim=32))
    with pytest.raises(ValueError, match=r"(?s)wrong: not the weights .*size mismatch"):
        load_clip(tmp_path / "wrong")
    whole = save_clip(tmp_path / "whole", short.model, CONFIG).read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half: not the weights"):
        load_clip(tmp_path / "half")


# ---------------------------------------------------------------------------------------------- scores


def test_ranks_by_hand():
    library = np.eye(4)
    queries = np.array([[9, 1, 0, 0], [3, 2, 0, 0], [4, 3, 2, 1], [1, 2, 3, 0.5]], dtype=float)
    assert retrieval_ranks(queries, library).tolist() == [1, 2, 3, 4]


def test_ranks_are_those_of_cosines_and_know_no_scale():
    rng = np.random.default_rng(0)
    library, queries = rng.normal(size=(2, 60, 5))
    queries = library + 1.5 * queries
    found = retrieval_ranks(queries, library)
    cosines = (
        (queries @ library.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(library, axis=1)
    )
    np.testing.assert_array_equal(found, [rankdata(-row)[i] for i, row in enumerate(cosines)])
    lengths = rng.lognormal(0, 3, (2, 60, 1))
    np.testing.assert_array_equal(retrieval_ranks(queries * lengths[0], library * lengths[1]), found)
    np.testing.assert_allclose(np.linalg.norm(normalised(queries), axis=1), 1)


def test_half_of_the_equally_similar_count_as_better():
    library = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    queries = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert retrieval_ranks(queries, library).tolist() == [2, 2, 2, 4]


def test_an_embedding_that_is_the_same_for_all_finds_nobody():
    same = np.tile(np.random.default_rng(1).normal(size=(1, 128)), (101, 1)).astype(np.float32)
    ranks = retrieval_ranks(same, same)
    assert (ranks == 51).all()
    scores = retrieval_scores(ranks, np.arange(101) % 10, 20)
    assert scores["top_1"]["value"] == scores["top_10"]["value"] == 0


def test_ranks_of_chance_and_their_scores():
    rng = np.random.default_rng(2)
    ranks = retrieval_ranks(*rng.normal(size=(2, 500, 8)))
    found = retrieval_scores(ranks, rng.integers(25, size=500), 200)
    assert found["top_10"]["value"] == pytest.approx(10 / 500, abs=0.02)
    assert found["median_rank"]["value"] == pytest.approx(250, abs=40)
    assert found["median_rank"]["lo"] < 250.5 < found["median_rank"]["hi"]
    by_hand = retrieval_scores(np.array([1, 1, 10, 11]), np.arange(4), 50)
    assert [by_hand[name]["value"] for name in ("top_1", "top_10", "median_rank")] == [0.5, 0.75, 5.5]
    assert all(one["lo"] <= one["value"] <= one["hi"] for one in by_hand.values())


def test_unlike_libraries_are_refused():
    with pytest.raises(ValueError, match=r"queries \(3, 2\) and library \(4, 2\); expected the same"):
        retrieval_ranks(np.ones((3, 2)), np.ones((4, 2)))


def test_redshifts_of_neighbours():
    rng = np.random.default_rng(3)
    z_library, z = rng.uniform(0, 0.4, 2000), rng.uniform(0.01, 0.39, 300)
    groups = rng.integers(20, size=300)

    def seen(values):
        return np.stack([np.cos(4 * values), np.sin(4 * values)], 1)

    found = redshift_scores_of(seen(z_library), z_library, seen(z), z, groups, k=4, n_bootstrap=50)
    assert found["r2"]["value"] > 0.9999
    assert found["mae"]["value"] < 2e-3
    assert found["r2"]["lo"] <= found["r2"]["value"] <= found["r2"]["hi"]
    blind = rng.normal(size=(2300, 3))
    chance = redshift_scores_of(blind[:2000], z_library, blind[2000:], z, groups, k=64, n_bootstrap=50)
    assert abs(chance["r2"]["value"]) < 0.1
    # Galaxies of the library are found at no distance, and alone decide.
    own = redshift_scores_of(blind[:2000], z_library, blind[:300], z_library[:300], groups, n_bootstrap=5)
    assert own["rmse"]["value"] == 0


def test_neighbours_are_weighted_with_their_inverse_distance():
    library, z_library = np.array([[0.0], [3.0], [100.0]]), np.array([0.1, 0.4, 9.0])
    queries, z = np.array([[1.0], [2.5]]), np.array([0.3, 0.2])
    found = redshift_scores_of(library, z_library, queries, z, np.zeros(2), k=2, n_bootstrap=5)
    expected = k_scores(np.array([(0.1 * 2 + 0.4) / 3, (0.1 + 0.4 * 5) / 6]), z)
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(expected)
