"""Any picture in, one array out; working sizes; labels back at full size."""
import io
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from dynaseg.images import InputError, load_image, standardise, to_tensor, working_size
from dynaseg.network import labels_at

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGB[0, 0] = 255  # a picture whose largest value is 255 tells its scale

BYTES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(2, 6), st.integers(1, 5)))


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
    same = [a, wide, wide.astype(">u2"), expected, expected.astype(">f8"), expected.astype(np.float32), expected.astype(np.longdouble)]
    if a.max() > 1: same += [a.astype(t) for t in (np.int16, np.int64, np.uint32)] + [wide.astype(t) for t in (np.int32, np.uint64)]
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
    for a in ([[-40.0, 60.0]], [[-40, 60]], [[0.0, 300.0]], [[0, 70_000]]):
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


@pytest.mark.parametrize("shape, result", [((9, 8), (9, 8, 1)), ((9, 2), (9, 2, 1)), ((2, 1, 3), (2, 1, 3)), ((1, 2), (1, 2, 1)),
                                           ((9, 8, 1), (9, 8, 1)), ((9, 8, 12), (9, 8, 12)), ((40, 3, 64), (40, 3, 64))])
def test_bands_and_narrow_shapes(shape, result):
    assert load_image(np.ones(shape)).shape == result


# --- files

@pytest.mark.parametrize("mode, suffix", [("RGB", "png"), ("RGB", "bmp"), ("RGB", "tif"), ("CMYK", "tif"), ("CMYK", "jpg"),
                                          ("YCbCr", "jpg"), ("RGB", "webp"), ("P", "png"), ("P", "gif"), ("RGBA", "png"), ("LA", "png")])
def test_colour_files_become_rgb(tmp_path, mode, suffix):
    colour = Image.new("RGB", (40, 30), (250, 30, 90))
    colour.paste((20, 200, 130), (0, 0, 20, 30))
    path = tmp_path / f"photo.{suffix}"
    stored = colour.quantize(4) if mode == "P" else colour.convert("L").convert("LA") if mode == "LA" else colour.convert(mode)
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


ORIENTED = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
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
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    close(load_image(tmp_path / "p.png"), [[[1, 1, 1], [40 / 255, 50 / 255, 60 / 255]]])


def test_the_bands_of_an_array_are_taken_as_they_are():
    rgba = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    close(load_image(rgba), rgba / 255)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (6, 5), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
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


@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP"]), st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_damaged_files_load_or_complain(tmp_path, format, damage):
    data = bytearray(bytes_of(Image.fromarray(RGB), format))
    for where, change in damage:
        i = int(where * (len(data) - 1))
        data[i:i + len(change)] = change
    path = tmp_path / "damaged.img"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor may remarks of the decoder reach the user
        try: image = load_image(path)
        except InputError as e: assert "damaged.img" in str(e)
        else: assert image.ndim == 3 and 0 <= image.min() <= image.max() <= 1


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


# --- arrays that are none

@pytest.mark.parametrize("image, words", [
    (np.zeros((0, 20)), ["(0, 20)", "no pixels", "at least 2"]),
    (np.zeros((20, 0, 3)), ["(20, 0, 3)", "no pixels"]),
    (np.zeros((20, 20, 0)), ["(20, 20, 0)", "no pixels"]),
    (np.zeros((1, 1)), ["1 pixel", "at least 2"]),
    (np.zeros((1, 1, 3)), ["1 pixel", "at least 2"]),
    (torch.zeros(3, 1, 1), ["1 pixel", "at least 2"]),
    (np.zeros(7), ["1 dimensions", "(7,)", "expected one image"]),
    (np.zeros((8, 20, 20, 3)), ["4 dimensions", "(8, 20, 20, 3)", "one by one"]),
    (np.zeros((3, 480, 640)), ["axes", "numpy.moveaxis"]),
    (np.zeros((1, 48, 64)), ["1 rows and 64 bands", "swapped"]),
    (torch.zeros(2, 3, 48, 64), ["4 dimensions", "(2, 3, 48, 64)"]),
    (np.full((4, 4), np.nan), ["16 values", "NaN", "nan_to_num"]),
    (np.array([[0, np.inf], [-np.inf, 1]]), ["2 values", "infinite", "finite"]),
    (torch.tensor([[0.0, float("nan")]]), ["1 values", "NaN"]),
    (np.zeros((4, 4), complex), ["complex128", "expected bool, integers or floats"]),
    (np.zeros((4, 4), "M8[s]"), ["datetime64", ".astype"]),
    (np.array([["a", "b"]]), ["dtype <U1", ".astype"]),
    (None, ["NoneType", "None", "expected a path"]),
    (7, ["int", "7", "expected a path"]),
    (b"photo.jpg", ["bytes", "photo.jpg", "expected a path"]),
    ({"a": 1}, ["dict", "expected a path"]),
    ([[0, 1], [1]], ["list", "NumPy"]),
])
def test_bad_arrays(image, words):
    complaint(image, *words)


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
    board = (np.indices((40, 40)).sum(0) % 2).astype(np.float32)[..., None]  # by 5: each new centre is the centre of an old pixel
    close(to_tensor(board, (8, 8))[0, 0], 0.5, 0.05)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None].repeat(4, 0)
    close(to_tensor(ramp, (4, 16)).mean(), 0.5, 1e-3)


def test_standardised_bands_have_mean_0_and_spread_1():
    x = torch.rand(1, 4, 12, 15, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.1, 0.01, 1e-3])[:, None, None] + 0.3
    before, y = x.clone(), standardise(x)
    assert y.shape == x.shape and y.dtype == torch.float32 and x.equal(before)
    for band, given_ in zip(y[0].double().numpy(), x[0].double().numpy()):
        close([band.mean(), band.std()], [0, 1], 1e-3)
        close(band, (given_ - given_.mean()) / given_.std(), 1e-2)


@given(st.floats(0, 1, width=32), st.integers(1, 40), st.integers(2, 40))
def test_a_constant_band_becomes_0(value, h, w):
    assert standardise(torch.full((1, 2, h, w), value)).abs().max() < 0.2  # one number everywhere: what rounding left of its mean
    assert len(standardise(torch.full((1, 1, h, w), value)).unique()) == 1


@given(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 99))
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
