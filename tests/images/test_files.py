"""Files as microscopes, phones and other programs write them: read rightly, or refused with the reason."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr

import napari_bloodcell as nb
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images import files
from napari_bloodcell.images.files import IMAGE_SUFFIXES, find_images
from tests.images.test_plane import field, write_ome_zarr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


def assert_reads(path: Path, image: Pixels, pixel_size_um: float | None = None) -> None:
    """As a whole, and in parts."""
    plane, slide = nb.read_plane(path), nb.open_slide(path).with_measured_values()
    np.testing.assert_array_equal(plane.data, image)
    np.testing.assert_array_equal(slide.read((3, 5, 17, 20)), image[3:17, 5:20])
    assert plane.pixel_size_um == slide.pixel_size_um == (pixel_size_um and pytest.approx(pixel_size_um))


def refuses(path: Path, message: str) -> None:
    for read in (nb.read_plane, nb.open_slide):
        with pytest.raises(nb.InputError, match=message):
            read(path)


# --- each pixel is decoded once --------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is decoded whole, as it happens."""
    found: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **more: found.append(name) or original(*args, **more))

    watch(tifffile.TiffPageSeries, "asarray")
    watch(files, "pillow_rgb")
    return found


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_an_ordinary_file_is_decoded_once_however_it_is_looked_at(
    suffix: str, tmp_path: Path, decoded: list[str]
) -> None:
    from napari_bloodcell.images.open import is_slide

    path = tmp_path / f"smear{suffix}"
    PIL.Image.fromarray(field()).save(path)
    decoded.clear()
    assert not is_slide(path)
    slide = nb.open_slide(path)
    assert (slide.shape, decoded) == ((40, 60), [])
    slide.read((0, 0, 10, 10))
    slide.read((20, 20, 30, 30))
    assert len(decoded) == 1
    nb.read_plane(path)
    assert len(decoded) == 2


def test_deep_values_are_decoded_once_too(tmp_path: Path, decoded: list[str]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", field().astype(np.uint16) * 257, photometric="rgb")
    np.testing.assert_array_equal(nb.read_plane(tmp_path / "a.tif").data, field())
    assert decoded == ["asarray"]


def test_an_image_has_one_hash_however_it_is_stored(tmp_path: Path) -> None:
    image = field(300, 200)
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64), compression="zlib")
    write_ome_zarr(tmp_path / "a.zarr", np.moveaxis(image, -1, 0), axes="cyx", scale=0.2, unit=None, version="0.5")
    found = {image_hash(nb.open_slide(tmp_path / name).pixels) for name in ("a.png", "a.tif", "a.zarr")}
    found |= {image_hash(nb.read_plane(tmp_path / name).data) for name in ("a.png", "a.tif", "a.zarr")}
    assert found == {image_hash(image)}


# --- sets of OME-TIFF ------------------------------------------------------------------------------------------------


def write_set(folder: Path, images: Sequence[Pixels], *, one_root: bool = False) -> list[Path]:
    """A set of positions, a file each, as Bio-Formats writes it; each file describes all."""
    about = ""
    for i, image in enumerate(images):
        size = f'SizeX="{image.shape[1]}" SizeY="{image.shape[0]}" SizeC="3" SizeZ="1" SizeT="1"'
        um = f'PhysicalSizeX="0.{i + 1}" PhysicalSizeY="0.{i + 1}"'
        about += (
            f'<Image ID="Image:{i}"><Pixels ID="Pixels:{i}" DimensionOrder="XYCZT" Type="uint8" {size} {um}>'
            f'<Channel ID="Channel:{i}" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1">'
            f'<UUID FileName="field_{i}.ome.tif">urn:uuid:{i}</UUID></TiffData></Pixels></Image>'
        )
    paths = [folder / f"field_{i}.ome.tif" for i in range(len(images))]
    for i, (path, image) in enumerate(zip(paths, images, strict=True)):
        root = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{0 if one_root else i}">'
        tifffile.imwrite(path, image, photometric="rgb", description=f"{root}{about}</OME>", metadata=None)
    return paths


