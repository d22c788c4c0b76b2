from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_bloodcell.core.errors import InputError, InputWarning
from napari_bloodcell.images.files import find_images, image_name
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.images.plane import Plane


def field(height: int = 40, width: int = 60, *, seed: int = 0) -> np.ndarray:
    """A bright RGB field with a red disc and some noise."""
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), (231, 222, 214), np.uint8)
    image[(y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 4) ** 2] = (180, 90, 100)
    noise = np.random.default_rng(seed).integers(0, 20, image.shape, dtype=np.uint8)
    return image + noise


def assert_plane(plane: Plane, height: int, width: int) -> None:
    assert plane.data.shape == (height, width, 3)
    assert plane.data.dtype == np.uint8


# --- arrays that are images ------------------------------------------------------------------------------------------


def test_uint8_rgb_is_taken_without_a_copy_and_cannot_be_written_to() -> None:
    image = field()
    plane = read_plane(image)
    assert np.shares_memory(plane.data, image)
    with pytest.raises(ValueError, match="read-only"):
        plane.data[0, 0] = 0
    assert image.flags.writeable


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda a: a / 255.0, id="float64 of 0 to 1"),
        pytest.param(lambda a: (a / 255.0).astype(np.float32), id="float32 of 0 to 1"),
        pytest.param(lambda a: a.astype(np.float32), id="float of 0 to 255"),
        pytest.param(lambda a: a.astype(np.uint16), id="uint16 holding 8 bits"),
        pytest.param(lambda a: a.astype(np.uint16) * 257, id="uint16 of full range"),
        pytest.param(lambda a: (a.astype(np.uint16) * 257).astype(">u2"), id="big-endian"),
        pytest.param(lambda a: a.astype(np.int64), id="int64"),
        pytest.param(lambda a: np.moveaxis(a, -1, 0), id="channels first"),
        pytest.param(lambda a: np.moveaxis(a, -1, 0)[None, :, None], id="tczyx"),
        pytest.param(lambda a: a[None], id="leading axis of one"),
        pytest.param(lambda a: np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]), id="opaque RGBA"),
        pytest.param(lambda a: np.asfortranarray(a), id="Fortran order"),
        pytest.param(lambda a: a.tolist(), id="nested lists"),
        pytest.param(lambda a: [a, a[::2, ::2], a[::4, ::4]], id="pyramid"),
        pytest.param(lambda a: [a], id="pyramid of one level"),
        pytest.param(lambda a: PIL.Image.fromarray(a), id="Pillow image"),
        pytest.param(lambda a: Plane(a), id="plane"),
    ],
)
def test_the_same_picture_in_another_form_gives_the_same_pixels(convert) -> None:
    image = field()
    np.testing.assert_array_equal(read_plane(convert(image)).data, image)


def test_lazy_arrays_are_read() -> None:
    da = pytest.importorskip("dask.array")
    image = field()
    np.testing.assert_array_equal(read_plane(da.from_array(image, chunks=(16, 16, 3))).data, image)
    np.testing.assert_array_equal(read_plane(zarr.array(image)).data, image)
    np.testing.assert_array_equal(read_plane([da.from_array(image), da.from_array(image[::2, ::2])]).data, image)


def test_twelve_bits_in_sixteen_are_scaled_by_twelve() -> None:
    image = field().astype(np.uint16) * 16
    assert abs(read_plane(image).data.astype(int) - field()).max() <= 1


def test_grey_and_boolean_images_get_three_equal_channels() -> None:
    grey = field()[..., 0]
    np.testing.assert_array_equal(read_plane(grey).data, np.dstack([grey] * 3))
    np.testing.assert_array_equal(read_plane(grey[..., None]).data, np.dstack([grey] * 3))
    mask = grey > 200
    np.testing.assert_array_equal(read_plane(mask).data[..., 1], mask * 255)


