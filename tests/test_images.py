"""Any picture in, one array out; working sizes; labels back at full size."""
import io
import logging
import lzma
import struct
import threading
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from dynaseg.images import (InputError, MissingFileError, _depth, load_image, pages, read_image, standardise, to_tensor,
                            valid_at,
                            warn, working_size)
from dynaseg.network import labels_at

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGB[0, 0] = 255  # a picture whose largest value is 255 tells its scale

BYTES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(2, 6), st.integers(1, 4))).map(
    lambda a: np.concatenate([[255], a.ravel()[1:]]).astype(np.uint8).reshape(a.shape))


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def bytes_of(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


# --- the contract

def test_result_is_a_fresh_contiguous_float32_array():
    for given_ in (RGB, RGB / np.float32(255), RGB[::-1, ::2], RGB > 90, np.asfortranarray(RGB)):
        before = given_.copy()
        image = load_image(given_)
        assert image.shape == given_.shape and image.dtype == np.float32 and image.flags.c_contiguous
        assert not np.shares_memory(image, given_)
        image[:] = 0.5
        np.testing.assert_array_equal(given_, before)


def test_input_error_is_a_value_error():
    with pytest.raises(ValueError): load_image(np.zeros((0, 3)))


@given(BYTES)
def test_one_picture_in_every_number_format(a):
    "The values are those of uint8 / 255, computed here in float64."
    expected = a.astype(float) / 255
    wide = a.astype(np.uint16) * 257
    same = [a, wide, wide.astype(">u2"), expected, expected.astype(">f8"), expected.astype(np.float32),
            expected.astype(np.longdouble)]
    same += [a.astype(t) for t in (np.int16, np.int64, np.uint32)] + [wide.astype(t) for t in (np.int32, np.uint64)]
    for b in same: close(load_image(b), expected)
    close(load_image(expected.astype(np.float16)), expected, 1e-3)


@given(BYTES)
def test_array_tensor_and_file_agree(a):
    tensor = torch.from_numpy(a).permute(2, 0, 1)
    np.testing.assert_array_equal(load_image(tensor), load_image(a))
    np.testing.assert_array_equal(load_image(a.tolist()), load_image(a.astype(int)))
    np.testing.assert_array_equal(load_image(a[..., 0]), load_image(a[..., :1]))
    np.testing.assert_array_equal(load_image(torch.from_numpy(a[..., 0])), load_image(a[..., :1]))


def test_path_string_pil_and_array_agree(tmp_path):
    path = tmp_path / "a photo, été.png"
    Image.fromarray(RGB).save(path)
    for same in (path, str(path), Image.open(path), Image.fromarray(RGB), torch.tensor(RGB).permute(2, 0, 1)):
        np.testing.assert_array_equal(load_image(same), load_image(RGB))


def test_tensors_of_every_kind():
    t = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = t.permute(1, 2, 0).numpy()
    close(load_image(t.clone().requires_grad_()), expected)
    close(load_image(t.double()), expected)
    close(load_image(t.half()), expected, 1e-3)
    close(load_image(t.bfloat16()), expected, 1e-2)


def test_other_ranges_are_stretched_with_a_warning_that_names_them():
    for a in ([[-40.0, 60.0]], [[-40, 60]], [[0.5, 300.0]], [[0, 70_000]], [[-3, 255]]):
        with pytest.warns(UserWarning, match=rf"{a[0][0]:g} to {a[0][1]:g}.*stretched"): image = load_image(a)
        assert image.ravel().tolist() == [0, 1]
    with pytest.warns(UserWarning): assert (load_image(np.full((3, 3), -7.0)) == 0).all()
    top = np.finfo(np.float64).max
    with pytest.warns(UserWarning): assert load_image(np.array([[-top, 0, top]])).ravel().tolist() == [0, 0.5, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(RGB), load_image(RGB / 255), load_image(np.array([[0, 65535]]))


@given(hnp.arrays(st.sampled_from([np.int8, np.int32, np.int64, np.uint64, np.float32, np.float64]), (2, 3),
                  elements=None))
def test_any_numbers_end_in_the_unit_interval_or_in_an_input_error(a):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: image = load_image(a)
        except InputError: assert not np.isfinite(a).all()
        else: assert image.min() >= 0 and image.max() <= 1 and image.dtype == np.float32


@pytest.mark.parametrize("shape, result", [((9, 8), (9, 8, 1)), ((9, 2), (9, 2, 1)), ((2, 1, 3), (2, 1, 3)),
                                           ((1, 2), (1, 2, 1)),
                                           ((9, 8, 1), (9, 8, 1)), ((9, 8, 12), (9, 8, 12)),
                                           ((40, 3, 64), (40, 3, 64))])
def test_bands_and_narrow_shapes(shape, result):
    assert load_image(np.ones(shape)).shape == result


# --- files

@pytest.mark.parametrize("mode, suffix", [("RGB", "png"), ("RGB", "bmp"), ("RGB", "tif"), ("CMYK", "tif"),
                                          ("CMYK", "jpg"),
                                          ("YCbCr", "jpg"), ("RGB", "webp"), ("P", "png"), ("P", "gif"),
                                          ("RGBA", "png"), ("LA", "png")])
def test_colour_files_become_rgb(tmp_path, mode, suffix):
    colour = Image.new("RGB", (40, 30), (250, 30, 90))
    colour.paste((20, 200, 130), (0, 0, 20, 30))
    path = tmp_path / f"photo.{suffix}"
    stored = (
        colour.quantize(4)
        if mode == "P"
        else colour.convert("L").convert("LA")
        if mode == "LA"
        else colour.convert(mode)
    )
    assert stored.mode == mode
    stored.save(path, quality=95)
    image = load_image(path)
    assert image.shape == (30, 40, 3)
    expected = np.asarray(colour.convert("L").convert("RGB") if mode == "LA" else colour) / 255
    lossy = 0.1 if suffix in ("jpg", "webp") else 1e-6
    close(image[5:25, 5:15], expected[5:25, 5:15], lossy)
    close(image[5:25, 25:35], expected[5:25, 25:35], lossy)


def test_grey_files_keep_one_band_and_their_depth(tmp_path):
    deep = RNG.integers(0, 65536, (4, 6)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"): close(load_image(tmp_path / name)[..., 0], deep / 65535)
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    close(load_image(tmp_path / "grey.png")[..., 0], RGB[..., 0] / 255)
    Image.fromarray((RGB[..., 0] / 255).astype(np.float32)).save(tmp_path / "float.tif")
    close(load_image(tmp_path / "float.tif")[..., 0], RGB[..., 0] / 255)
    Image.fromarray(RGB[..., 0] > 99).save(tmp_path / "bits.png")
    close(load_image(tmp_path / "bits.png")[..., 0], RGB[..., 0] > 99)


def test_a_dark_16_bit_picture_is_dark_in_either_byte_order(tmp_path):
    dark = np.array([[10, 200], [3, 40]])
    little, big = (load_image(dark.astype(order + "u2")) for order in "<>")
    close(little[..., 0], dark / 65535, 1e-7)
    np.testing.assert_array_equal(big, little)
    image = Image.frombytes("I;16B", (2, 2), dark.astype(">u2").tobytes())
    np.testing.assert_array_equal(load_image(image), little)


ORIENTED = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
            5: lambda a: a.swapaxes(0, 1),
            6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a)}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation_is_followed(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "photo.png"), load_image(ORIENTED[orientation](RGB)))


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.dstack([RGB, RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image, opacity = load_image(tmp_path / "a.png"), rgba[..., 3:] / 255
    close(image, RGB / 255 * opacity + 1 - opacity, 1.01 / 255)
    assert image[0, 0].tolist() == [1, 1, 1]
    close(image[0, 1], RGB[0, 1] / 255)
    palette = Image.new("P", (3, 1), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    close(load_image(tmp_path / "p.png"), [[[1, 1, 1]] + [[40 / 255, 50 / 255, 60 / 255]] * 2])


def test_the_bands_of_an_array_are_taken_as_they_are():
    rgba = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    close(load_image(rgba), rgba / 255)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (6, 5), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="page 1 of 2"):
        close(load_image(tmp_path / "a.gif"), np.broadcast_to([1, 0, 0], (5, 6, 3)))


def test_npy_files_hold_any_number_of_bands(tmp_path):
    bands = RNG.random((6, 5, 12))
    np.save(tmp_path / "satellite.npy", bands)
    close(load_image(tmp_path / "satellite.npy"), bands)


# --- files that are none

def complaint(image, *words):
    "The message of the InputError: it holds the words, and advice that is more than the value."
    with pytest.raises(InputError) as caught: load_image(image)
    for word in words: assert str(word) in str(caught.value), (word, str(caught.value))
    assert len(str(caught.value)) > 40 and "\n" not in str(caught.value).strip()
    return str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such\.jpg.*Check the path"): load_image(tmp_path / "no such.jpg")
    complaint(tmp_path, tmp_path.name, "not a file", "expected the path of one image")


def test_a_path_that_no_file_system_takes():
    "For example the base64 text of a picture, passed where its path belongs."
    with pytest.raises((InputError, FileNotFoundError)) as caught: load_image("x" * 50_000)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("suffix", ["png", "jpg", "npy", "tif"])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"nothing.{suffix}"
    path.touch()
    complaint(path, "nothing", "empty", "expected an image file")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_file(tmp_path, format, share):
    data = bytes_of(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * share)])
    complaint(path, "cut.img", "cannot be read as an image", "Expected a whole file")