@pytest.mark.parametrize("one_root", [False, True])
@pytest.mark.parametrize("shape", [(40, 60), (39, 59), (20, 30), (50, 70)], ids=["equal", "similar", "small", "large"])
def test_a_file_of_a_set_gives_its_own_pixels(shape: tuple[int, int], one_root: bool, tmp_path: Path) -> None:
    images = [field(), field(*shape, seed=1)]
    paths = write_set(tmp_path, images, one_root=one_root)
    assert_reads(paths[0], images[0], 0.1)
    assert_reads(paths[1], images[1], 0.2)
    paths[0].unlink()
    assert_reads(paths[1], images[1], 0.2)


def test_a_file_of_a_set_may_be_renamed(tmp_path: Path) -> None:
    images = [field(), field(seed=1)]
    path = write_set(tmp_path, images)[1].rename(tmp_path / "mine.tif")
    assert_reads(path, images[1], 0.2)


def test_a_channel_in_a_file_of_its_own_is_read_alone_and_said_so(tmp_path: Path) -> None:
    places = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="c{c}.ome.tif">urn:{c}</UUID></TiffData>'
        for c in range(3)
    )
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYCZT" Type="uint8" SizeX="60" SizeY="40" SizeC="3" SizeZ="1" SizeT="1">'
        f"{places}</Pixels></Image></OME>"
    )
    for c in range(3):
        tifffile.imwrite(tmp_path / f"c{c}.ome.tif", field()[..., c].copy(), description=xml, metadata=None)
    with pytest.warns(nb.InputWarning, match="Only its own pages"):
        plane = nb.read_plane(tmp_path / "c1.ome.tif")
    np.testing.assert_array_equal(plane.data[..., 0], field()[..., 1])


@pytest.mark.parametrize("named", ["BinaryOnly", "renamed", "companion"])
def test_a_position_whose_metadata_lie_elsewhere_is_read_and_is_no_doubt(named: str, tmp_path: Path) -> None:
    place = "all.companion.ome" if named == "companion" else "s_MMStack_Pos0.ome.tif"
    path = tmp_path / ("mine.tif" if named == "renamed" else "s_MMStack_Pos1.ome.tif")
    root = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
    about = f'{root}<BinaryOnly MetadataFile="{place}" UUID="urn:uuid:0"/></OME>'
    tifffile.imwrite(path, field(seed=1), photometric="rgb", description=about, metadata=None)
    with pytest.warns(nb.InputWarning, match="Only its own pages"):
        assert_reads(path, field(seed=1))
    with pytest.warns(nb.InputWarning, match="Only its own pages"):
        assert nb.read_plane(path).warnings == ()


# --- channels and colours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("metadata", [None, {"axes": "QYX"}, {"axes": "ZYX"}])
def test_grey_pages_are_not_taken_for_colours(n: int, metadata: dict[str, str] | None, tmp_path: Path) -> None:
    pages = np.stack([field()[..., 0]] * n)
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack", metadata=metadata)
    refuses(tmp_path / "pages.tif", rf"{n} planes along axis 0.*save them as one RGB image")