def test_transparent_pixels_become_white_glass() -> None:
    image = np.dstack([field(), np.full((40, 60), 255, np.uint8)])
    image[:10, :, 3] = 0
    image[10:20, :, 3] = 128
    plane = read_plane(image)
    assert (plane.data[:10] == 255).all()
    np.testing.assert_array_equal(plane.data[20:], image[20:, :, :3])
    half = image[10:20, :, :3] * (128 / 255) + 255 * (127 / 255)
    assert abs(plane.data[10:20] - half).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"planarconfig": "separate"}],
    ids=["plain", "zlib", "tiles", "planar"],
)
def test_colours_that_are_multiplied_by_their_transparency_become_those_of_a_straight_file(
    options: dict[str, Any], dtype: type[np.integer], tmp_path: Path
) -> None:
    top = np.iinfo(dtype).max
    colours, alpha = field().astype(float) / 255 * top, np.full((40, 60, 1), top, float)
    alpha[:10], alpha[10:20] = 0, top * 0.5
    for name, kind, image in (
        ("straight", "unassalpha", colours),
        ("multiplied", "assocalpha", colours * alpha / top),
    ):
        stored = np.rint(np.dstack([image, alpha])).astype(dtype)
        stored = np.moveaxis(stored, -1, 0) if "planarconfig" in options else stored
        tifffile.imwrite(tmp_path / f"{name}.tif", stored, photometric="rgb", extrasamples=[kind], **options)
    straight, multiplied = (read_plane(tmp_path / f"{name}.tif").data for name in ("straight", "multiplied"))
    assert (straight[:10] == 255).all()
    assert np.abs(multiplied.astype(int) - straight).max() <= 1


def test_an_alpha_channel_of_zeros_is_ignored_with_a_warning() -> None:
    image = np.dstack([field(), np.zeros((40, 60), np.uint8)])
    with pytest.warns(InputWarning, match="alpha"):
        np.testing.assert_array_equal(read_plane(image).data, field())


def test_nan_and_infinity_become_glass_with_a_warning() -> None:
    image = field() / 255.0
    image[3, 4, 1] = np.nan
    image[30:, :, :] = np.inf
    with pytest.warns(InputWarning, match="601 pixels"):
        plane = read_plane(image)
    glass = np.percentile(field()[:30], 95, axis=(0, 1))
    assert abs(plane.data[3, 4] - glass).max() <= 2
    assert abs(plane.data[30:] - glass).max() <= 2
    assert np.isnan(image[3, 4, 1])


def test_masked_pixels_are_treated_as_missing() -> None:
    image = np.ma.masked_array(field(), mask=False)
    image[:2] = np.ma.masked
    with pytest.warns(InputWarning, match="120 pixels"):
        np.testing.assert_array_equal(read_plane(image).data[2:], field()[2:])


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 1, 3), (20, 20, 3), (1, 10000, 3), (10000, 1, 3), (1, 10000), (10000, 1)]
)
def test_tiny_and_thin_images_keep_their_shape(shape: tuple[int, ...]) -> None:
    assert_plane(read_plane(np.full(shape, 200, np.uint8)), *shape[:2])


def test_an_all_black_float_image_stays_black() -> None:
    assert (read_plane(np.zeros((5, 5, 3))).data == 0).all()


