"""Files of microscopes. CZI files are made by Zeiss's library; ND2 and LIF by `microscope_files`, and read by `nd2` and
`liffile`, which know real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage

import napari_bloodcell as nb
from napari_bloodcell.cli.folders import collect, folder_names
from napari_bloodcell.core.errors import InputError, InputWarning
from napari_bloodcell.images import microscopes
from napari_bloodcell.images.open import open_image, read_plane
from napari_bloodcell.napari.pyramids import read_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image
from tests.images.microscope_files import write_czi, write_lif, write_nd2

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SHAPE = (128, 192)
CENTRES = [(40.0, 50.0), (90.0, 120.0)]


def smear() -> NDArray[np.uint8]:
    """Two cells, in colours that tell red from blue."""
    image = disc_image(CENTRES, SHAPE)
    image[:20, :30] = (250, 10, 30)
    return image


def stack() -> NDArray[np.uint8]:
    """Three planes in depth, of which the second is sharp."""
    image = smear()
    return np.stack([ndimage.gaussian_filter(image, (s, s, 0)) for s in (3, 0, 2)])


def as_czi(path: Path, planes: NDArray[Any]) -> Path:
    return write_czi(path / "a.czi", [(plane, (0, 0), {"Z": z}, 0) for z, plane in enumerate(planes)], um=0.25)


def as_nd2(path: Path, planes: NDArray[Any]) -> Path:
    return write_nd2(path / "a.nd2", planes, loop="z" if len(planes) > 1 else "", um=0.25)


def as_lif(path: Path, planes: NDArray[Any]) -> Path:
    pixels = (planes, "zyxs") if len(planes) > 1 else (planes[0], "yxs")
    return write_lif(path / "a.lif", {"smear": pixels}, um=0.25)


FORMATS = pytest.mark.parametrize("write", [as_czi, as_nd2, as_lif])


@FORMATS
def test_a_colour_image_is_read_where_it_is_sliced_with_its_micrometres(write: Any, tmp_path: Path) -> None:
    image = open_image(write(tmp_path, smear()[None]))
    assert (image.shape, image.name, image.pixel_size_um) == (SHAPE, "a", pytest.approx(0.25))
    assert np.array_equal(image.read((3, 5, 60, 150)), smear()[3:60, 5:150])
    assert np.array_equal(image.read_whole(), smear())


@FORMATS
def test_of_planes_in_depth_the_sharpest_is_read_and_napari_has_them_all(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path, stack())
    with pytest.warns(InputWarning, match="3 planes in depth; the one in best focus, 2, is read"):
        plane = read_plane(path)
    assert np.array_equal(plane.data, smear())
    assert plane.warnings == ()
    ((pixels, about, kind),) = read_slide(path)
    assert (kind, about["scale"]) == ("image", pytest.approx((1, 0.25, 0.25)))
    assert np.array_equal(pixels, stack())


def test_a_mosaic_is_put_together_on_white_glass(tmp_path: Path) -> None:
    image = smear()
    tiles = [(image[:, :100], (0, 0), {}, 0), (image[:90, 80:], (80, 0), {}, 0)]
    found = open_image(write_czi(tmp_path / "a.czi", tiles))
    assert found.shape == SHAPE
    whole = found.read_whole()
    assert np.array_equal(whole[:90], image[:90])
    assert (whole[90:, 100:] == 255).all()
    assert found.pixel_size_um is None


def two_scenes(path: Path) -> Path:
    image = smear()
    return write_czi(path / "slide.czi", [(image, (0, 0), {}, 0), (image[:100, ::-1], (500, 700), {}, 1)], um=0.25)


def test_scenes_are_given_as_if_the_file_were_a_folder(tmp_path: Path) -> None:
    path = two_scenes(tmp_path)
    with pytest.raises(InputError, match=r"holds 2 images.*Give one as if the file were a folder: .*slide.czi.1"):
        open_image(path)
    second = open_image(path / "2")
    assert (second.name, second.shape, second.source) == ("slide 2", (100, 192), str(path / "2"))
    assert np.array_equal(second.read_whole(), smear()[:100, ::-1])
    with pytest.raises(InputError, match=r"no scene '3'; it has 1 \(slide\), 2 \(slide\)"):
        open_image(path / "3")


def test_napari_opens_all_scenes(tmp_path: Path) -> None:
    layers = read_slide(two_scenes(tmp_path))
    assert [(about["name"], pixels.shape) for pixels, about, _ in layers] == [
        ("slide 1", (*SHAPE, 3)),
        ("slide 2", (100, 192, 3)),
    ]


def test_a_scene_is_analysed_into_a_folder_of_its_own(tmp_path: Path) -> None:
    path = two_scenes(tmp_path)
    found, missing = collect([str(path / "1"), str(path / "2")])
    assert (found, missing) == ([path / "1", path / "2"], {})
    assert folder_names(found) == ["slide 1", "slide 2"]
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    result = nb.analyse(path / "1", **models, output=tmp_path / "out")  # type: ignore[arg-type]
    assert nb.read_result(tmp_path / "out").image_name == "slide 1"
    assert result.cells.shape == SHAPE


def test_positions_of_an_nd2_are_images_of_their_own(tmp_path: Path) -> None:
    path = write_nd2(tmp_path / "a.nd2", np.stack([smear(), smear()[::-1]]), loop="p")
    assert np.array_equal(open_image(path / "2").read_whole(), smear()[::-1])
    assert len(microscopes.scenes_of(path)) == 2


def test_of_the_images_of_a_lif_the_one_that_is_large_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    small = smear()[:40, :60]
    path = write_lif(tmp_path / "a.lif", {"overview": (small, "yxs"), "merged": (smear(), "yxs")})
    assert open_image(path).shape == SHAPE
    assert open_image(path / "overview").shape == (40, 60)


def test_fields_that_were_not_merged_are_refused(tmp_path: Path) -> None:
    path = write_lif(tmp_path / "a.lif", {"tiles": (stack(), "myxs")})
    with pytest.raises(InputError, match=r"3 fields of a mosaic in 'tiles', which are not merged\. Merge"):
        open_image(path)


def test_three_grey_channels_of_bright_field_are_the_colours(tmp_path: Path) -> None:
    tiles = [(smear()[..., c], (0, 0), {"C": c}, 0) for c in range(3)]
    path = write_czi(tmp_path / "a.czi", tiles, channels={0: "Red", 1: "Green", 2: "Blue"})
    assert np.array_equal(read_plane(path).data, smear())


def test_a_grey_image_of_bright_field_is_read(tmp_path: Path) -> None:
    grey = smear()[..., 1]
    path = write_nd2(tmp_path / "a.nd2", grey[None, ..., None])
    assert np.array_equal(read_plane(path).data[..., 0], grey)
    assert np.array_equal(read_plane(write_lif(tmp_path / "a.lif", {"a": (grey, "yx")})).data[..., 2], grey)


def dyed_czi(path: Path) -> Path:
    from pylibCZIrw import czi

    write_czi(path / "a.czi", [(smear()[..., 0], (0, 0), {}, 0)], channels={0: "DAPI"})
    with czi.edit_czi(str(path / "a.czi")) as file, file.edit_session() as about:
        text = about.get_xml()
        assert "<PixelType>" in text, text
        about.set_xml(text.replace("<PixelType>", "<ContrastMethod>Fluorescence</ContrastMethod><PixelType>"))
    return path / "a.czi"


def dyed_nd2(path: Path) -> Path:
    return write_nd2(path / "a.nd2", smear()[None, ..., :1], modality="fluorescence")


def dyed_lif(path: Path) -> Path:
    return write_lif(path / "a.lif", {"a": (smear()[..., 0], "yx")}, lut="Green")


def two_dyes(path: Path) -> Path:
    tiles = [(smear()[..., c], (0, 0), {"C": c}, 0) for c in range(2)]
    return write_czi(path / "a.czi", tiles, channels={0: "DAPI", 1: "FITC"})


@pytest.mark.parametrize("write", [dyed_czi, dyed_nd2, dyed_lif, two_dyes])
def test_fluorescence_is_refused_in_a_sentence(write: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fluorescence.*bright field\. Give a colour image of it"):
        open_image(write(tmp_path))


def test_a_pyramid_is_read_level_by_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeiss's library writes none; what it reads at half the size of a file without is the same."""
    monkeypatch.setattr(microscopes, "_has_pyramid", lambda _reader: True)
    monkeypatch.setattr(microscopes, "_COARSEST_PX", 100)
    image = open_image(as_czi(tmp_path, smear()[None]))
    assert [level.shape for level in image.levels] == [(128, 192, 3), (64, 96, 3)]
    halved = smear().reshape(64, 2, 96, 2, 3).mean((1, 3))
    assert abs(image.levels[1].read((20, 30, 60, 90)).mean((0, 1)) - halved[20:60, 30:90].mean((0, 1))).max() < 3


@pytest.mark.parametrize(("name", "library"), [("a.czi", "pylibCZIrw"), ("a.nd2", "nd2"), ("a.lif", "liffile")])
def test_without_its_reader_a_file_says_what_to_install(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"anything")
    for module in [one for one in sys.modules if one.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"{library} is not installed.*napari-bloodcell\[bio\]"):
        open_image(tmp_path / name)


@FORMATS
def test_a_damaged_file_is_an_input_error(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path, smear()[None])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"a\.(czi|nd2|lif) "):
        open_image(path).read_whole()