@pytest.mark.parametrize("names", [["Red", "Green", "Blue"], ["Channel 0", "Channel 1", "Channel 2"]])
def test_three_channels_are_colours_where_nothing_speaks_against_it(names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    about = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(path, np.moveaxis(field(), -1, 0).copy(), photometric="minisblack", metadata=about)
    assert_reads(path, field())


def test_channels_of_fluorescence_are_refused_by_name(tmp_path: Path) -> None:
    stains, planes = ["DAPI", "FITC", "TRITC"], np.moveaxis(field(), -1, 0).copy()
    about: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": stains}}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata=about)
    tifffile.imwrite(tmp_path / "b.tif", planes, imagej=True, metadata={"axes": "CYX", "Labels": stains})
    write_ome_zarr(tmp_path / "c.zarr", planes, axes="cyx", scale=1, unit=None, version="0.5")
    group = zarr.open_group(tmp_path / "c.zarr")
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": [{"label": name} for name in stains]}}
    for name in ("a.ome.tif", "b.tif", "c.zarr"):
        refuses(tmp_path / name, "DAPI, FITC, TRITC, which are not red, green and blue")


def test_four_named_channels_are_not_rgba(tmp_path: Path) -> None:
    planes = np.stack([field()[..., 0]] * 4)
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    write_ome_zarr(tmp_path / "c.zarr", planes, axes="cyx", scale=1, unit=None, version="0.5")
    refuses(tmp_path / "a.ome.tif", "4 channels along axis 0")
    refuses(tmp_path / "c.zarr", "4 channels along axis 0")


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "LA"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_of_other_colours_is_converted(mode: str, compression: str | None, tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(field()).convert(mode)
    picture.save(tmp_path / "a.tif", compression=compression)
    expected = np.asarray(picture.convert("RGB"))
    assert abs(nb.read_plane(tmp_path / "a.tif").data.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (field().astype(np.uint16), {"photometric": "cielab"}, "colours as CIELAB"),
        (np.dstack([field()] * 2)[..., :4].astype(np.uint16), {"photometric": "separated"}, "colours as SEPARATED"),
        (field()[..., 0], {"photometric": "cfa"}, "colours as CFA"),
        (np.moveaxis(field(), -1, 0), {"photometric": "minisblack", "planarconfig": "separate"}, "3 grey channels"),
        (field()[..., :2], {"photometric": "minisblack", "planarconfig": "contig"}, "2 grey channels"),
    ],
)
def test_colours_that_are_not_known_are_refused(
    image: NDArray[Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    refuses(tmp_path / "a.tif", message)


def test_a_fourth_channel_that_is_not_said_to_be_transparency_is_left_out(tmp_path: Path) -> None:
    infrared = np.dstack([field(), field()[..., :1]])
    tifffile.imwrite(tmp_path / "a.tif", infrared, photometric="rgb", extrasamples=["unspecified"])
    with pytest.warns(nb.InputWarning, match="fourth channel"):
        assert_reads(tmp_path / "a.tif", field())


def test_names_of_zarr_axes_are_believed(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((3, 40, 60), np.uint8), dimension_names=["z", "y", "x"])
    refuses(tmp_path / "a.zarr", r"3 planes along axis 0 \('z'\)")


def test_the_shape_in_a_message_is_that_of_the_image() -> None:
    with pytest.raises(nb.InputError, match=r"shape \(1, 3, 2, 40, 50\)"):
        nb.open_slide(np.zeros((1, 3, 2, 40, 50), np.uint8))


# --- files that can be read ------------------------------------------------------------------------------------------


def test_the_photo_of_an_mpo_is_read_and_its_preview_is_not(tmp_path: Path) -> None:
    photo, preview = PIL.Image.fromarray(field(64, 80)), PIL.Image.fromarray(field(32, 40, seed=1))
    photo.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[preview], quality=95)
    with PIL.Image.open(tmp_path / "phone.jpg") as first:
        assert_reads(tmp_path / "phone.jpg", np.asarray(first))


def test_of_two_photos_in_a_file_the_first_is_read_and_said_so(tmp_path: Path) -> None:
    photos = [PIL.Image.fromarray(field(64, 80, seed=i)) for i in range(2)]
    photos[0].save(tmp_path / "stereo.mpo", save_all=True, append_images=photos[1:])
    with pytest.warns(nb.InputWarning, match="2 photos; the first is read"):
        nb.read_plane(tmp_path / "stereo.mpo")


@pytest.fixture
def without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "napari_bloodcell.images.tiff.find_spec", lambda name: None if name == "imagecodecs" else find(name)
    )


@pytest.mark.usefixtures("without_imagecodecs")
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"predictor": True}, {"tile": (16, 16)}])
def test_lzw_is_read_without_imagecodecs(layout: str, options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")  # which writes it
    data = field() if layout == "contig" else np.moveaxis(field(), -1, 0).copy()
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, data, photometric="rgb", planarconfig=layout, compression="lzw", **options)
    assert_reads(path, field())