# --- arrays that are not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(np.zeros((0, 10, 3), np.uint8), "no pixels", id="no rows"),
        pytest.param(np.zeros((10, 0), np.uint8), "no pixels", id="no columns"),
        pytest.param(np.zeros(10, np.uint8), "axes", id="one axis"),
        pytest.param(np.uint8(3), "axes", id="a number"),
        pytest.param(None, "axes", id="None"),
        pytest.param([], "axes", id="empty list"),
        pytest.param(b"abc", "axes", id="bytes"),
        pytest.param([[1, 2], [3]], "array", id="ragged list"),
        pytest.param(np.zeros((12, 30, 40), np.uint8), r"12 planes along axis 0.*image\[0\]", id="stack"),
        pytest.param(np.zeros((2, 5, 30, 40, 3), np.uint8), "2 planes along axis 0", id="stack of stacks"),
        pytest.param(np.zeros((1, 5, 30, 40, 3), np.uint8), r"5 planes along axis 1.*image\[:, 0\]", id="inner stack"),
        pytest.param(np.zeros((7, 3, 30, 40), np.uint8), "7 planes along axis 0", id="stack with channels first"),
        pytest.param(np.zeros((30, 40, 2), np.uint8), "2 channels", id="two channels"),
        pytest.param(np.zeros((5, 5, 3), complex), "complex", id="complex"),
        pytest.param(np.array([["a", "b"]]), "dtype", id="text"),
        pytest.param(np.full((5, 5), np.nan), "no finite value", id="all NaN"),
        pytest.param(np.full((5, 5), -3), "-3", id="negative"),
        pytest.param(np.linspace(-1, 1, 75).reshape(5, 5, 3), "-1 to 1", id="float of -1 to 1"),
        pytest.param(np.full((5, 5), 70000), "70000", id="beyond 16 bits"),
        pytest.param([np.zeros((5, 5)), np.zeros((10, 10))], "largest to the smallest", id="pyramid upside down"),
        pytest.param([np.zeros((5, 5))] * 6, "6 images of the same shape", id="list of planes"),
    ],
)
def test_what_is_not_a_plane_is_refused_with_the_reason(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_plane(source)


def test_a_lazy_array_too_large_to_be_read_is_refused_before_reading() -> None:
    da = pytest.importorskip("dask.array")
    with pytest.raises(InputError, match="not read at once"):
        read_plane(da.zeros((10**6, 10**6, 3), dtype=np.uint8))


DTYPES = st.sampled_from(["u1", "u2", ">u2", "i4", "f2", "f4", "f8", "?"])
SHAPES = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(5, 12), st.integers(5, 12), st.sampled_from([1, 3, 4])),
    st.tuples(st.sampled_from([3, 4]), st.integers(5, 12), st.integers(5, 12)),
)


@given(data=st.data(), shape=SHAPES, dtype=DTYPES)
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::napari_bloodcell.core.errors.InputWarning")
def test_any_image_becomes_rgb_or_an_input_error_and_stays_as_it_was(data, shape, dtype) -> None:
    image = data.draw(hnp.arrays(dtype, shape))
    before = image.copy()
    try:
        plane = read_plane(image)
    except InputError:
        return
    finally:
        np.testing.assert_array_equal(image, before)
    height, width = shape[1:] if len(shape) == 3 and shape[2] not in (1, 3, 4) else shape[:2]
    assert_plane(plane, height, width)


