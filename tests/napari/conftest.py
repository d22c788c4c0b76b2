"""Windows for the tests of docks, and a watch that nothing is left behind."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from qtpy.QtCore import QEvent, QThreadPool, QTimer

import napari_bloodcell
from napari_bloodcell.napari.preferences import has_plugin_settings
from tests.fakes import BrightnessClassifier, disc_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari import Viewer
    from numpy.typing import NDArray
    from qtpy.QtWidgets import QApplication, QWidget

MANIFEST = Path(napari_bloodcell.__path__[0]) / "napari.yaml"
PALE = [(40, 40), (40, 120), (110, 70), (110, 160), (64, 200), (180, 128), (200, 60), (180, 220)]
DARK = [(128, 128), (220, 180)]


@pytest.fixture(autouse=True)
def plugin(npe2pm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let napari know this plugin and no other, with preferences of its own that no test shares."""
    from napari import settings
    from npe2 import PluginManifest

    monkeypatch.setenv("NAPARI_BLOODCELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NAPARI_BLOODCELL_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("NAPARI_BLOODCELL_TRAINING_SET", str(tmp_path / "training set"))
    if has_plugin_settings():
        monkeypatch.setattr(settings, "_CFG_PATH", str(tmp_path / "settings" / "settings.yaml"))
        settings._clear_plugin_settings_cache()
    with npe2pm.tmp_plugin(manifest=PluginManifest.from_file(MANIFEST)):
        yield
    if has_plugin_settings():
        settings._clear_plugin_settings_cache()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail every test with a window that leaves a worker, a running timer, a window or a dock behind."""
    if not {"qapp", "qtbot", "make_napari_viewer"}.intersection(request.fixturenames):
        yield
        return
    app: QApplication = request.getfixturevalue("qapp")
    timers, widgets = _running_timers(), set(map(id, app.allWidgets()))
    yield
    assert QThreadPool.globalInstance().waitForDone(10_000), "a worker is still running"
    for _ in range(2):
        app.processEvents()
        app.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        gc.collect()
    left = [t for t in _running_timers() if t not in timers]
    assert not left, f"timers are still running: {left}"
    stray = [w for w in app.allWidgets() if id(w) not in widgets and (_is_ours(w) or (w.isWindow() and w.isVisible()))]
    assert not stray, f"widgets were left behind: {stray}"


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Viewer]) -> Viewer:
    """A window of napari."""
    return make_napari_viewer()


@pytest.fixture
def largest_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pixels were read of a Zarr array at once, at most, so far."""
    most = [0]
    read = zarr.Array.__getitem__

    def watched(array: Any, key: Any) -> Any:
        found = read(array, key)
        most[0] = max(most[0], int(np.prod(np.shape(found)[-2:])))
        return found

    monkeypatch.setattr(zarr.Array, "__getitem__", watched)
    return most


@pytest.fixture
def notifications() -> Iterator[list[str]]:
    """What napari tells the user meanwhile."""
    from napari.utils.notifications import notification_manager

    told: list[str] = []

    def hear(notification: Any) -> None:
        told.append(notification.message)

    notification_manager.notification_ready.connect(hear)
    yield told
    notification_manager.notification_ready.disconnect(hear)


@pytest.fixture
def field() -> NDArray[np.uint8]:
    """Eight pale and two dark discs on bright glass, (256, 256, 3) uint8."""
    image = disc_image(PALE, (256, 256))
    dark = disc_image(DARK, (256, 256), radius=16, value=40)
    return np.minimum(image, dark)


@pytest.fixture
def classifier() -> BrightnessClassifier:
    """Calls dark cells WBC."""
    return BrightnessClassifier()


def _is_ours(widget: QWidget) -> bool:
    return type(widget).__module__.startswith("napari_bloodcell")


def _running_timers() -> list[int]:
    running = []
    for thing in gc.get_objects():
        try:
            if issubclass(type(thing), QTimer) and thing.isActive():
                running.append(id(thing))
        except (RuntimeError, ReferenceError):  # its Qt object is gone
            continue
    return running