@pytest.mark.usefixtures("without_imagecodecs")
@pytest.mark.parametrize(("compression", "dtype"), [("zstd", "u1"), ("jpeg2000", "u1"), ("lerc", "u1"), ("lzw", "u2")])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_compression_that_needs_an_extra_says_which(
    compression: str, dtype: str, tile: tuple[int, int] | None, tmp_path: Path
) -> None:
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", field().astype(dtype), photometric="rgb", compression=compression, tile=tile)
    refuses(tmp_path / "a.tif", rf"{compression.upper()}, which needs imagecodecs.*\[wsi\]")


def test_a_cameras_raw_file_under_another_ending_is_refused_and_not_its_preview_read(tmp_path: Path) -> None:
    version = (50706, "B", 4, (1, 4, 0, 0), True)  # DNGVersion
    tifffile.imwrite(tmp_path / "a.tif", field(), photometric="rgb", subfiletype=1, extratags=[version])
    refuses(tmp_path / "a.tif", "camera's raw file")


def test_a_reduced_copy_alone_is_read_and_said_to_be_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", field(), photometric="rgb", subfiletype=1)
    with pytest.warns(nb.InputWarning, match="nothing but reduced copies"):
        assert_reads(tmp_path / "a.tif", field())


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "an HEIC photo"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "an HEIC photo"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "a film"),
        (b"\0\0\0\x0cJXL \r\n", "a JPEG XL image"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04", "an archive"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_what_is_renamed_to_an_image_is_named(start: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(start + bytes(500))
    refuses(tmp_path / "a.jpg", f"is {kind}, whatever its ending")


@pytest.mark.usefixtures("without_imagecodecs")
def test_pages_that_pillow_reads_are_still_a_stack(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", np.stack([field()] * 5), photometric="rgb", compression="lzw")
    refuses(tmp_path / "a.tif", "5 planes")


# --- files and containers of several images --------------------------------------------------------------------------


@pytest.mark.parametrize("is_ome", [False, True])
@pytest.mark.parametrize("is_flagged", [False, True])
def test_a_thumbnail_may_come_first(is_ome: bool, is_flagged: bool, tmp_path: Path) -> None:
    path = tmp_path / ("a.ome.tif" if is_ome else "a.tif")
    with tifffile.TiffWriter(path, ome=is_ome) as tiff:
        for image, size in ((field()[::4, ::4].copy(), 0.8), (field(), 0.2)):
            about = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size} if is_ome else None
            reduced = 1 if is_flagged and size == 0.8 else 0
            tiff.write(image, photometric="rgb", metadata=about, subfiletype=reduced)
    assert_reads(path, field(), 0.2 if is_ome else None)


def container(folder: Path, images: dict[str, Pixels]) -> Path:
    root = zarr.create_group(folder, attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    root.create_group("OME")
    (folder / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    for name, image in images.items():
        root.require_group(name.rpartition("/")[0] or "OME")
        data = np.moveaxis(image, -1, 0)
        write_ome_zarr(folder / name, data, axes="cyx", scale=0.2, unit="micrometer", version="0.5")
    return folder


def test_a_container_means_the_image_beside_which_the_others_are_small(tmp_path: Path) -> None:
    path = container(tmp_path / "a.zarr", {"0": field()[::4, ::4], "1": field()})
    assert_reads(path, field(), 0.2)
    other = container(tmp_path / "b.zarr", {"0": field(), "label": field(20, 20)})
    with pytest.warns(nb.InputWarning, match=r"0 \(40 × 60 pixels\) is read, not label"):
        assert_reads(other, field(), 0.2)


@pytest.mark.parametrize("names", [["0", "1"], ["A/1/0", "A/1/1", "B/2/0"]], ids=["container", "plate"])
def test_a_container_of_several_images_names_them(names: list[str], tmp_path: Path) -> None:
    path = container(tmp_path / "a.zarr", {name: field() for name in names})
    refuses(path, rf"holds {len(names)} images: {names[0]} .* Give the path of one")
    assert_reads(path / names[1], field(), 0.2)


def test_a_plate_of_one_image_is_read(tmp_path: Path) -> None:
    assert_reads(container(tmp_path / "a.zarr", {"A/1/0": field()}), field(), 0.2)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".webp", ".avif", ".gif", ".btf", ".mpo", ".dib", ".tga"])
def test_a_picture_of_any_ending_is_found_and_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"smear{suffix}"
    picture = PIL.Image.fromarray(field(64, 64))
    if suffix == ".btf":
        tifffile.imwrite(path, field(64, 64), bigtiff=True, photometric="rgb")
    else:
        (picture.convert("P") if suffix == ".gif" else picture).save(
            path, **({"format": "JPEG"} if suffix in (".jfif", ".jpe", ".mpo") else {})
        )
    assert find_images(tmp_path) == [path]
    assert nb.read_plane(path).data.shape == (64, 64, 3)


@pytest.mark.parametrize("suffix", [".heic", ".VSI", ".nef", ".lof", ".oib", ".jxl", ".avi", ".isyntax"])
def test_an_image_that_is_not_read_is_found_and_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"smear{suffix}"
    tifffile.imwrite(path, field(), photometric="rgb")
    assert find_images(tmp_path) == [path]
    refuses(path, rf"smear{suffix} is left out: {suffix} files are not read")


def test_napari_offers_the_reader_for_every_ending() -> None:
    from npe2 import PluginManifest

    from tests.napari.conftest import MANIFEST

    patterns = PluginManifest.from_file(MANIFEST).contributions.readers[0].filename_patterns
    own = {"*recipe.json", "*.geojson", "*.bloodcell", "*.zarr"}
    assert set(patterns) == own | {f"*{suffix}" for suffix in IMAGE_SUFFIXES}


# --- orientation, size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiled.tif", ".lzw.tif"])
def test_pixels_are_those_that_people_see(orientation: int, suffix: str, tmp_path: Path) -> None:
    path, exif = tmp_path / f"a{suffix}", PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(field()).save(tmp_path / "seen.png", exif=exif)
    with PIL.Image.open(tmp_path / "seen.png") as stored:
        seen = np.asarray(PIL.ImageOps.exif_transpose(stored))
    if suffix == ".png":
        path = tmp_path / "seen.png"
    elif suffix == ".lzw.tif":
        PIL.Image.fromarray(field()).save(path, compression="tiff_lzw", tiffinfo={0x0112: orientation})
    else:
        tile = (16, 16) if "tiled" in suffix else None
        tag = [(0x0112, "H", 1, orientation, True)]
        tifffile.imwrite(path, field(), photometric="rgb", tile=tile, extratags=tag)
    with pytest.warns(nb.InputWarning, match=f"EXIF orientation {orientation}"):
        assert_reads(path, seen)


def test_what_was_done_to_an_image_is_said_once_and_at_the_callers_line(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    PIL.Image.fromarray(field()).save(tmp_path / "a.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plane = nb.read_plane(tmp_path / "a.jpg")
    (one,) = said
    assert one.filename == __file__
    assert "EXIF orientation 3" in str(one.message)
    assert plane.warnings == ()


def test_a_picture_of_more_pixels_than_pillow_allows_is_opened(tmp_path: Path) -> None:
    PIL.Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")  # 200 megapixels
    limit = PIL.Image.MAX_IMAGE_PIXELS
    slide = nb.open_slide(tmp_path / "large.png")
    assert (slide.shape, limit) == ((10_000, 20_000), PIL.Image.MAX_IMAGE_PIXELS)
    assert not slide.read((9_990, 0, 10_000, 10)).any()


def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path: Path, decoded: list[str]) -> None:
    PIL.Image.new("1", (40_000, 40_000)).save(tmp_path / "bomb.png")
    decoded.clear()
    refuses(tmp_path / "bomb.png", "not read at once")
    assert decoded == []