@given(hnp.arrays("u1", st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
@settings(max_examples=60, deadline=None)
def test_uint8_survives_a_round_trip_through_float_and_uint16(image: np.ndarray) -> None:
    image[0, 0, 0] = 255  # so that the range is known
    for other in (image / 255, image.astype(np.float32) / np.float32(255), image.astype(np.uint16) * 257):
        np.testing.assert_array_equal(read_plane(other).data, image)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_files_give_their_pixels_and_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"my smear{suffix}"
    PIL.Image.fromarray(field()).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    plane = read_plane(str(path))
    np.testing.assert_array_equal(plane.data, field())
    assert (plane.name, plane.source) == ("my smear", str(path))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_pillow_mode_becomes_rgb(mode: str) -> None:
    grey = PIL.Image.fromarray(field()).convert("L")
    image = PIL.Image.fromarray(np.asarray(grey, np.uint16)) if mode == "I;16" else None
    image = image or PIL.Image.fromarray(field()).convert(mode)
    assert image.mode == mode
    plane = read_plane(image)
    assert_plane(plane, 40, 60)
    if mode != "1":
        assert abs(plane.data.mean(axis=2) - np.asarray(grey, float)).mean() < 12


def test_jpeg_is_read_and_its_dpi_ignored(tmp_path: Path) -> None:
    path = tmp_path / "smear.JPG"
    PIL.Image.fromarray(field()).save(path, format="JPEG", quality=95, dpi=(101600, 101600))
    plane = read_plane(path)
    assert abs(plane.data.astype(int) - field()).mean() < 12
    assert plane.pixel_size_um is None


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str, share: float) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(field(200, 300)).save(buffer, format={".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:]))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(InputError, match="cut"):
        read_plane(path)


def test_a_truncated_compressed_tiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, field(200, 300), compression="zlib", photometric="rgb", tile=(64, 64))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cut\.tif"):
        read_plane(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.png", b"these are not pixels", "not an image"),
        ("broken.tif", b"II*\0\xff\xff\xff\xff", "broken.tif"),
    ],
)
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_plane(tmp_path / name)


def test_missing_files_and_plain_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_plane(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="folder"):
        read_plane(tmp_path)


def test_an_animated_file_is_refused(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(field(seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "movie.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="3 planes along axis 0"):
        read_plane(tmp_path / "movie.gif")


def test_a_tiff_stack_is_refused_with_the_name_of_its_axis(tmp_path: Path) -> None:
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, np.zeros((5, 30, 40), np.uint8), metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match=r"5 planes along axis 0.*'z'"):
        read_plane(path)


def test_a_tiff_of_several_images_is_refused_but_its_thumbnail_is_not(tmp_path: Path) -> None:
    for name, second in (("two.tif", field(50, 70)), ("thumbnail.tif", field(10, 15))):
        with tifffile.TiffWriter(tmp_path / name) as tiff:
            tiff.write(field(), photometric="rgb")
            tiff.write(second, photometric="rgb")
    with pytest.raises(InputError, match="2 images"):
        read_plane(tmp_path / "two.tif")
    np.testing.assert_array_equal(read_plane(tmp_path / "thumbnail.tif").data, field())


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_compressed_tiff_is_read(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "smear.tif"
    PIL.Image.fromarray(field()).save(path, compression=compression)
    difference = abs(read_plane(path).data.astype(int) - field()).mean()
    assert difference < 12 if compression == "jpeg" else difference == 0


def test_palette_and_white_is_zero_tiffs_are_resolved(tmp_path: Path) -> None:
    index = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "palette.tif", index, photometric="palette", colormap=colours * 257)
    np.testing.assert_array_equal(read_plane(tmp_path / "palette.tif").data, np.moveaxis(colours[:, index], 0, -1))
    tifffile.imwrite(tmp_path / "inverted.tif", index, photometric="miniswhite")
    np.testing.assert_array_equal(read_plane(tmp_path / "inverted.tif").data[..., 0], 255 - index)


# --- micrometres per pixel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"resolution": (40000.0, 40000.0), "resolutionunit": "CENTIMETER"}, 0.25, id="per cm"),
        pytest.param({"resolution": (101600.0, 101600.0), "resolutionunit": "INCH"}, 0.25, id="per inch"),
        pytest.param({"resolution": (4000.0, 4000.0), "resolutionunit": "MILLIMETER"}, 0.25, id="per mm"),
        pytest.param({"resolution": (4.0, 4.0), "resolutionunit": "MICROMETER"}, 0.25, id="per µm"),
        pytest.param({"resolution": (4.0, 4.0), "resolutionunit": "NONE"}, None, id="per nothing"),
        pytest.param({"resolution": (300.0, 300.0), "resolutionunit": "INCH"}, None, id="a printer's dpi"),
        pytest.param({}, None, id="none"),
        pytest.param({"imagej": True, "resolution": (4.0, 4.0), "metadata": {"unit": "um"}}, 0.25, id="ImageJ"),
        pytest.param({"description": "Aperio |AppMag = 40|MPP = 0.2520"}, 0.252, id="Aperio"),
    ],
)
def test_tiff_resolution_gives_the_pixel_size_where_it_makes_sense(tmp_path: Path, options, expected) -> None:
    tifffile.imwrite(tmp_path / "a.tif", field(), photometric="rgb", **options)
    assert read_plane(tmp_path / "a.tif").pixel_size_um == (expected and pytest.approx(expected, rel=1e-4))


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [
        *[
            (0.2, "µm", 0.2),
            (200, "nm", 0.2),
            (0.0002, "mm", 0.2),
            (0.2, "pixel", None),
            (2e5, "pm", 0.2),
            (2000, "Å", 0.2),
        ],
        *[(2e-6, "dm", 0.2), (2e-10, "km", 0.2), (0.2 / 25.4, "thou", 0.2), (0.2 / 304800, "ft", 0.2)],
    ],
)
def test_ome_tiff_gives_the_pixel_size(tmp_path: Path, size: float, unit: str, expected: float | None) -> None:
    metadata = {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, field(), photometric="rgb", metadata={"axes": "YXS", **metadata})
    plane = read_plane(path)
    assert plane.pixel_size_um == (expected and pytest.approx(expected))
    assert plane.name == "a"
    np.testing.assert_array_equal(plane.data, field())


