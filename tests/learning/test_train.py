"""Training learns, reports honestly, can be repeated, and refuses what cannot be learned from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_bloodcell.cli.main import main
from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.learning.dataset import LabelledCutouts, Parts
from napari_bloodcell.learning.reports import TrainingReport, figures_of_probabilities
from napari_bloodcell.learning.train import iter_train, train
from napari_bloodcell.learning.training_set import TrainingSet, TypedCell
from napari_bloodcell.models.cnn import training as cnn_training
from napari_bloodcell.models.cnn.classifier import ClassifierInfo, CnnClassifier
from napari_bloodcell.models.cnn.network import Architecture, CellCnn
from napari_bloodcell.models.cnn.training import initial_network
from napari_bloodcell.models.load import load_classifier

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("one_torch_thread")]

# With 8 dense units two seeds of five died out (every ReLU at 0); with 32 none did.
QUICK = TrainParams.quick(epochs=3, batch_size=16, learning_rate=3e-3, dense_units=32, wbc_augmentation=2, device="cpu")


def pink_and_violet(n_rbc=24, n_wbc=12, seed=0, names=("RBC", "WBC"), **kind) -> LabelledCutouts:
    """Return small squares: pink ones, and violet ones a little larger."""
    rng = np.random.default_rng(seed)
    cutouts = np.zeros((n_rbc + n_wbc, 128, 128, 3), np.uint8)
    labels = np.repeat([0, 1], [n_rbc, n_wbc])
    for cutout, label in zip(cutouts, labels, strict=True):
        r = (6, 9)[label] + rng.integers(0, 3)
        colour = np.array([(220, 150, 160), (90, 50, 150)][label])
        cutout[64 - r : 64 + r, 64 - r : 64 + r] = np.clip(colour + rng.integers(-15, 16, (2 * r, 2 * r, 3)), 1, 255)
    return LabelledCutouts(cutouts, labels, names, **kind)


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return train(pink_and_violet(), params=QUICK.model_copy(update={"epochs": 12}))


def test_training_tells_pink_from_violet(trained):
    fresh = pink_and_violet(seed=99)
    predicted = trained.classifier.predict(fresh.cutouts).argmax(1)
    assert (predicted == fresh.labels).mean() >= 0.95


def test_the_report_has_the_three_parts_and_every_class(trained):
    assert list(trained.report.parts) == ["train", "val", "test"]
    for part in trained.report.parts.values():
        assert set(part.per_class) == {"RBC", "WBC"}
        assert np.sum(part.confusion) == part.n
        assert np.isfinite(part.loss)


def test_the_report_is_kept_in_the_file(trained, tmp_path):
    trained.classifier.save(tmp_path / "mine.safetensors")
    info = load_classifier(tmp_path / "mine.safetensors", "cpu").info
    assert info.report == json.loads(json.dumps(trained.report.to_dict(with_cutouts=False)))
    assert info.data_hash == pink_and_violet().content_hash()


def test_progress_has_the_figures_of_each_epoch():
    payloads = [s.payload for s in iter_train(pink_and_violet(), params=QUICK) if s.payload is not None]
    assert [e.number for e in payloads] == [1, 2, 3]
    assert all(0 <= e.val_accuracy <= 1 and np.isfinite(e.train_loss) for e in payloads)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = (train(pink_and_violet(), params=QUICK.model_copy(update={"epochs": 1})) for _ in range(2))
    assert torch.rand(1) == expected
    assert one.report.history == other.report.history
    np.testing.assert_array_equal(*(t.classifier.predict(pink_and_violet(4, 4).cutouts) for t in (one, other)))


def test_training_can_be_stopped_between_epochs():
    work = iter_train(pink_and_violet(), params=QUICK)
    next(work)
    work.close()


def test_patience_ends_training_early():
    dataset = pink_and_violet()
    wrong = replace(dataset, labels=1 - dataset.labels)
    params = QUICK.model_copy(update={"epochs": 30, "patience": 2, "wbc_augmentation": 1})
    training = train(Parts(dataset, wrong, dataset), params=params)
    assert len(training.report.history) == training.report.best_epoch + 2 < 30


def test_fine_tuning_begins_with_what_the_weights_know(trained):
    params = QUICK.model_copy(update={"epochs": 1, "learning_rate": 1e-6, "fine_tune": "all"})
    tuned = train(pink_and_violet(seed=3), params=params, start=trained.classifier)
    cutouts = pink_and_violet(seed=99).cutouts
    np.testing.assert_allclose(tuned.classifier.predict(cutouts), trained.classifier.predict(cutouts), atol=0.02)
    assert tuned.classifier.info.settings["fine_tuned_from"] == trained.classifier.sha256


def test_fine_tuning_to_a_further_class_keeps_the_old_ones(trained):
    network = initial_network(("RBC", "WBC", "blast"), QUICK, trained.classifier).eval()
    x = torch.from_numpy(pink_and_violet(4, 4).cutouts).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        new, old = network(x), trained.classifier.network(x)
    torch.testing.assert_close(new[:, 1:2] - new[:, :1], old, atol=1e-4, rtol=1e-4)


def test_swapping_two_classes_swaps_what_is_known(trained):
    network = initial_network(("WBC", "RBC"), QUICK, trained.classifier).eval()
    x = torch.from_numpy(pink_and_violet(4, 4).cutouts).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        torch.testing.assert_close(network(x), -trained.classifier.network(x), atol=1e-4, rtol=1e-4)


def test_fine_tuning_on_another_scale_is_refused(trained):
    with pytest.raises(TrainingError, match="rbc_diameter_px"):
        train(pink_and_violet(rbc_diameter_px=28.0), params=QUICK, start=trained.classifier)


def test_one_class_is_refused():
    dataset = pink_and_violet(8, 0)
    with pytest.raises(TrainingError, match="two types"):
        train(LabelledCutouts(dataset.cutouts, dataset.labels, ("RBC",)), params=QUICK)


def test_a_class_without_cells_is_named():
    with pytest.raises(TrainingError, match="'WBC'"):
        train(pink_and_violet(8, 0), params=QUICK)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="no folder"):
        train(tmp_path / "nothing", params=QUICK)


def test_parts_of_different_classes_are_refused():
    a, b = pink_and_violet(), pink_and_violet(names=("RBC", "blast"))
    with pytest.raises(TrainingError, match="val part differs"):
        train(Parts(a, b, a), params=QUICK)


def test_a_diverging_training_is_reported():
    with pytest.raises(TrainingError, match="smaller learning_rate"):
        train(pink_and_violet(), params=QUICK.model_copy(update={"fine_tune": "all"}), start=broken_classifier())
    with pytest.raises(TrainingError, match="larger anchor"):
        train(pink_and_violet(), params=QUICK, start=broken_classifier())


def broken_classifier() -> CnnClassifier:
    network = CellCnn(Architecture("flatten", 4, 0.2, 2))
    with torch.no_grad():
        network.logits.bias.fill_(float("nan"))
    return CnnClassifier(network, ClassifierInfo(classes=("RBC", "WBC")), device="cpu")


def test_figures_of_known_probabilities_are_right():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]], np.float32)
    figures = figures_of_probabilities(p, np.array([0, 0, 0, 1]), ("RBC", "WBC"))
    assert figures.confusion == [[2, 1], [0, 1]]
    assert figures.accuracy == 0.75
    assert figures.per_class["WBC"].precision == 0.5
    assert figures.per_class["WBC"].recall == 1.0
    assert figures.per_class["RBC"].f1 == pytest.approx(0.8)
    assert figures.loss == pytest.approx(-np.log([0.9, 0.8, 0.3, 0.6]).mean(), abs=1e-6)


def test_moving_a_cutout_keeps_the_cell():
    cutouts = pink_and_violet(3, 3).cutouts
    moved = cnn_training._shifted(cutouts, np.random.default_rng(0).integers(-12, 13, (6, 2)))
    assert not np.array_equal(moved, cutouts)
    assert [int(c.astype(int).sum()) for c in moved] == [int(c.astype(int).sum()) for c in cutouts]


def test_a_cutout_is_laid_in_eight_ways():
    cutout = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3)).astype(np.uint8)
    laid = cnn_training._turned(np.repeat(cutout, 8, 0), np.arange(8))
    assert len({one.tobytes() for one in laid}) == 8
    assert {int(one.sum()) for one in laid.astype(np.int64)} == {int(cutout.sum())}
    np.testing.assert_array_equal(laid[0], cutout[0])


def test_the_papers_settings_are_the_defaults_and_presets_can_be_changed_one_by_one():
    params = TrainParams()
    chosen = (params.epochs, params.batch_size, params.learning_rate, params.dense_units, params.dropout)
    assert chosen == (20, 4, 1e-4, 512, 0.2)
    assert params.patience is None
    assert TrainParams.paper(epochs=2) == TrainParams(epochs=2, turn=False, shift_px=0, fine_tune="all")
    quick = TrainParams.quick(epochs=2)
    assert (quick.epochs, quick.batch_size, quick.patience) == (2, 32, 5)


# --- fine-tuning on few cells ---------------------------------------------------------------------------------------


def green(n: int) -> np.ndarray:
    cutouts = np.zeros((n, 128, 128, 3), np.uint8)
    cutouts[:, 55:73, 55:73] = (60, 200, 80)
    cutouts[:, 60, 60, 0] = np.arange(n)
    return cutouts


def with_blasts(n: int = 10, seed: int = 3) -> LabelledCutouts:
    few = pink_and_violet(n, n, seed=seed)
    labels = np.concatenate([few.labels, np.full(n, 2)])
    return LabelledCutouts(np.concatenate([few.cutouts, green(n)]), labels, ("RBC", "WBC", "blast"))


def test_a_strong_anchor_changes_nothing_and_a_weak_one_fits_the_cells_better(trained):
    paler = pink_and_violet(10, 10, seed=5)
    paler = replace(paler, cutouts=np.where(paler.cutouts, paler.cutouts // 2 + 100, 0).astype(np.uint8))
    held, learned = (
        train(paler, params=QUICK.model_copy(update={"anchor": a, "epochs": 40}), start=trained.classifier)
        for a in (1e7, 0.02)
    )
    fresh = pink_and_violet(seed=99).cutouts
    np.testing.assert_allclose(held.classifier.predict(fresh), trained.classifier.predict(fresh), atol=0.02)
    assert learned.report.parts["train"].loss < held.report.parts["train"].loss
    assert learned.report.parts["train"].accuracy == 1


def test_fine_tuning_of_the_head_leaves_the_classifier_before_as_it_was(trained):
    before = {k: v.clone() for k, v in trained.classifier.network.state_dict().items()}
    train(pink_and_violet(6, 6, seed=5), params=QUICK.model_copy(update={"anchor": 0.0}), start=trained.classifier)
    for key, value in trained.classifier.network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_a_further_class_is_learned_from_few_cells(trained):
    tuned = train(
        with_blasts(), params=QUICK.model_copy(update={"epochs": 40, "anchor": 0.03}), start=trained.classifier
    )
    assert tuned.classifier.classes == ("RBC", "WBC", "blast")
    fresh = pink_and_violet(seed=99)
    assert (tuned.classifier.predict(fresh.cutouts).argmax(1) == fresh.labels).mean() > 0.9
    assert (tuned.classifier.predict(green(20)).argmax(1) == 2).all()


def kinds_of_violet(n_dark: int, n_light: int, seed: int) -> LabelledCutouts:
    """Return pink cells, and violet ones of two kinds, dark and light: both are white cells to who knows no others."""
    n = n_dark + n_light
    cells = pink_and_violet(10, n, seed=seed)
    labels = np.repeat([0, 1, 2], [10, n_dark, n_light])
    lighter = np.where(cells.cutouts[10 + n_dark :], np.minimum(cells.cutouts[10 + n_dark :], 205) + 50, 0)
    cutouts = np.concatenate([cells.cutouts[: 10 + n_dark], lighter.astype(np.uint8)])
    return LabelledCutouts(cutouts, labels, ("RBC", "neutrophil", "lymphocyte"))


def test_kinds_of_white_cells_are_learned_though_one_has_few_cells(trained):
    params = QUICK.model_copy(update={"epochs": 40, "anchor": 0.03})
    tuned = train(kinds_of_violet(20, 4, seed=3), params=params, start=trained.classifier).classifier
    assert tuned.classes == ("RBC", "WBC", "lymphocyte", "neutrophil")
    fresh = kinds_of_violet(20, 20, seed=99).with_classes(tuned.classes)
    typed = tuned.predict(fresh.cutouts).argmax(1)
    assert [(typed[fresh.labels == k] == k).mean() > 0.9 for k in (0, 2, 3)] == [True, True, True]


def test_a_new_class_begins_as_what_its_cells_were_taken_for(trained):
    params = QUICK.model_copy(update={"anchor": 1e7})
    tuned = train(kinds_of_violet(6, 6, seed=3), params=params, start=trained.classifier).classifier
    cells = pink_and_violet(seed=99)
    p = tuned.predict(cells.cutouts)
    red, white, neutrophil = (p[:, tuned.classes.index(name)] for name in ("RBC", "WBC", "neutrophil"))
    assert (neutrophil > 0.5 * white)[cells.labels == 1].all()
    assert (neutrophil < 0.1 * red)[cells.labels == 0].all()


def test_a_class_without_cells_is_not_forgotten(trained):
    params = QUICK.model_copy(update={"epochs": 40, "anchor": 0.03})
    knows_three = train(with_blasts(), params=params, start=trained.classifier).classifier
    tuned = train(pink_and_violet(6, 6, seed=7), params=QUICK, start=knows_three)
    assert tuned.report.classes == ["RBC", "WBC", "blast"]
    assert (tuned.classifier.predict(green(20)).argmax(1) == 2).all()


def mistyped(kept: bool, n_wrong: int, *, n: int) -> LabelledCutouts:
    """Return n pink and n violet cells, of which the first violet ones are typed RBC, or left out."""
    cells = pink_and_violet(n, n, seed=11)
    labels = cells.labels.copy()
    labels[n : n + n_wrong] = 0
    return replace(cells, labels=labels) if kept else cells.take(np.nonzero(labels == cells.labels)[0])


def test_a_cell_typed_by_mistake_is_left_out(trained):
    params = QUICK.model_copy(update={"epochs": 40, "anchor": 0.03})
    with_mistake, without = (
        train(Parts(cells, cells.take(np.zeros(0, np.int64)), pink_and_violet(seed=99)), params=params, start=start)
        for cells, start in ((mistyped(kept, 1, n=10), trained.classifier) for kept in (True, False))
    )
    assert with_mistake.report.parts["test"].accuracy == without.report.parts["test"].accuracy == 1.0
    assert with_mistake.report.parts["train"].confusion[0][1] == 1


def test_many_cells_that_contradict_the_model_before_are_believed(trained):
    cells = pink_and_violet(10, 10, seed=11)
    swapped = replace(cells, labels=1 - cells.labels)
    params = QUICK.model_copy(update={"epochs": 60, "anchor": 0.003})
    tuned = train(
        Parts(swapped, swapped.take(np.zeros(0, np.int64)), swapped), params=params, start=trained.classifier
    ).report
    assert tuned.before["test"].accuracy < 0.1
    assert tuned.parts["test"].accuracy > 0.9


def test_a_model_that_knows_none_of_the_classes_is_refused_with_the_reason(trained):
    with pytest.raises(TrainingError, match="knows RBC, WBC, and the cells are blast, lymphocyte"):
        train(pink_and_violet(names=("blast", "lymphocyte")), params=QUICK, start=trained.classifier)


def test_the_report_compares_with_the_model_before_on_the_same_cells(trained):
    report = train(pink_and_violet(40, 40, seed=3), params=QUICK, start=trained.classifier).report
    assert set(report.before) == {"train", "val", "test"}
    assert report.before["test"].n == report.parts["test"].n
    assert report.change() == pytest.approx(report.parts["test"].accuracy - report.before["test"].accuracy)
    assert trained.report.before == {}
    assert trained.report.change() is None


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [False, True])
def test_a_training_that_is_stopped_returns_the_best_until_then(trained, start):
    asked = iter(range(1000))
    training = train(
        pink_and_violet(),
        params=QUICK.model_copy(update={"epochs": 500, "patience": None}),
        start=trained.classifier if start else None,
        should_stop=lambda: next(asked) >= 9,
    )
    assert training.report.is_stopped
    assert 1 <= training.report.best_epoch <= len(training.report.history) < 500
    assert training.classifier.predict(pink_and_violet(2, 2).cutouts).shape == (4, 2)


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_cutouts_behind_each_figure_are_named():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.95, 0.05]], np.float32)
    figures = figures_of_probabilities(p, np.array([0, 0, 0, 1, 0]), ("RBC", "WBC"), list("abcde"))
    assert figures.cutouts == [[["e", "a", "b"], ["c"]], [[], ["d"]]]


def test_intervals_are_wilsons():
    right = np.array([[0.9, 0.1]] * 8 + [[0.1, 0.9]] * 2, np.float32)
    figures = figures_of_probabilities(right, np.zeros(10, np.int64), ("RBC", "WBC"))
    assert figures.accuracy_interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert figures.per_class["RBC"].recall_interval == figures.accuracy_interval
    assert figures.per_class["RBC"].precision_interval[1] == 1.0
    low, high = figures.per_class["RBC"].f1_interval
    assert low < figures.per_class["RBC"].f1 < high
    assert figures.per_class["WBC"].recall_interval == (0.0, 1.0)


def test_a_report_is_read_again_as_it_was(trained):
    content = json.loads(json.dumps(trained.report.to_dict()))
    assert TrainingReport.from_dict(content) == trained.report


# --- training sets, from Python and from the command line -----------------------------------------------------------


@pytest.fixture
def training_set(tmp_path: Path) -> TrainingSet:
    cells = pink_and_violet(30, 30)
    made = TrainingSet(tmp_path / "set")
    made.add(TypedCell(c, cells.classes[k], "ada") for c, k in zip(cells.cutouts, cells.labels, strict=True))
    return made


def test_a_training_set_is_trained_on_in_its_own_parts(training_set):
    training = train(training_set.folder, params=QUICK)
    assert {name: part.n for name, part in training.report.parts.items()} == {
        name: int(n) for name, n in training_set.counts().sum().items()
    }
    behind = {name for row in training.report.parts["val"].cutouts for cell in row for name in cell}
    table = training_set.table
    assert behind == set(table.loc[table["split"] == "val", "file"])


def test_python_and_the_command_line_give_the_same_numbers_from_one_seed(training_set, tmp_path):
    flags = ["--epochs", "2", "--batch-size", "16", "--dense-units", "8", "--seed", "7", "--device", "cpu", "-q"]
    assert main(["train", str(training_set.folder), "-o", str(tmp_path / "cli.safetensors"), *flags]) == 0
    params = TrainParams(epochs=2, batch_size=16, dense_units=8, seed=7, device="cpu")
    training = train(training_set.folder, params=params)
    written = json.loads((tmp_path / "cli.report.json").read_text())
    assert TrainingReport.from_dict(written) == training.report
    cells = pink_and_violet(4, 4).cutouts
    np.testing.assert_array_equal(
        load_classifier(tmp_path / "cli.safetensors", "cpu").predict(cells), training.classifier.predict(cells)
    )


def test_the_command_line_fine_tunes_a_file_and_tells_the_change(training_set, trained, tmp_path, capsys):
    trained.classifier.save(tmp_path / "old.safetensors")
    out = tmp_path / "new.safetensors"
    flags = ["--from", str(tmp_path / "old.safetensors"), "--epochs", "5", "-q"]
    assert main(["train", str(training_set.folder), "-o", str(out), *flags]) == 0
    assert "accuracy of the model before" in capsys.readouterr().out
    assert (
        load_classifier(out, "cpu").info.settings["fine_tuned_from"]
        == load_classifier(tmp_path / "old.safetensors", "cpu").sha256
    )


@pytest.mark.parametrize(("flags", "expected"), [([], (4, 512, "head")), (["--quick"], (32, 128, "head"))])
def test_the_papers_settings_are_the_defaults_of_the_command_line_too(training_set, tmp_path, flags, expected):
    out = tmp_path / "paper.safetensors"
    assert main(["train", str(training_set.folder), "-o", str(out), *flags, "--epochs", "1", "-q"]) == 0
    settings = load_classifier(out, "cpu").info.settings
    assert (settings["batch_size"], settings["dense_units"], settings["fine_tune"]) == expected
    assert settings["epochs"] == 1


def test_two_presets_at_once_are_refused(training_set, tmp_path, capsys):
    flags = ["-o", str(tmp_path / "m.safetensors"), "--paper", "--quick"]
    assert main(["train", str(training_set.folder), *flags]) == 2
    assert "either --paper or --quick" in capsys.readouterr().err
