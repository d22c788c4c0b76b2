"""The CNN is the paper's, its files hold no code, and trimming black does not change what it says."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.core.protocols import CellClassifier
from napari_bloodcell.models import weights
from napari_bloodcell.models.cnn import classifier as cnn
from napari_bloodcell.models.cnn import network as cnn_network
from napari_bloodcell.models.cnn import training as cnn_training
from napari_bloodcell.models.cnn.classifier import ClassifierInfo, CnnClassifier
from napari_bloodcell.models.cnn.network import Architecture, CellCnn, MaxPool2x2
from napari_bloodcell.models.load import load_classifier

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("one_torch_thread")]


def discs(diameters: list[int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:128, :128] - 63.5
    cutouts = np.zeros((len(diameters), 128, 128, 3), np.uint8)
    for cutout, d in zip(cutouts, diameters, strict=True):
        inside = yy**2 + xx**2 < (d / 2) ** 2
        cutout[inside] = rng.integers(1, 256, (int(inside.sum()), 3))
    return cutouts


def small_classifier(classes=("RBC", "WBC"), head="pool", seed=0, **info) -> CnnClassifier:
    torch.manual_seed(seed)
    network = CellCnn(Architecture(head, 4, 0.2, len(classes)))
    return CnnClassifier(network, ClassifierInfo(classes=tuple(classes), **info), device="cpu")


def test_extents_of_cutouts_are_those_that_the_network_measures():
    cutouts = np.concatenate([discs([3, 20, 57, 128]), np.zeros((1, 128, 128, 3), np.uint8)])
    cutouts[0, 5, 70] = (0, 0, 1)
    measured = cnn_network.cell_extents(cnn.to_tensor(cutouts, torch.device("cpu")))
    np.testing.assert_array_equal(cnn.cutout_extents(cutouts), measured.numpy())
    assert cnn.cutout_extents(cutouts[:0]).shape == (0,)


def test_the_layers_are_those_of_fig_3():
    network = CellCnn(Architecture("flatten", 128, 0.2, 2))
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size) for c in convolutions] == [(32, (3, 3)), (64, (3, 3)), (128, (3, 3))]
    assert sum(isinstance(m, MaxPool2x2) for m in network.modules()) == 3
    assert network.dropout.p == 0.2
    assert network.dense.in_features == 14 * 14 * 128
    assert network.logits.out_features == 1


def test_three_classes_have_three_logits():
    assert CellCnn(Architecture("pool", 4, 0.2, 3)).logits.out_features == 3


@pytest.mark.parametrize("head", ["flatten", "pool"])
@pytest.mark.parametrize("is_training", [False, True])
def test_trimming_black_around_cells_changes_nothing(head, is_training, monkeypatch):
    torch.manual_seed(0)
    network = CellCnn(Architecture(head, 8, 0.0, 3)).train(is_training)
    centred = discs(range(6, 130, 4))
    shifts = np.random.default_rng(0).integers(-12, 13, (len(centred), 2))
    moved = cnn_training._shifted(centred, shifts)
    x = cnn.to_tensor(np.concatenate([centred, moved]), torch.device("cpu"))
    extents = torch.from_numpy(cnn.cutout_extents(centred)).repeat(2)
    shifts = torch.from_numpy(np.concatenate([np.zeros_like(shifts), shifts]))
    with torch.inference_mode():
        trimmed = network.describe(x, extents, shifts)
        assert trimmed.any()
        monkeypatch.setattr(cnn_network, "_LEAST_PLACES", cnn_network._PLACES)
        torch.testing.assert_close(trimmed, network.describe(x), atol=1e-5, rtol=1e-4)


def test_windows_just_hold_their_cells():
    reaches = torch.tensor([8.0, 9.0, 20.0])
    assert cnn_network._windows("flatten", reaches, None) == ([4, 5, 8], [(5, 5), (5, 5), (3, 3)])
    moved = torch.tensor([[0, 0], [0, 0], [11, -64]])
    assert cnn_network._windows("flatten", reaches, moved)[0][2] == 7  # from 41 to 95: places 5 to 11


def test_a_cell_gets_the_same_answer_in_any_company():
    classifier = small_classifier(("RBC", "WBC", "platelet"))
    cutouts = discs([10, 28, 60, 28, 90])
    alone = np.concatenate([classifier.predict(c[None]) for c in cutouts])
    np.testing.assert_allclose(classifier.predict(cutouts), alone, atol=5e-3)


def test_probabilities_are_a_row_per_cell_that_adds_up_to_one():
    for classes in (("RBC", "WBC"), ("RBC", "WBC", "platelet")):
        p = small_classifier(classes).predict(discs([20, 40]))
        assert p.shape == (2, len(classes))
        assert p.dtype == np.float32
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)


def test_the_same_classifier_is_the_same_file_each_time():
    classifier = small_classifier(("RBC", "WBC", "platelet"))
    assert len({classifier.to_bytes() for _ in range(12)}) == 1


def test_no_cutouts_give_no_probabilities():
    assert small_classifier().predict(np.zeros((0, 128, 128, 3), np.uint8)).shape == (0, 2)


def test_an_entirely_black_cutout_is_answered_with_numbers():
    assert np.isfinite(small_classifier().predict(np.zeros((1, 128, 128, 3), np.uint8))).all()


def test_threads_get_what_one_thread_gets():
    classifier = small_classifier()
    batches = [discs([20, 30, 50], seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(classifier.predict, batches))
    for batch, p in zip(batches, together, strict=True):
        np.testing.assert_allclose(p, classifier.predict(batch), atol=1e-6)


def test_it_is_a_cell_classifier():
    assert isinstance(small_classifier(), CellClassifier)


@pytest.mark.parametrize("cutouts", [np.zeros((1, 96, 96, 3), np.uint8), np.zeros((1, 128, 128, 3), np.float32)])
def test_other_cutouts_are_refused(cutouts):
    with pytest.raises(ModelError, match="128"):
        small_classifier().predict(cutouts)


def test_what_is_saved_comes_back(tmp_path):
    before = small_classifier(
        ("RBC", "WBC", "blast"), rbc_diameter_px=28.0, glass_level=235.0, data_hash="ab", settings={"seed": 1}
    )
    sha256 = before.save(tmp_path / "c.safetensors")
    after = load_classifier(tmp_path / "c.safetensors", "cpu")
    assert after.info == before.info
    assert (after.name, after.sha256, after.rbc_diameter_px) == ("c", sha256, 28.0)
    np.testing.assert_array_equal(after.predict(discs([30])), before.predict(discs([30])))


def test_float16_halves_the_file_and_hardly_changes_the_answer(tmp_path):
    before = small_classifier()
    before.save(tmp_path / "a.safetensors")
    before.save(tmp_path / "b.safetensors", dtype="float16")
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size
    after = load_classifier(tmp_path / "b.safetensors", "cpu")
    np.testing.assert_allclose(after.predict(discs([30])), before.predict(discs([30])), atol=5e-3)


def test_a_failed_save_leaves_no_half_file(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        small_classifier().save(tmp_path / "c.safetensors")
    assert list(tmp_path.iterdir()) == []


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def written(path: Path, **changes) -> Path:
    """Write a classifier whose description is changed."""
    classifier = small_classifier()
    architecture = {"head": "pool", "dense_units": 4, "dropout": 0.2, "n_classes": 2}
    described = {"architecture": architecture, "classes": ["RBC", "WBC"], **changes}
    state = {k: v.contiguous() for k, v in classifier.network.state_dict().items()}
    save_file(state, path, {"format": cnn.FORMAT, "classifier": json.dumps(described)})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["RBC", "WBC", "platelet"]},
        {"classes": ["RBC", "RBC"]},
        {"classes": [1, 2]},
        {"architecture": {"head": "resnet", "dense_units": 4, "dropout": 0.2, "n_classes": 2}},
        {"architecture": {"head": "pool", "dense_units": 5, "dropout": 0.2, "n_classes": 2}},
        {"architecture": {"head": "pool", "dense_units": 10**9, "dropout": 0.2, "n_classes": 2}},
        {"architecture": {"layers": 3}},
        {"rbc_diameter_px": -1},
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, changes):
    with pytest.raises(ModelError, match=r"c\.safetensors"):
        load_classifier(written(tmp_path / "c.safetensors", **changes), "cpu")


def test_an_unchanged_description_is_accepted(tmp_path):
    assert load_classifier(written(tmp_path / "c.safetensors"), "cpu").classes == ("RBC", "WBC")


@pytest.mark.parametrize("content", [b"", b"\x00" * 5, b"\xff" * 64, b"GIF89a" + b"\x00" * 90])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a classifier"):
        load_classifier(tmp_path / "c.safetensors", "cpu")


@pytest.mark.parametrize(
    "write", [lambda o, path: path.write_bytes(pickle.dumps(o)), torch.save], ids=["pickle", "torch"]
)
def test_a_pickled_file_is_refused_and_never_executed(tmp_path, write):
    trace, path = tmp_path / "executed", tmp_path / "c.safetensors"
    write(Bomb(trace), path)
    with pytest.raises(ModelError, match="not a classifier"):
        load_classifier(path, "cpu")
    assert not trace.exists()


def test_a_truncated_file_is_refused(tmp_path):
    path = written(tmp_path / "c.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        load_classifier(path, "cpu")


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    classifier = small_classifier()
    with torch.no_grad():
        classifier.network.dense.bias[0] = float("nan")
    classifier.save(tmp_path / "c.safetensors")
    with pytest.raises(ModelError, match="not all finite"):
        load_classifier(tmp_path / "c.safetensors", "cpu")


def test_an_unknown_name_says_what_is_allowed():
    with pytest.raises(ModelError, match='"embedded" or "paper"'):
        load_classifier("resnet50")


def test_classes_must_fit_the_network():
    with pytest.raises(ModelError, match="2 classes"):
        CnnClassifier(CellCnn(Architecture("pool", 4, 0.2, 2)), ClassifierInfo(classes=("a", "b", "c")), device="cpu")


def test_trimming_black_changes_no_gradient(monkeypatch):
    torch.manual_seed(0)
    network = CellCnn(Architecture("flatten", 8, 0.0, 3)).train()
    x = torch.from_numpy(discs([20, 60, 34])).permute(0, 3, 1, 2)
    parameters = list(network.parameters())
    trimmed = torch.autograd.grad(network(x).square().sum(), parameters)
    monkeypatch.setattr(cnn_network, "_LEAST_PLACES", cnn_network._PLACES)
    for found, whole in zip(trimmed, torch.autograd.grad(network(x).square().sum(), parameters), strict=True):
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-3)


def test_the_shipped_classifiers_say_what_they_are():
    embedded, paper = load_classifier("embedded", "cpu"), load_classifier("paper", "cpu")
    assert list(embedded.classes) == ["RBC", "WBC", "platelet"]
    assert (embedded.rbc_diameter_px, embedded.name) == (28.0, "embedded")
    assert list(paper.classes) == ["RBC", "WBC"]
    assert (paper.rbc_diameter_px, paper.glass_level) == (None, None)
    assert all(c.info.data_hash and c.info.report and c.info.settings for c in (embedded, paper))


def test_the_shipped_classifiers_are_small():
    assert sum(weights.find(file).size_bytes for file in weights.CLASSIFIERS.values()) < 8e6


@pytest.mark.parametrize("name", ["embedded", "paper"])
def test_the_shipped_classifiers_find_the_papers_white_cells(shared_data, name):
    from training import cnn_data

    if name == "paper":
        dataset = cnn_data.paper_parts(shared_data)[1]
    else:
        dataset = cnn_data._scaled_cutouts(shared_data, 1.0)
    predicted = load_classifier(name, "cpu").predict(dataset.cutouts).argmax(1)
    assert (predicted == dataset.labels).mean() >= 0.99
    missed = (predicted[dataset.labels == 1] != 1).sum()
    assert missed <= {"paper": 0, "embedded": 1}[name]  # the model card of the embedded one says so


@pytest.mark.parametrize("shape", [(2, 3, 46, 46), (1, 8, 21, 15), (1, 1, 2, 3)])
def test_the_quick_pooling_gives_what_torch_gives(shape):
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    assert torch.equal(MaxPool2x2().eval()(x), torch.nn.functional.max_pool2d(x, 2))