@pytest.mark.parametrize("size", [0, -0.2, 50, 1e-4, float("nan")])
def test_a_pixel_size_that_no_smear_has_is_not_used_and_said_so(tmp_path: Path, size: float) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    tifffile.imwrite(tmp_path / "a.ome.tif", field(), photometric="rgb", metadata=metadata)
    with pytest.warns(InputWarning, match="which no smear has"):
        plane = read_plane(tmp_path / "a.ome.tif")
    assert plane.pixel_size_um is None
    assert len(plane.warnings) == 1


def test_pixels_that_are_not_square_are_not_used_and_said_so(tmp_path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3}
    tifffile.imwrite(tmp_path / "a.ome.tif", field(), photometric="rgb", metadata=metadata)
    with pytest.warns(InputWarning, match="square"):
        assert read_plane(tmp_path / "a.ome.tif").pixel_size_um is None


def test_an_unknown_unit_is_told(tmp_path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "PhysicalSizeXUnit": "ell"}
    tifffile.imwrite(tmp_path / "a.ome.tif", field(), photometric="rgb", metadata=metadata)
    with pytest.warns(InputWarning, match="'ell', a unit that is not known"):
        assert read_plane(tmp_path / "a.ome.tif").pixel_size_um is None


def write_ome_zarr(path: Path, image: np.ndarray, *, axes: str, scale: float, unit: str | None, version: str) -> None:
    group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2)
    group.create_array("0", data=image)
    multiscale = {
        "axes": [{"name": a, **({"type": "space", "unit": unit} if a in "yx" and unit else {})} for a in axes],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [{"type": "scale", "scale": [scale if a in "yx" else 1.0 for a in axes]}],
            }
        ],
    }
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [multiscale]}} if version == "0.5" else {"multiscales": [multiscale]}
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_gives_full_resolution_and_pixel_size(tmp_path: Path, version: str) -> None:
    path = tmp_path / "smear.ome.zarr"
    image = np.moveaxis(field(), -1, 0)[None, :, None]
    write_ome_zarr(path, image, axes="tczyx", scale=0.2, unit="micrometer", version=version)
    for source in (path, zarr.open_group(path, mode="r")):
        plane = read_plane(source)
        np.testing.assert_array_equal(plane.data, field())
        assert plane.pixel_size_um == pytest.approx(0.2)
    assert read_plane(path).name == "smear"


def test_an_ome_zarr_scale_of_one_is_no_pixel_size(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.zarr", field()[..., 0], axes="yx", scale=1.0, unit="micrometer", version="0.5")
    assert read_plane(tmp_path / "a.zarr").pixel_size_um is None


def test_an_ome_zarr_stack_is_refused_with_the_name_of_its_axis(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.zarr", np.zeros((4, 9, 9), np.uint8), axes="zyx", scale=1, unit=None, version="0.5")
    with pytest.raises(InputError, match=r"4 planes.*'z'"):
        read_plane(tmp_path / "a.zarr")


def test_plain_zarr_arrays_and_groups_of_one_are_read(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array.zarr", data=field())
    zarr.create_group(tmp_path / "group.zarr").create_array("pixels", data=field())
    for name in ("array.zarr", "group.zarr"):
        np.testing.assert_array_equal(read_plane(tmp_path / name).data, field())


def test_a_zarr_that_points_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": [], "datasets": [{"path": "../secret"}]}]}
    with pytest.raises(InputError, match="leaves its folder"):
        read_plane(tmp_path / "a.zarr")


def test_a_damaged_zarr_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_plane(tmp_path / "a.zarr")


# --- names and folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.jpg", "a"),
        ("a.b.TIFF", "a.b"),
        ("a.ome.tif", "a"),
        ("a.ome.zarr", "a"),
        ("a.v2", "a.v2"),
        ("...png", "image"),
    ],
)
def test_the_name_of_an_image_is_its_files_without_the_ending(file: str, name: str) -> None:
    assert image_name(Path(file)) == name


def test_a_folder_gives_its_images_sorted_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "._a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    zarr.create_array(tmp_path / "c.zarr", data=field())
    (tmp_path / "d.png").mkdir()
    assert [p.name for p in find_images(tmp_path)] == ["a.JPG", "b.png", "c.zarr"]