@pytest.mark.parametrize("data", [b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", bytes(1000)])
def test_not_an_image(tmp_path, data):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    complaint(path, "photo.jpg", "cannot be read as an image", "format that Pillow opens")


@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "PNG of 16 bits", "TIFF of several pages"]),
       st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_damaged_files_load_or_complain(tmp_path, format, damage):
    odd = {"PNG of 16 bits": png16(DEEP),
           "TIFF of several pages": tiff(STACK, photometric="minisblack", compression="zlib")}
    data = bytearray(odd[format] if format in odd else bytes_of(Image.fromarray(RGB), format))
    for where, change in damage:
        i = int(where * (len(data) - 1))
        data[i:i + len(change)] = change
    path = tmp_path / "damaged.img"
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: image = load_image(path)
        except InputError as e: assert "damaged.img" in str(e)
        else: assert image.ndim == 3 and 0 <= image.min() <= image.max() <= 1
    ours = ("The image's values", "Band ", "Every pixel", "This is page", "The file has", "The file is damaged")
    for w in caught: assert str(w.message).startswith(ours)  # no remark of a decoder reaches the user


def test_decompression_bomb(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # Pillow refuses above twice that
    assert load_image(path).shape == (100, 100, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)
    message = complaint(path, "bomb.png", "10000 pixels", "MAX_IMAGE_PIXELS")
    assert "refused" in message


def test_npy_bomb_and_pickle(tmp_path):
    from numpy.lib import format
    bomb, pickled, cut = (tmp_path / f"{n}.npy" for n in ("bomb", "pickled", "cut"))
    with open(bomb, "wb") as f:
        format.write_array_header_1_0(f, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
        f.write(bytes(100))
    np.save(pickled, np.array([[{}, 1]], dtype=object), allow_pickle=True)
    np.save(cut, np.zeros((20, 20)))
    cut.write_bytes(cut.read_bytes()[:-8])
    for path in (bomb, pickled, cut): complaint(path, path.name, "cannot be read")


def test_npy_files_of_sparse_zeros_or_of_nothing_are_bombs(tmp_path, monkeypatch):
    "A file of 2 gigabytes that takes a block on the disk; items of 0 bytes, of which a million millions take none."
    from numpy.lib import format
    sparse, nothing, archive = (tmp_path / f"{name}.npy" for name in ("sparse", "nothing", "archive"))
    with open(sparse, "wb") as file:
        format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (30_000, 30_000, 3)})
        file.truncate(128 + 30_000 * 30_000 * 3)
    with open(nothing, "wb") as file:
        format.write_array_header_1_0(file, {"descr": "|V0", "fortran_order": False, "shape": (10**6, 10**6)})
    for path in (sparse, nothing): complaint(path, path.name, "is refused", "000 pixels", "MAX_IMAGE_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    np.save(archive, np.zeros((20, 10, 10), np.uint8))
    assert load_image(archive, axes="ZYX", page=3).shape == (10, 10, 1)  # a page counts, not the stack
    with open(archive, "wb") as file: np.savez(file, a=np.zeros((9, 9)))
    complaint(archive, archive.name, "several arrays")


def written(path, array, **how):
    "A TIFF file of the array, as bytes."
    tifffile.imwrite(path, array, **how)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("compression, pack", [(8, zlib.compress), (34925, lzma.compress), (32773, None)])
def test_a_strip_that_unpacks_to_more_than_its_part_is_a_bomb(tmp_path, compression, pack):
    "300 kB in the place of 100 bytes, by deflate and LZMA; a PackBits strip that is longer than what it may hold."
    strip = bytes(200_000) if pack is None else pack(bytes(300_000))
    path = tmp_path / "bomb.tif"
    data = written(path, np.zeros((10, 10), np.uint8), metadata=None)
    with tifffile.TiffFile(path) as file: tags = {tag.code: tag.valueoffset for tag in file.pages[0].tags}
    data[tags[259]: tags[259] + 2] = compression.to_bytes(2, "little")
    data[tags[273]: tags[273] + 4] = len(data).to_bytes(4, "little")
    data[tags[279]: tags[279] + 4] = (len(strip) + 2**16 * (pack is not None)).to_bytes(4, "little")
    path.write_bytes(data + strip + bytes(2**16))
    complaint(path, path.name, "unpacks to more than")


def test_strips_and_tiles_that_hold_what_they_should_are_read(tmp_path):
    big = np.random.default_rng(0).integers(0, 255, (150, 300, 3), dtype=np.uint8)
    for how in (dict(rowsperstrip=150), dict(tile=(256, 256)), dict(rowsperstrip=10)):
        for compression in ("deflate", "lzma"):
            written(tmp_path / "x.tif", big, compression=compression, photometric="rgb", **how)
            np.testing.assert_allclose(load_image(tmp_path / "x.tif"), big / 255, atol=1e-6)


def test_a_tile_that_is_cut_short_is_told_without_compression_too(tmp_path):
    "Its file says itself how long it is: nothing lies behind its end, and zeros would take the place of the rest."
    path = tmp_path / "x.tif"
    data = written(path, np.full((40, 40), 7, np.uint8), tile=(64, 64), metadata=None)
    np.testing.assert_allclose(load_image(path), 7 / 255, atol=1e-6)
    with tifffile.TiffFile(path) as file: at = file.pages[0].tags[325].valueoffset
    data[at: at + 4] = (64 * 30).to_bytes(4, "little")
    path.write_bytes(data)
    complaint(path, path.name, "cut short")


OME = ('<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
       'DimensionOrder="XYZCT" Type="uint8" SizeX="{x}" SizeY="10" SizeZ="1" SizeC="1" SizeT="{t}"><TiffData {more}/>'
       '</Pixels></Image></OME>')


@pytest.mark.parametrize("lie", [dict(x=10, t=10**9, more=""), dict(x=10**12, t=1, more=""),
                                 dict(x=10, t=2, more='PlaneCount="1000000000"'),
                                 dict(x=10, t=2, more='FirstT="1000000000"')])
def test_notes_that_speak_of_too_many_pages_are_passed_over(tmp_path, lie):
    "tifffile would make a list of a thousand million pages: 8 GB of memory for a file of 700 bytes."
    picture = RNG.integers(0, 256, (10, 10), dtype=np.uint8)
    written(tmp_path / "x.ome.tif", picture, description=OME.format(**lie), metadata=None)
    with pytest.warns(UserWarning, match="perhaps not all of its pages|perhaps not all of its pictures"):
        found = load_image(tmp_path / "x.ome.tif")
    np.testing.assert_allclose(found[..., 0], picture / 255, atol=1e-6)
    written(tmp_path / "x.ome.tif", picture, description=OME.format(x=10, t=2, more=""), metadata=None)
    assert read_image(tmp_path / "x.ome.tif", page=1).meta["pages"] == 2  # one of them is not there: zeros


@pytest.mark.parametrize("name", ["drawing.eps", "photo.jpg"])
def test_no_other_program_is_started_for_a_file(tmp_path, monkeypatch, name):
    "Pillow gives PostScript to Ghostscript, which runs it as the program that it is, whatever the file is called."
    from PIL import EpsImagePlugin
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **more: Image.new("RGB", (9, 9)))
    (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n")
    complaint(tmp_path / name, name, "a drawing")


@pytest.mark.parametrize("array, words", [(np.zeros((3, 4), [("a", "f4")]), "dtype"), (np.zeros((1, 1)), "1 pixel"),
                                          (np.full((3, 4), np.nan), "Of 12 pixels only 0")])
def test_whatever_is_wrong_with_a_file_it_is_named(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array)
    complaint(tmp_path / "x.npy", str(tmp_path / "x.npy"), words)
    with pytest.raises(InputError, match="x.npy"): list(pages(tmp_path / "x.npy"))


def test_a_decoder_s_words_are_one_line_without_places_in_memory(tmp_path):
    path = tmp_path / "nothing.png"
    Image.new("L", (3, 3)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = bytes(8)  # 0 by 0 pixels
    assert "object at" not in complaint(bytes(data), "cannot identify image file)")
    many = b"\x93NUMPY\1\0" + (40_000).to_bytes(2, "little") + b"{'shape': " + b"(" * 39_990
    assert "\n" not in complaint(many, "Header info length")


# --- arrays that are none

@pytest.mark.parametrize("image, words", [
    (np.zeros((0, 20)), ["(0, 20)", "no pixels", "at least 2"]),
    (np.zeros((20, 0, 3)), ["(20, 0, 3)", "no pixels"]),
    (np.zeros((20, 20, 0)), ["(20, 20, 0)", "no pixels"]),
    (np.zeros((1, 1)), ["1 pixel", "at least 2"]),
    (np.zeros((1, 1, 3)), ["1 pixel", "at least 2"]),
    (torch.zeros(3, 1, 1), ["1 pixel", "at least 2"]),
    (np.zeros(7), ["1 dimension,", "(7,)", "expected one image"]),
    (np.zeros((8, 20, 20, 3)), ["4 dimensions", "(8, 20, 20, 3)", "one by one"]),
    (np.zeros((3, 480, 640)), ["(3, 480, 640)", "640 bands", "axes='CYX'"]),
    (np.zeros((1, 48, 64)), ["1×48 pixels with 64 bands", "swapped"]),
    (torch.zeros(2, 3, 48, 64), ["4 dimensions", "(2, 3, 48, 64)"]),
    (np.full((4, 4), np.nan), ["Of 16 pixels only 0", "16 pixels hold 16 values that are NaN", "at least 2"]),
    (np.array([[0, np.inf], [-np.inf, np.nan]]), ["Of 4 pixels only 1", "infinite"]),
    (torch.tensor([[0.0, float("nan")]]), ["1 pixels hold 1 values", "NaN"]),
    (np.zeros((4, 4), complex), ["complex128", "expected bool, integers or floats"]),
    (np.zeros((4, 4), "M8[s]"), ["datetime64", ".astype"]),
    (np.array([["a", "b"]]), ["dtype <U1", ".astype"]),
    (None, ["NoneType", "None", "expected a path"]),
    (7, ["int", "7", "expected a path"]),
    (b"photo.jpg", ["9 bytes", "photo.jpg", "cannot be read as an image"]),
    (b"", ["empty"]),
    ({"a": 1}, ["dict", "expected a path"]),
    ([[0, 1], [1]], ["list", "NumPy"]),
])
def test_bad_arrays(image, words):
    complaint(image, *words)


# --- numbers of every range

# (52, 45), from 0 to 255
PHOTO = np.clip(np.add.outer(np.arange(0, 256, 5), np.arange(0, 90, 2)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_a_cameras_numbers_give_the_same_picture(bits, dtype):
    close(load_image((PHOTO / 255 * (2**bits - 1)).round().astype(dtype))[..., 0], PHOTO / 255, 0.6 / (2**bits - 1))


@pytest.mark.parametrize("largest, top", [(255, 65535), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095),
                                          (4096, 16383), (16384, 65535)])
def test_the_fewest_bits_that_hold_the_largest_number(largest, top):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(load_image(np.array([[0, largest]], np.uint16)).ravel(), [0, largest / top])


@pytest.mark.parametrize("numbers", [PHOTO.astype(float), PHOTO.astype(np.float16), PHOTO / 127.5 - 1,
                                     PHOTO * 0.5 + 0.25, PHOTO * 2.0**24, PHOTO * 1e30 - 1e31])
def test_floats_of_any_range_give_the_same_picture(numbers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(load_image(numbers)[..., 0], PHOTO / 255, 1e-4)


def test_an_overshoot_below_one_step_of_8_bits_is_cut_off():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(np.array([[-0.003, 0.5, 1.003]])).ravel().tolist() == [0, 0.5, 1]
    with pytest.warns(UserWarning, match="stretched"):
        assert load_image(np.array([[-0.5, 0.5, 1.5]])).ravel().tolist() == [0, 0.5, 1]


def test_zeros_and_ones_of_wide_types_are_a_mask():
    for dtype in (int, float, bool): assert load_image(np.array([[0, 1]], dtype)).ravel().tolist() == [0, 1]


def test_nearly_black_pictures_are_told():
    with pytest.warns(UserWarning, match=r"only 1 of 255.*value_range=\(0, 1\)"):
        load_image(np.array([[0, 1]], np.uint8))
    with pytest.warns(UserWarning, match="only 250 of 65535"): load_image(np.array([[0, 250]], np.uint16))


def test_value_range_says_what_is_0_and_1():
    "By hand: (300 - 200) / (600 - 200) = 1/4; 100 and 700 lie outside."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (int, np.uint16, np.float32):
            assert load_image(np.array([[100, 300, 600, 700]], dtype),
                              value_range=(200, 600)).ravel().tolist() == [0, 0.25, 1, 1]
    picture = read_image(np.array([[0, 1000]], np.uint16))
    assert picture.meta["value_range"] == (0, 1023) and picture.meta["dtype"] == "uint16"


@pytest.mark.parametrize("wrong", [(3, 1), (1, 1), 7, (0, float("nan")), "ab", (1, 2, 3)])
def test_wrong_value_range(wrong):
    with pytest.raises(InputError, match="value_range=.*low < high"): load_image(RGB, value_range=wrong)


# --- which axis is which

@pytest.mark.parametrize("shape", [(2, 60, 80), (6, 60, 80), (12, 400, 600), (3, 20, 20), (8, 100, 100), (1, 50, 70),
                                   (200, 145, 160)])
def test_bands_first_are_refused_as_an_array_and_read_if_said(shape):
    a = np.zeros(shape, np.uint8)
    complaint(a, str(shape), "axes='CYX'", "axes='YXC'")
    assert load_image(a, axes="CYX").shape == (shape[1], shape[2], shape[0])
    assert load_image(a, axes="yxc").shape == shape


@pytest.mark.parametrize("shape", [(60, 80, 3), (60, 60, 4), (400, 600, 12), (20, 20, 20)])
def test_bands_last_are_refused_as_a_tensor(shape):
    complaint(torch.zeros(shape), str(shape), "tensor", "axes='YXC'")
    assert load_image(torch.zeros(shape), axes="YXC").shape == shape


@pytest.mark.parametrize("shape", [(145, 145, 200), (512, 217, 204), (30, 40, 29), (400, 600, 4), (3, 500, 4)])
def test_bands_last_are_beyond_doubt_as_an_array(shape):
    assert load_image(np.zeros(shape, np.uint8)).shape == shape
    assert load_image(torch.zeros(shape[::-1], dtype=torch.uint8)).shape == (shape[1], shape[0], shape[2])


@pytest.mark.parametrize("shape", [(240_000, 3), (17, 4), (50_000, 12), (1000, 1)])
def test_lists_of_pixels_are_no_pictures(shape):
    complaint(np.zeros(shape), str(shape), "list of", "Reshape", "axes='YX'")
    assert load_image(np.zeros(shape), axes="YX").shape == (*shape, 1)


@pytest.mark.parametrize("axes", ["", "Y", "YXX", "CZ", "Y-X", 3, "YXCZ", "YX"])
def test_wrong_axes(axes):
    with pytest.raises(InputError, match="axes="): load_image(RGB, axes=axes)


def test_axes_put_each_number_in_its_place():
    cube = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    for axes, page, expected in [("ZCYX", 2, cube[1].transpose(1, 2, 0)), ("YXZC", 1, cube[:, :, 0]),
                                 ("TZYX", 4, cube[1, 0][..., None]), ("XYCT", 5, cube[..., 4].transpose(1, 0, 2)),
                                 ("CYXS", 2, cube[1])]:
        image = load_image(cube, axes=axes, page=page, value_range=(0, 255))
        close(image, expected / 255)
    with pytest.raises(InputError, match="page=3; the array has 2 pages: expected a whole number from 1 to 2"):
        load_image(cube, axes="ZCYX", page=3)


class Named:
    "What an xarray has that matters here."
    def __init__(self, a, dims, **attrs):
        self.data, self.dims, self.attrs, self.shape, self.dtype = a, dims, attrs, a.shape, a.dtype

    def __getitem__(self, where): return Named(self.data[where], self.dims, **self.attrs)

    def __array__(self, dtype=None, copy=None): return np.asarray(self.data, dtype)


def test_objects_with_named_axes():
    "Also one that computes late, as dask does, and one that reads from a store, as zarr does."
    class Late:
        def __init__(self, a): self.a, self.shape, self.dtype = a, a.shape, a.dtype
        def __getitem__(self, where): return Late(self.a[where])
        def compute(self): return self.a
    bands = np.moveaxis(RGB, -1, 0)
    for image in (Named(bands, ("band", "y", "x")), Named(RGB, ("lat", "lon", "wavelength")),
                  Named(Late(bands), ("band", "y", "x"))):
        np.testing.assert_array_equal(load_image(image), load_image(RGB))
    times = Named(bands, ("time", "y", "x"))
    with pytest.warns(UserWarning, match="page 1 of 3"): close(load_image(times), RGB[..., :1] / 255)
    close(load_image(times, page=3, value_range=(0, 255)), RGB[..., 2:] / 255)
    picture = read_image(Named(np.array([[1.0, -999], [2, 3]]), ("y", "x"), _FillValue=-999.0), value_range=(0, 4))
    assert picture.valid.tolist() == [[True, False],
                                      [True, True]] and picture.pixels.ravel().tolist() == [0.25, 0.5, 0.5, 0.75]


def test_a_rasterio_dataset_has_its_bands_first():
    class Dataset:
        nodata = 7
        def read(self): return np.array([[[1, 7]] * 20, [[3, 7]] * 20], np.uint8)
    picture = read_image(Dataset(), value_range=(0, 4))
    assert (
        picture.pixels.shape == (20, 2, 2)
        and picture.pixels[0, 0].tolist() == [0.25, 0.75]
        and picture.valid[0].tolist() == [True, False]
    )


# --- TIFF

H, W = 24, 32
RAMP = np.arange(H * W).reshape(H, W)
DEEP = np.dstack([RAMP * 85, RAMP[::-1] * 80, RAMP[:, ::-1] * 70]).astype(np.uint16)  # 16 bits: 767 * 85 = 65195


def tiff(*pictures, **how):
    "The bytes of a TIFF file; each picture an array, or (array, its own options)."
    file = io.BytesIO()
    big = how.pop("bigtiff", False)
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=how.pop("byteorder", None),
                             **{k: how.pop(k) for k in ("imagej", "ome") if k in how}) as writer:
        for picture in pictures:
            a, own = picture if isinstance(picture, tuple) else (picture, {})
            writer.write(a, **how | own)
    return file.getvalue()


@pytest.mark.parametrize("how", [{}, dict(bigtiff=True), dict(tile=(16, 16)), dict(byteorder=">"),
                                 dict(compression="zlib"), dict(compression="zlib", predictor=True),
                                 dict(rowsperstrip=5), dict(metadata=None), dict(compression="lzma", tile=(32, 16)),
                                 dict(ome=True)])
@pytest.mark.parametrize("planes", [False, True])
def test_no_bit_of_a_tiff_is_lost(tmp_path, how, planes):
    a = np.moveaxis(DEEP, -1, 0).copy() if planes else DEEP
    data = tiff(a, photometric="rgb", planarconfig="separate" if planes else "contig", **how)
    (tmp_path / "a.tif").write_bytes(data)
    for source in (data, tmp_path / "a.tif", io.BytesIO(data)):
        np.testing.assert_array_equal(load_image(source), DEEP / np.float32(65535))


@pytest.mark.parametrize("n", [1, 2, 4, 5, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_any_number_of_bands_of_any_type(n, dtype):
    a = np.dstack([np.roll(RAMP, k) for k in range(n)]).astype(dtype)
    how = dict(photometric="minisblack")
    if n > 1: how |= dict(planarconfig="contig", extrasamples=["unspecified"] * (n - 1))
    else: a = a[..., 0]
    close(load_image(tiff(a, **how), value_range=(0, 1000)), (a.reshape(H, W, n) / 1000).clip(0, 1))
    if n > 1:
        close(load_image(tiff(np.moveaxis(a, -1, 0).copy(), photometric="minisblack", planarconfig="separate"),
                         value_range=(0, 1000)), (a / 1000).clip(0, 1))


def test_an_array_that_was_saved_without_a_word_is_that_array():
    bands = np.dstack([DEEP, DEEP[..., :2]])
    np.testing.assert_array_equal(load_image(tiff(bands)), load_image(bands))


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_palettes_of_either_scale(factor):
    palette = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    palette[:, 0] = 255
    indices = (RAMP % 256).astype(np.uint8)
    close(load_image(tiff(indices, photometric="palette", colormap=palette * factor)),
          np.moveaxis(palette[:, indices], 0, -1) / 255)


def test_a_palette_of_16_bits_keeps_them():
    palette = np.zeros((3, 256), np.uint16)
    palette[0] = np.arange(256) * 250 + 3
    close(load_image(tiff((RAMP % 256).astype(np.uint8), photometric="palette", colormap=palette))[..., 0],
          ((RAMP % 256) * 250 + 3) / 65535)


def test_white_is_zero():
    grey = (RAMP % 256).astype(np.uint8)
    close(load_image(tiff(grey, photometric="miniswhite"))[..., 0], 1 - grey / 255)
    close(load_image(tiff(RAMP > 300))[..., 0], RAMP > 300)
    close(load_image(bytes_of(Image.fromarray(RAMP > 300), "TIFF"))[..., 0], RAMP > 300)


def test_a_band_is_transparency_only_if_it_looks_like_it():
    rgb = (DEEP >> 8).astype(np.uint8)
    infrared = np.dstack([rgb, rgb[..., 0]])
    close(load_image(tiff(infrared, photometric="rgb", extrasamples=["unspecified"])), infrared / 255)
    with pytest.warns(UserWarning, match="Band 4 is marked as transparency"):
        close(load_image(tiff(infrared, photometric="rgb", extrasamples=["unassalpha"])), infrared / 255)
    opacity = np.where(RAMP % W < 9, 0, 255).astype(np.uint8)
    opacity[:, 9] = 51
    picture = read_image(tiff(np.dstack([rgb, opacity]), photometric="rgb", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(picture.valid, opacity > 0)
    close(picture.pixels[:, 10:], rgb[:, 10:] / 255)
    close(picture.pixels[:, 9], rgb[:, 9] / 255 * 0.2 + 0.8)
    assert (picture.pixels[:, :9] == 1).all()
    premultiplied = (rgb * (opacity[..., None] / 255)).round().astype(np.uint8)
    close(load_image(tiff(np.dstack([premultiplied, opacity]), photometric="rgb", extrasamples=["assocalpha"])),
          picture.pixels, 3 / 255)
    full = np.dstack([infrared, np.full((H, W), 255, np.uint8)])  # near infrared, and transparency as well
    close(load_image(tiff(full, photometric="rgb", extrasamples=["unspecified", "unassalpha"])), infrared / 255)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 2)])
@pytest.mark.parametrize("how", [{}, dict(imagej=True), dict(ome=True), dict(metadata=None)])
def test_one_row_or_column(shape, how):
    a = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape) * 8000
    close(load_image(tiff(a, **how), value_range=(0, 65535))[..., 0], a / 65535)


STACK = np.stack([DEEP[..., 0] // k for k in (1, 2, 3, 4)])


@pytest.mark.parametrize("how, axes", [(dict(imagej=True), "ZYX"), (dict(imagej=True), "TYX"), (dict(ome=True), "ZYX"),
                                       (dict(ome=True, compression="zlib"), "TYX"), ({}, "ZYX")])
def test_stacks_say_that_they_are(how, axes):
    data = tiff(STACK, photometric="minisblack", metadata={"axes": axes}, **how)
    with pytest.warns(UserWarning, match="page 1 of 4.*page=2.*pages"):
        close(load_image(data)[..., 0], STACK[0] / 65535)
    close(load_image(data, page=3, value_range=(0, 65535))[..., 0], STACK[2] / 65535)
    picture = read_image(data, page=2)
    assert (picture.meta["page"], picture.meta["pages"], picture.meta["axes"]) == (2, 4, axes)
    for k, picture in enumerate(pages(data)): close(picture.pixels[..., 0], STACK[k] / 65535)


@pytest.mark.parametrize("how", [dict(imagej=True), dict(ome=True), dict(ome=True, tile=(16, 16))])
def test_channels_are_bands_and_slices_are_pages(how):
    cube = np.stack([STACK[:3], STACK[1:]])
    close(load_image(tiff(STACK[:3], photometric="minisblack", metadata={"axes": "CYX"}, **how)),
          np.moveaxis(STACK[:3], 0, -1) / 65535)
    close(load_image(tiff(cube, photometric="minisblack", metadata={"axes": "ZCYX"}, **how), page=2,
                     value_range=(0, 65535)), np.moveaxis(cube[1], 0, -1) / 65535)
    if "ome" in how:  # ImageJ has one order only
        close(load_image(tiff(cube, photometric="minisblack", metadata={"axes": "CZYX"}, **how), page=3,
                         value_range=(0, 65535)), np.moveaxis(cube[:, 2], 0, -1) / 65535)


def test_axes_overrule_those_of_a_file():
    for how in ({}, dict(metadata=None), dict(imagej=True, metadata={"axes": "ZYX"})):
        close(load_image(tiff(STACK, photometric="minisblack", **how), axes="CYX"), np.moveaxis(STACK, 0, -1) / 65535)
    with pytest.raises(InputError, match="the axes of a photo are 'YXC'"):
        load_image(bytes_of(Image.fromarray(RGB), "PNG"), axes="CYX")


def test_pictures_of_several_sizes_are_pages_in_their_order_and_small_copies_are_none():
    rgb = (DEEP >> 8).astype(np.uint8)
    data = tiff((rgb, dict(photometric="rgb")), (rgb[::2, ::2].copy(), dict(photometric="rgb", subfiletype=1)),
                (rgb[:9, :5].copy(), dict(photometric="rgb")), DEEP[..., 0], metadata=None)
    read = list(pages(data))
    for picture, expected in zip(read, [rgb / 255, rgb[:9, :5] / 255, DEEP[..., :1] / 65535], strict=True):
        close(picture.pixels, expected)
    below = tiff((rgb, dict(subifds=1)), (rgb[::2, ::2].copy(), dict(subfiletype=1)), photometric="rgb", metadata=None)
    assert read_image(below).meta["pages"] == 1


def test_the_mask_of_gdal_says_which_pixels_have_data():
    """A page of its own, of the kind 4 (transparency mask). tifffile does not write one: it is written as a page, then
    the tags are turned."""
    rgb = (DEEP >> 8).astype(np.uint8)
    data = bytearray(tiff((rgb, dict(photometric="rgb")),
                          (np.where(RAMP % W < 5, 0, 255).astype(np.uint8),
                           dict(subfiletype=1, photometric="minisblack")), metadata=None))
    with tifffile.TiffFile(io.BytesIO(data)) as tif: at = tif.pages[1].tags[254].valueoffset
    data[at:at + 4] = struct.pack("<I", 4)
    picture = read_image(bytes(data))
    assert picture.meta["pages"] == 1
    np.testing.assert_array_equal(picture.valid, RAMP % W >= 5)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_orientation_of_a_tiff(orientation):
    tag = (274, 3, 1, orientation, True)
    for compression in (None, "zlib"):
        np.testing.assert_array_equal(load_image(tiff(RGB, photometric="rgb", compression=compression,
                                                      extratags=[tag])), load_image(ORIENTED[orientation](RGB)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate"])
def test_compressed_photos(compression):
    smooth = np.dstack([RAMP // 4] * 3).astype(np.uint8)
    close(load_image(bytes_of(Image.fromarray(smooth), "TIFF", compression=compression)), smooth / 255,
          0.03 if compression == "jpeg" else 1e-6)


def test_what_cannot_be_decompressed_says_what_to_install():
    data = bytearray(tiff(DEEP, photometric="rgb", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(data)) as tif: at = tif.pages[0].tags[259].valueoffset
    data[at:at + 2] = struct.pack("<H", 34887)  # LERC
    with pytest.raises(InputError, match="LERC.*pip install imagecodecs"): load_image(bytes(data))


def test_a_cameras_raw_file_is_refused_for_what_it_is(tmp_path):
    mosaic = tiff(DEEP[..., 0], photometric="cfa",
                  extratags=[(33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True)])
    with pytest.raises(InputError, match="raw file.*rawpy"): load_image(mosaic)
    (tmp_path / "a.NEF").write_bytes(tiff(RGB, photometric="rgb"))  # the small copy in it would be read
    complaint(tmp_path / "a.NEF", "raw file", "pip install rawpy")


GEO = [(33550, 12, 3, (10.0, 20.0, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
       (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True), (34737, 2, 8, "WGS 84|", True)]


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_the_place_is_kept_byte_for_byte(byteorder):
    data = tiff(RGB, photometric="rgb", metadata=None, byteorder=byteorder, extratags=GEO)
    meta = read_image(data).meta
    assert meta["pixel_size"] == (20, 10) and [tag[0] for tag in meta["georeference"]] == [33550, 33922, 34735, 34737]
    with tifffile.TiffFile(io.BytesIO(tiff(RGB[..., 0], metadata=None, byteorder=meta["byteorder"],
                                           extratags=meta["georeference"]))) as tif:
        for code, _, _, value, _ in GEO: assert tif.pages[0].tags[code].value == value


def test_sizes_of_pixels():
    for data in (tiff(STACK, imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", "unit": "um"}),
                 tiff(STACK, ome=True, photometric="minisblack",
                      metadata={"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5,
                                "PhysicalSizeXUnit": "um"})):
        meta = read_image(data, page=1).meta
        assert meta["pixel_size"] == (0.5, 0.25) and meta["unit"] == "um"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("how", [{}, dict(compression="zlib"), dict(imagej=True), dict(ome=True), dict(metadata=None)])
def test_a_tiff_that_is_cut_short(tmp_path, how, share):
    data = tiff(STACK, photometric="minisblack", **how)
    path = tmp_path / "cut.tif"
    path.write_bytes(data[:int(len(data) * share)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: read = [p.pixels[..., 0] for p in pages(path)]
        except InputError as e:
            assert "cut.tif" in str(e)
            return
    for pixels, expected in zip(read, STACK): close(pixels, expected / 65535)  # what is still there is right
    assert len(read) == 4 or any("damaged" in str(w.message) for w in caught)  # and what is lost is told


def test_a_tiff_that_unpacks_into_too_much(tmp_path, monkeypatch):
    data = tiff(DEEP, photometric="rgb", compression="zlib")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)
    with pytest.raises(InputError, match="refused.*MAX_IMAGE_PIXELS"): load_image(data)


@pytest.fixture
def slow_opener(tmp_path, photo, monkeypatch):
    "Begins to read an image in a thread; returns what ends it."
    Image.fromarray(photo).save(tmp_path / "a.png")
    opened, gates = Image.open, {}
    def slow(*args, **kwargs):
        inside, end = gates[threading.current_thread()]
        inside.set()
        end.wait(30)
        return opened(*args, **kwargs)
    monkeypatch.setattr(Image, "open", slow)
    def begin():
        thread = threading.Thread(target=read_image, args=(tmp_path / "a.png",))
        inside, end = gates[thread] = threading.Event(), threading.Event()
        thread.start()
        assert inside.wait(30)
        def finish():
            end.set()
            thread.join(30)
        return finish
    return begin


def test_threads_that_read_leave_warnings_and_logs_as_they_were(slow_opener):
    before, level = list(warnings.filters), logging.getLogger("tifffile").level
    first, second = slow_opener(), slow_opener()
    assert logging.getLogger("tifffile").level > logging.CRITICAL
    first()
    second()  # the one that began later ends later
    assert warnings.filters == before and logging.getLogger("tifffile").level == level


def test_what_dynaseg_warns_of_is_heard_while_another_thread_reads(slow_opener, monkeypatch):
    heard = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *where, **more: heard.append(str(message)))
        finish = slow_opener()
        warn("the sky falls")
        finish()
    assert heard == ["the sky falls"]


def of_bits(data, bits):
    "The TIFF file with another number of bits a band in its header."
    with tifffile.TiffFile(io.BytesIO(data)) as tif: tag = tif.pages[0].tags[258]
    return data[:tag.valueoffset] + struct.pack("<H", bits) * tag.count + data[tag.valueoffset + 2 * tag.count:]


@pytest.mark.parametrize("how, words", [
    (dict(photometric="separated"), "not RGB (SEPARATED)"), (dict(photometric="cielab"), "not RGB (CIELAB)"),
])
def test_pages_of_other_colours_are_not_told_to_be_packed_otherwise(how, words):
    bands = 4 if how["photometric"] == "separated" else 3
    data = tiff(np.zeros((2, 20, 30, bands), np.uint8), **how)
    with pytest.raises(InputError) as said: read_image(data)
    assert words in str(said.value) and "in RGB" in str(said.value)
    assert "compress" not in str(said.value) and "imagecodecs" not in str(said.value)


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs reads these")
@pytest.mark.parametrize("bits", [3, 12])
def test_numbers_of_odd_bits_say_what_to_install(bits):
    data = of_bits(tiff(np.zeros((20, 30), np.uint16 if bits > 8 else np.uint8)), bits)
    with pytest.raises(InputError, match=f"{bits} bits each.*pip install imagecodecs.*8 or 16 bits"): read_image(data)


def test_tifffile_keeps_its_own_voice_elsewhere():
    level = logging.getLogger("tifffile").level
    load_image(tiff(DEEP, photometric="rgb"))
    assert logging.getLogger("tifffile").level == level


# --- depth of other files

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(a, before=b"", after=b""):
    """The bytes of a PNG file with 16 bits a band, written here by its specification; chunks before and after the
    pixels."""
    height, width, bands = a.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in a)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR",
                                        header) + before + chunk(b"IDAT",
                                                                 zlib.compress(rows)) + after + chunk(b"IEND", b"")


def test_no_bit_of_a_png_is_lost():
    close(load_image(png16(DEEP)), DEEP / 65535, 1e-7)
    close(load_image(png16(DEEP[..., :1])), DEEP[..., :1] / 65535, 1e-7)
    alpha = np.full((H, W), 65535, np.uint16)
    alpha[:5], alpha[5:9] = 0, 13107  # a fifth
    for bands in (1, 3):
        picture = read_image(png16(np.dstack([DEEP[..., :bands], alpha])))
        np.testing.assert_array_equal(picture.valid, alpha > 0)
        close(picture.pixels[9:], DEEP[9:, :, :bands] / 65535)
        close(picture.pixels[5:9], DEEP[5:9, :, :bands] / 65535 * 0.2 + 0.8)
    orientation = Image.Exif()
    orientation[0x0112] = 8
    close(load_image(png16(DEEP, chunk(b"eXIf", orientation.tobytes()[6:]))), np.rot90(DEEP) / 65535)


def test_a_colour_that_means_transparent():
    key = DEEP[7, 7]
    picture = read_image(png16(DEEP, chunk(b"tRNS", key.astype(">u2").tobytes())))
    np.testing.assert_array_equal(picture.valid, (DEEP != key).any(-1))


@pytest.mark.parametrize("top", [65535, 4095, 1023])
def test_no_bit_of_a_ppm_is_lost(top):
    a = DEEP.astype(int) % (top + 1)
    close(load_image(b"P6 %d %d %d\n" % (W, H, top) + a.astype(">u2").tobytes()), a / top, 1e-7)
    close(load_image(b"P5 %d %d %d\n" % (W, H, top) + a[..., 0].astype(">u2").tobytes())[..., 0], a[..., 0] / top, 1e-4)


def test_bits_that_are_lost_are_told():
    with pytest.warns(UserWarning, match="16 bits a band, and Pillow keeps 8"):
        load_image(Image.open(io.BytesIO(png16(DEEP))))
    jpeg2000 = bytearray(bytes_of(Image.fromarray(RGB), "JPEG2000"))
    jpeg2000[jpeg2000.find(b"\xff\x51") + 40] = 11  # "12 bits": enough for the header's reader
    assert (
        _depth(Image.open(io.BytesIO(jpeg2000))) == 12
        and _depth(Image.open(io.BytesIO(bytes_of(Image.fromarray(RGB), "JPEG2000")))) == 8
    )


# --- pixels without data

HEIGHTS = np.array([[2.0, 4, -9999, 6], [8, -9999, 4, 6]])


def without(picture, valid):
    "Checks which pixels have data, and that the others hold the mean of those."
    np.testing.assert_array_equal(picture.valid, valid)
    assert np.isfinite(picture.pixels).all()
    if not np.all(valid):
        close(picture.pixels[~np.asarray(valid)],
              np.broadcast_to(picture.pixels[valid].mean(0), ((~np.asarray(valid)).sum(), picture.pixels.shape[2])))


@pytest.mark.parametrize("dtype", [float, np.float32, np.int16, np.int64])
def test_a_fill_value_is_no_height(dtype):
    "By hand: 2 becomes 0 and 8 becomes 1, so 4 is 1/3 and 6 is 2/3; their mean, of 30 / 6 = 5, is 1/2."
    picture = read_image(HEIGHTS.astype(dtype), nodata=-9999, value_range=(2, 8))
    without(picture, HEIGHTS > 0)
    close(picture.pixels[..., 0], [[0, 1 / 3, 1 / 2, 2 / 3], [1, 1 / 2, 1 / 3, 2 / 3]])


@pytest.mark.parametrize("image", [np.where(HEIGHTS > 0, HEIGHTS, np.nan), np.where(HEIGHTS > 0, HEIGHTS, np.inf),
                                   np.where(HEIGHTS > 0, HEIGHTS, -3.4028234663852886e38),
                                   HEIGHTS, np.where(HEIGHTS > 0, HEIGHTS, 9.96921e36).astype(np.float32),
                                   HEIGHTS.astype(np.int16)])
def test_pixels_without_data_are_told(image):
    with pytest.warns(UserWarning, match="^2 pixels ha|^2 pixels hold 2 values"):
        picture = read_image(image, value_range=(2, 8))
    without(picture, HEIGHTS > 0)


def test_declared_fill_values_need_no_word():
    tag = [(42113, "s", 0, "-9999", True)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image in (tiff(HEIGHTS.astype(np.float32), extratags=tag), np.ma.masked_less(HEIGHTS, 0)):
            picture = read_image(image, value_range=(2, 8))
            without(picture, HEIGHTS > 0)
            close(picture.pixels[0, 1, 0], 1 / 3)
    assert read_image(tiff(HEIGHTS.astype(np.float32), extratags=tag), nodata=False,
                      value_range=(-9999, 8)).valid is None
    assert read_image(HEIGHTS, nodata=False, value_range=(-9999, 8)).valid is None
    nonsense = tiff(HEIGHTS.astype(np.float32), extratags=[(42113, "s", 0, "none", True)])
    with pytest.warns(UserWarning, match="2 pixels have the value -9999"): read_image(nonsense, value_range=(2, 8))


def test_a_value_that_is_only_the_lowest_is_no_fill():
    for values in ([[-9999, -9999, -5000, 9000.0]], [[-9999, 5, 6, 7.0]], [[0, 0, 900, 910.0]],
                   [[-9998, -9998, 1, 2.0]]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(np.array(values)).valid is None


def test_black_is_no_fill_unless_all_bands_have_it():
    a = np.full((3, 4, 3), 90, np.uint8)
    a[0, 0], a[1, 1, 0] = 0, 0
    expected = np.ones((3, 4), bool)
    expected[0, 0] = False
    without(read_image(a, nodata=0), expected)
    without(read_image(tiff(a, photometric="rgb", extratags=[(42113, "s", 0, "0", True)])), expected)
    b = a.astype(np.int16)
    b[2, 2, 1] = -5
    without(read_image(b, nodata=-5), np.arange(12).reshape(3, 4) != 10)
    a[1, 2] = 1, 2, 3
    without(read_image(a, nodata=(1, 2, 3)), np.arange(12).reshape(3, 4) != 6)


@pytest.mark.parametrize("wrong", ["x", (1, 2), True, [[1]]])
def test_wrong_nodata(wrong):
    with pytest.raises(InputError, match="nodata=.*expected a number"): load_image(RGB, nodata=wrong)


def test_masks_of_every_kind(tmp_path):
    use = np.zeros(RGB.shape[:2], bool)
    use[1:4, 2:6] = True
    Image.fromarray(use).save(tmp_path / "bits.png")
    Image.fromarray(use.astype(np.uint8) * 7).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "array.tif", use)
    np.save(tmp_path / "mask.npy", use * 0.5)
    for mask in (use, use.astype(int), use[..., None], use.tolist(), torch.from_numpy(use), Image.fromarray(use),
                 *tmp_path.iterdir()):
        picture = read_image(RGB, mask=mask)
        without(picture, use)
        np.testing.assert_array_equal(picture.pixels[use], load_image(RGB)[use])
    assert read_image(RGB, mask=np.ones(RGB.shape[:2])).valid is None


def test_wrong_masks():
    with pytest.raises(InputError, match="mask has 4×7 pixels, the image 5×7"): load_image(RGB, mask=np.ones((4, 7)))
    with pytest.raises(InputError, match="Of 35 pixels only 0 have data.*mask"): load_image(RGB, mask=np.zeros((5, 7)))
    with pytest.raises(MissingFileError, match="mask: There is no file"): load_image(RGB, mask="no such.png")


def test_the_range_is_that_of_the_pixels_with_data():
    a = np.array([[200, 300, 60_000, 65_535]], np.uint16)
    close(load_image(a, mask=[[1, 1, 0, 0]]).ravel()[:2], [200 / 1023, 300 / 1023])
    with pytest.warns(UserWarning, match="-2 to 2"):
        close(load_image(np.array([[-2.0, 2, 900]]), mask=[[1, 1, 0]]).ravel(), [0, 1, 0.5])


def test_transparent_pixels_have_no_data_and_are_white():
    rgba = np.dstack([RGB, np.where(np.arange(35).reshape(5, 7) < 9, 0, 255).astype(np.uint8)])
    picture = read_image(Image.fromarray(rgba))
    np.testing.assert_array_equal(picture.valid, rgba[..., 3] > 0)
    assert (picture.pixels[~picture.valid] == 1).all()
    rgba[..., 3] = 0
    with pytest.warns(UserWarning, match="Every pixel is transparent"): picture = read_image(Image.fromarray(rgba))
    assert picture.valid is None and (picture.pixels == load_image(RGB)).all()


# --- pages

def test_pages_share_one_range():
    stack = np.stack([np.full((4, 5), n, np.uint16) for n in (400, 800, 1600)])
    assert [round(p.pixels.max() * 4095) for p in pages(stack, axes="ZYX")] == [400, 800, 1600]
    with pytest.warns(UserWarning, match="Page 1 of 2: .*-4 to 12"):
        heights = [p.pixels.ravel().tolist() for p in pages(np.array([[[-4.0, 0]], [[4, 12]]]), axes="ZYX")]
    assert heights == [[0, 0.25], [0.5, 1]]
    assert [p.pixels.max() for p in pages(stack, axes="ZYX", value_range=(0, 1600))] == [0.25, 0.5, 1]


@pytest.mark.parametrize("format, options", [("GIF", {}), ("PNG", {}), ("WEBP", dict(lossless=True)), ("TIFF", {})])
def test_animations(tmp_path, format, options):
    frames = [Image.new("RGB", (6, 5), c) for c in ("red", "lime", "blue")]
    data = bytes_of(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match="page 1 of 3"): assert load_image(data)[0, 0].tolist() == [1, 0, 0]
    assert load_image(data, page=2)[0, 0].tolist() == [0, 1, 0]
    assert [p.pixels[0, 0].tolist() for p in pages(data)] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    opened = Image.open(io.BytesIO(data))
    opened.seek(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(opened)[0, 0].tolist() == [0, 0, 1]  # the frame it stands at
    assert load_image(opened, page=1)[0, 0].tolist() == [1, 0, 0] and opened.tell() == 2


def test_the_second_picture_that_phones_hide_is_no_page():
    data = bytes_of(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(data)


@pytest.mark.parametrize("wrong", [0, -1, 2, True, 1.5, "1"])
def test_wrong_pages(wrong):
    with pytest.raises(InputError, match=r"page=.*has 1 page: leave it out, or take 1"):
        load_image(RGB, page=wrong)


# --- metadata, objects, and what cannot be read

@pytest.mark.parametrize("bad", [chunk(b"eXIf", bytes(8)), chunk(b"zTXt", b"w\0\0" + zlib.compress(bytes(2_000_000))),
                                 chunk(b"tEXt", b"w\0text")[:-1] + b"x", chunk(b"iCCP", b"w\0\0nonsense"),
                                 chunk(b"iTXt", b"w"), chunk(b"pHYs", b"1"), chunk(b"tIME", b""), chunk(b"gAMA", b"")])
def test_metadata_never_refuses_the_pixels(bad, capfd):
    grey = png16(DEEP[..., :1])
    for data in (png16(DEEP, bad), png16(DEEP, after=bad)): close(load_image(data), DEEP / 65535, 1e-7)
    for data in (grey[:33] + bad + grey[33:], grey[:-12] + bad + grey[-12:]):
        close(load_image(data), DEEP[..., :1] / 65535, 1e-7)
    assert capfd.readouterr().err == ""


def test_broken_exif_of_a_jpeg():
    data = bytes_of(Image.fromarray(RGB), "JPEG", quality=95)
    for junk in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"MPF\0junk",
                 b"http://ns.adobe.com/xap/1.0/\0<x", b"ICC_PROFILE\0\1"):
        for marker in (0xe1, 0xe2, 0xed):
            segment = bytes([0xff, marker]) + struct.pack(">H", len(junk) + 2) + junk
            np.testing.assert_array_equal(load_image(data[:2] + segment + data[2:]), load_image(data))


def test_files_that_are_open_and_bytes(tmp_path):
    data = bytes_of(Image.fromarray(RGB), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    file = io.BytesIO(data)
    file.seek(0, 2)  # where one that was just written stands
    with open(tmp_path / "a.png", "rb") as handle:
        for image in (data, bytearray(data), file, handle):
            np.testing.assert_array_equal(load_image(image), load_image(RGB))
    complaint(handle, "cannot be read", "closed")
    with open(tmp_path / "a.png", encoding="latin-1") as text: complaint(text, "open as text", "'rb'")
    buffer = io.BytesIO()
    np.save(buffer, RGB)
    np.testing.assert_array_equal(load_image(buffer.getvalue()), load_image(RGB))
    complaint(buffer.getvalue()[:-5], "cannot be read")


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for path in ("~/a.png", Path("~/a.png")): np.testing.assert_array_equal(load_image(path), load_image(RGB))


def test_a_missing_file_is_both_errors():
    for kind in (InputError, ValueError, FileNotFoundError, MissingFileError):
        with pytest.raises(kind, match="no file"): load_image("no such file.png")


@pytest.mark.parametrize("name, content, word",
                         [("a.heic", b"\0\0\0\x18ftypheic", "pillow-heif"),
                          ("photo", b"\0\0\0\x18ftypheic", "pillow-heif"), ("a.svg", b"<svg></svg>", "Inkscape"),
                          ("b", b"<?xml version='1.0'?><svg/>", "Inkscape"), ("a.cr2", b"II*\0", "rawpy"),
                          ("a.ARW", b"II*\0", "rawpy"), ("a.nc", b"CDF\1", "xarray"),
                          ("a.h5", b"\x89HDF", "h5py"), ("a.npz", b"PK", "numpy.load"), ("a.pdf", b"%PDF", "pdftoppm"),
                          ("a.dcm", b"x", "pydicom"), ("a.czi", b"x", "bioio"),
                          ("a.mp4", b"x", "ffmpeg")])
def test_formats_of_others_say_what_to_do(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    complaint(tmp_path / name, name, word)


class Refuses:
    def __array__(self, *a, **k): raise TypeError("implicit conversion is not allowed")


class Holds:
    data_vars = {}


T = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("thing, words", [
    (T.to("meta"), ["meta"]), ([T[0].clone().requires_grad_()] * 3, ["list"]), (Refuses(), ["Refuses", "not allowed"]),
    (Holds(), ["several arrays", "name"]),
    ("https://example.org/a.png", ["web", "Download"]), (["a.png", "b.png"], ["list"]),
    (T.to(torch.complex64), ["complex64"]), (np.zeros((3, 3), [("r", "u1")]), ["dtype"]), (object(), ["object"]),
    (iter([1]), ["iterator"]), ({1, 2}, ["set"]), (Path("~nobody-of-this-name/a.png"), ["path"]), ("a\0b", ["path"]),
])
def test_what_cannot_be_read_is_an_input_error(thing, words):
    complaint(thing, *words)


def test_pil_images_that_cannot_be_decoded(tmp_path):
    whole = bytes_of(Image.new("RGB", (200, 200)), "PNG")
    complaint(Image.open(io.BytesIO(whole[:60])), "PIL image", "cannot be read")
    close(load_image(Image.new("La", (8, 8))), load_image(Image.new("LA", (8, 8))))


def test_tensors_of_odd_kinds():
    expected = T.permute(1, 2, 0).numpy()
    close(load_image(T.to_sparse()), expected)
    close(load_image(torch._neg_view(-T)), expected)
    close(load_image(T.to(torch.float8_e4m3fn)), expected, 0.07)
    close(load_image(torch.quantize_per_tensor(T, 1 / 255, 0, torch.quint8)), expected, 1 / 255)
    close(load_image(T.to(torch.uint16)), T.to(torch.uint16).permute(1, 2, 0).numpy())


def test_what_a_program_around_it_has_set_does_not_matter():
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    expected = load_image(RGB)
    valid = np.arange(35).reshape(5, 7) > 9
    small = to_tensor(expected, (3, 4), valid=valid)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            for image in (tensor, RGB, png16(DEEP[:5, :7])): assert load_image(image).dtype == np.float32
            x = to_tensor(load_image(tensor), (3, 4), valid=valid)
            at = valid_at(valid, (3, 4))
            y = standardise(x, at)
    finally: torch.set_default_dtype(torch.float32)
    assert x.equal(small) and y.dtype == torch.float32 and y.device.type == at.device.type == "cpu"
    assert y.equal(standardise(small, at))


# --- working resolution of a picture with holes

@given(st.integers(3, 12), st.integers(3, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_what_has_no_data_does_not_bleed(H, W, h, w, seed):
    "The numbers under the holes do not matter, where any pixel with data is near."
    rng = np.random.default_rng(seed)
    image = rng.random((H, W, 2), np.float32)
    valid = rng.random((H, W)) < 0.7
    valid[0, :2] = True
    other = np.where(valid[..., None], image, 1 - image).astype(np.float32)
    x, y = (to_tensor(a, (h, w), valid=valid) for a in (image, other))
    seen = valid_at(valid, (h, w))
    assert seen.shape == (h, w) and seen.dtype == torch.bool
    part = F.interpolate(torch.from_numpy(valid.astype(np.float32))[None, None], size=(h, w), mode="bilinear",
                         antialias=True)[0, 0]
    if (h, w) != (H, W): torch.testing.assert_close(x[..., part > 0.01], y[..., part > 0.01], atol=1e-4, rtol=0)
    assert (part[seen] > 0).all()
    torch.testing.assert_close(to_tensor(image, (h, w), valid=np.ones((H, W), bool)), to_tensor(image, (h, w)),
                               atol=1e-5, rtol=0)


def test_half_of_a_pixel_is_enough():
    valid = np.zeros((4, 40), bool)
    valid[:, 20:] = True
    assert valid_at(valid, (1, 4)).tolist() == [[False, False, True, True]]
    assert valid_at(None, (1, 4)) is None
    sparse = np.zeros((40, 40), bool)
    sparse[::8, ::8] = True  # nowhere half
    assert valid_at(sparse, (5, 5)).sum() >= 2


def test_standardised_over_the_pixels_with_data():
    "By hand: of 1, 3 and 8 the first two count: mean 2, spread 1."
    x = torch.tensor([[[[1.0, 3, 8]], [[5, 5, 8]]]])
    valid = torch.tensor([[True, True, False]])
    assert standardise(x, valid).tolist() == [[[[-1, 1, 0]], [[0, 0, 0]]]]
    x[..., 2] = float("nan")
    assert standardise(x, valid).tolist() == [[[[-1, 1, 0]], [[0, 0, 0]]]]


@given(st.integers(0, 99))
def test_standardising_without_holes_is_the_plain_one(seed):
    x = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(standardise(x, torch.ones(5, 6, dtype=torch.bool)), standardise(x), atol=1e-5, rtol=0)
    y = standardise(torch.cat([x, x.flip(3)], 3), torch.arange(12).expand(5, 12) < 6)
    torch.testing.assert_close(y[..., :6], standardise(x), atol=1e-5, rtol=0)
    assert (y[..., 6:] == 0).all()

# --- working resolution

SIZES = st.tuples(st.integers(1, 6000), st.integers(1, 6000)).filter(lambda size: size != (1, 1))


@given(SIZES, st.integers(1, 10**6))
def test_working_size_keeps_bound_and_shape(size, bound):
    (H, W), (h, w) = size, working_size(size, bound)
    assert isinstance(h, int) and isinstance(w, int) and 1 <= h <= H and 1 <= w <= W
    scale = min(1, (bound / (H * W)) ** 0.5)
    if H * W <= bound: assert (h, w) == size
    elif min(H, W) * scale >= 2:  # a strip may break the bound rather than vanish
        assert h * w <= bound and 0 <= H * scale - h + 1e-6 < 1 + 2e-6 and 0 <= W * scale - w + 1e-6 < 1 + 2e-6


@given(SIZES, st.integers(1, 10**6), st.integers(1, 10**6))
def test_working_size_grows_with_its_bound(size, a, b):
    low, high = working_size(size, min(a, b)), working_size(size, max(a, b))
    assert low[0] <= high[0] and low[1] <= high[1]
    assert working_size(size, None) == size


@given(SIZES, st.integers(1, 10))
def test_two_pixels_are_left_where_there_were_two(size, bound):
    "The batch norms of a network cannot work on one pixel."
    h, w = working_size(size, bound)
    assert h * w >= min(2, size[0] * size[1])


def test_to_tensor():
    image = load_image(RGB)
    x = to_tensor(image)
    assert x.shape == (1, 3, 5, 7) and x.dtype == torch.float32 and x.is_contiguous()
    assert x[0, 2, 4, 6] == image[4, 6, 2]
    assert to_tensor(image, (5, 7)).equal(x)
    assert to_tensor(image, (3, 2)).shape == (1, 3, 3, 2)
    torch.testing.assert_close(to_tensor(np.full((8, 8, 2), 0.25, np.float32), (3, 5)), torch.full((1, 2, 3, 5), 0.25))


def test_shrinking_averages():
    "A checkerboard of single pixels becomes grey; picking pixels would keep it black or white."
    # by 5: each new centre is the centre of an old pixel
    board = (np.indices((40, 40)).sum(0) % 2).astype(np.float32)[..., None]
    close(to_tensor(board, (8, 8))[0, 0], 0.5, 0.05)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None].repeat(4, 0)
    close(to_tensor(ramp, (4, 16)).mean(), 0.5, 1e-3)


def test_standardised_bands_have_mean_0_and_spread_1():
    x = (
        torch.rand(1, 4, 12, 15, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 0.1, 0.01, 1e-3])[:, None, None]
        + 0.3
    )
    before, y = x.clone(), standardise(x)
    assert y.shape == x.shape and y.dtype == torch.float32 and x.equal(before)
    for band, given_ in zip(y[0].double().numpy(), x[0].double().numpy()):
        close([band.mean(), band.std()], [0, 1], 1e-3)
        close(band, (given_ - given_.mean()) / given_.std(), 1e-2)


@given(st.floats(0, 1, width=32), st.integers(1, 40), st.integers(2, 40))
def test_a_constant_band_becomes_0(value, h, w):
    # one number everywhere: what rounding left of its mean
    assert standardise(torch.full((1, 2, h, w), value)).abs().max() < 0.2
    assert len(standardise(torch.full((1, 1, h, w), value)).unique()) == 1


@given(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30),
       st.integers(1, 40), st.integers(0, 99))
def test_labels_at_is_the_argmax_of_one_enlargement(q, h, w, H, W, strip, seed):
    r = torch.randn(q, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = labels_at(r, (H, W), strip)
    assert labels.shape == (H, W) and labels.dtype == torch.int64
    whole = F.interpolate(r[None], size=(H, W), mode="bilinear", align_corners=False)[0]
    won = whole.gather(0, labels[None])[0]
    assert (whole.max(0).values - won).max() < 1e-4  # the winner, or one level with it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_are_exact_where_scores_are_not(dtype):
    "In half precision a place in a wide picture would be off by pixels."
    r = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert labels_at(r, (20, 3000)).equal(labels_at(r.float(), (20, 3000)))


def test_labels_at_by_hand():
    "Two scores that cross in the middle between two pixels: the edge between the labels is there."
    r = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert labels_at(r, (2, 6)).tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    r = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])  # 1 - t = 3 t at t = 1/4, which is at 1/2 + 1/4 of a pixel
    assert labels_at(r, (1, 40)).tolist() == [[0] * 15 + [1] * 25]
    r = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    assert labels_at(r, (6, 5)).equal(r.argmax(0))
