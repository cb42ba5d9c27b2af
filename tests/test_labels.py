"""Label maps: their order, their pieces, their colours and pictures, and files that appear whole or not at all."""
import io
import base64
import os
import re
import stat

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from dynaseg import segment
from dynaseg.images import InputError
from dynaseg.labels import (NO_DATA, as_rgb, by_area, frame_slider, label_colours, label_picture, overlay, regions,
                            show, write_overlay, writing)
from partitions import flood, ordered, sets

HALVES = np.array([[0, 0, 0, 1, 1, 1]] * 4)


@pytest.fixture(scope="module")
def seg(photo):
    return segment(photo, M=1, p=8, q=8, T=3, progress=False, device="cpu")


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    plt.close("all")
    yield
    assert not plt.get_fignums()


# --- order and pieces

LABEL_MAPS = hnp.arrays(st.sampled_from([np.int64, np.int32, np.uint8, np.uint16]),
                        st.tuples(st.integers(1, 7), st.integers(1, 7)),
                        elements=st.integers(0, 4))


@given(LABEL_MAPS)
def test_by_area_keeps_the_partition_and_orders_it(labels):
    result = by_area(labels)
    assert result.shape == labels.shape and ordered(result) and sets(result) == sets(labels)
    np.testing.assert_array_equal(by_area(result), result)
    np.testing.assert_array_equal(by_area(labels.astype(np.int64) * 1000 - 7), result)


@given(LABEL_MAPS)
def test_regions_are_the_flood_filled_components(labels):
    result = regions(labels)
    assert result.shape == labels.shape and ordered(result) and sets(result) == flood(labels)
    np.testing.assert_array_equal(regions(result), result)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, bool])
def test_regions_of_labels_at_the_ends_of_their_type(dtype):
    "As they come back from a saved picture: 0 and 255 are labels like all others."
    low, high = (False, True) if dtype is bool else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    assert regions(np.array([[high, low, high], [high, low, low]], dtype)).tolist() == [[1, 0, 2], [1, 0, 0]]


@pytest.mark.parametrize("shift", [0, 1000, -1000])
def test_equal_areas_keep_the_order_of_their_values(shift):
    """2, 5 and 9 have two pixels each, 7 has three: 7 comes first, the others as they were.

    The same whatever the values."""
    labels = np.array([[9, 9, 7], [5, 7, 2], [7, 5, 2]]) + shift
    assert by_area(labels).tolist() == [[3, 3, 0], [2, 0, 1], [0, 2, 1]]


def test_a_map_without_pixels_has_no_labels():
    assert by_area(np.zeros((0, 3), int)).shape == (0, 3)


def test_equal_regions_are_numbered_by_label_and_then_as_one_reads():
    "Six single pixels, four of them of label 1, and one region of three."
    labels = np.array([[4, 4, 1], [4, 1, 4], [1, 4, 1]])
    assert regions(labels).tolist() == [[0, 0, 1], [0, 2, 5], [3, 6, 4]]
    assert regions(labels - 5, out=-4).tolist() == [[0, 0, -1], [0, -1, 1], [-1, 2, -1]]


def test_corners_do_not_connect():
    assert len(np.unique(regions(np.eye(3, dtype=int)))) == 5


# --- colours

@given(st.integers(1, 300), st.integers(1, 300))
def test_a_colour_depends_on_its_label_alone(n, m):
    a, b = label_colours(n), label_colours(m)
    assert a.shape == (n, 3) and a.min() >= 0 and a.max() <= 1
    np.testing.assert_array_equal(a[: min(n, m)], b[: min(n, m)])


def test_a_hundred_labels_are_told_apart():
    eight_bit = label_picture(np.arange(100)[None])[0].astype(int)
    assert len(np.unique(eight_bit, axis=0)) == 100
    first = eight_bit[:12]
    apart = np.abs(first[:, None] - first[None]).sum(-1) + 1000 * np.eye(12, dtype=int)
    assert apart.min() > 40  # the first dozen not only differ: they look different


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16])
def test_label_picture_paints_each_label_in_its_colour(dtype):
    labels = np.array([[0, 3], [255 if dtype == np.uint8 else 300, 3]], dtype)
    picture = label_picture(labels)
    assert picture.shape == (2, 2, 3) and picture.dtype == np.uint8
    colours = (label_colours(int(labels.max()) + 1) * 255).round()
    for y, x in np.ndindex(2, 2): assert picture[y, x].tolist() == colours[labels[y, x]].tolist()


def test_label_picture_in_the_mean_colours_of_an_image(photo):
    labels = np.add.outer(np.arange(24) // 7, np.arange(30) // 11) % 3
    picture = label_picture(labels, photo)
    assert picture.shape == photo.shape and picture.dtype == np.uint8
    for label in range(3):
        colours = np.unique(picture[labels == label], axis=0)
        assert len(colours) == 1
        np.testing.assert_allclose(colours[0], photo[labels == label].mean(0), atol=0.51)
    assert label_picture(labels, photo[..., :1] / 255).shape == (24, 30, 3)
    with pytest.raises(InputError, match=r"\(24, 30\).*\(4, 6\)"): label_picture(HALVES, photo)


# --- what the eye is shown

@pytest.mark.parametrize("bands, shown", [(1, [0, 0, 0]), (2, [0, 1, None]), (3, [0, 1, 2]), (4, [0, 1, 2]),
                                          (12, [0, 1, 2])])
def test_as_rgb(bands, shown):
    image = np.random.default_rng(0).random((4, 5, bands), dtype=np.float32)
    before, rgb = image.copy(), as_rgb(image)
    assert rgb.shape == (4, 5, 3)
    for i, band in enumerate(shown): np.testing.assert_array_equal(rgb[..., i], 0 if band is None else image[..., band])
    np.testing.assert_array_equal(image, before)


def figure(*args, **how):
    "The axes of what `show` draws, and the figure's size in inches."
    show(*args, **how)
    drawn = plt.gcf()
    plt.close(drawn)
    return drawn.axes, drawn.get_size_inches()


def test_show_draws_side_by_side():
    grey, rgb = np.array([[0.25, 0.5], [0.75, 1.0]]), np.full((2, 2, 3), 0.5)
    axes, (width, height) = figure([HALVES, grey, rgb, rgb], ["labels", "grey"], width=2)
    assert [ax.get_title() for ax in axes] == ["labels", "grey", "", ""] and not any(ax.axison for ax in axes)
    assert width == 8 and height == pytest.approx(2 * 4 / 6 + 0.35)  # the first picture is 4 x 6
    drawn = [ax.images[0] for ax in axes]
    np.testing.assert_array_equal(drawn[0].get_array(), label_picture(HALVES))
    np.testing.assert_array_equal(drawn[1].get_array(), grey)
    assert drawn[1].get_cmap().name == "gray" and {image.get_interpolation() for image in drawn} == {"nearest"}
    np.testing.assert_array_equal(drawn[2].get_array(), rgb)


def test_show_breaks_rows_and_leaves_the_last_places_empty():
    axes, (width, height) = figure([HALVES] * 5, columns=3)
    assert [len(ax.images) for ax in axes] == [1] * 5 + [0] and not axes[5].axison
    assert width == pytest.approx(3 * 3.2) and height == pytest.approx(2 * (3.2 * 4 / 6 + 0.35))


@pytest.mark.parametrize("picture", [torch.rand(3, 5, 6), torch.rand(3, 5, 6).requires_grad_(),
                                     np.random.default_rng(0).random((5, 6, 3))])
def test_show_takes_tensors(picture):
    (ax,), _ = figure([picture])
    expected = picture.detach().permute(1, 2, 0).numpy() if torch.is_tensor(picture) else picture
    np.testing.assert_allclose(ax.images[0].get_array(), expected)


def test_show_keeps_colours_within_bounds_and_paints_truth_values(caplog):
    (loud, mask), _ = figure([np.array([[[-1.0, 0.5, 2.0]]]), np.array([[True, False]])])
    # matplotlib would clip as well, and say so
    assert loud.images[0].get_array().tolist() == [[[0, 0.5, 1]]] and not caplog.records
    np.testing.assert_array_equal(mask.images[0].get_array(), label_picture(np.array([[1, 0]])))


# --- overlays

@pytest.mark.parametrize("bands", [1, 2, 3, 12])
def test_overlay_blends_photo_and_labels(bands):
    labels = HALVES.repeat(4, 0).repeat(4, 1)
    image = np.random.default_rng(0).random((*labels.shape, bands), dtype=np.float32)
    before = image.copy()
    for alpha in (0, 0.3, 1):
        picture = overlay(image, labels, alpha=alpha, edges=False)
        expected = (1 - alpha) * as_rgb(image) + alpha * label_picture(labels) / 255
        assert picture.shape == (16, 24, 3) and picture.dtype == np.uint8
        np.testing.assert_allclose(picture / 255, expected, atol=0.51 / 255)
    np.testing.assert_array_equal(image, before)


def test_boundaries_are_white_and_nothing_else_is():
    picture = overlay(np.zeros((4, 6, 3), np.float32), HALVES, alpha=0)
    white = (picture == 255).all(-1)
    # just inside of label 1: label 0, the largest, is the ground
    assert white[:, 3].all() and not white[:, [0, 1, 2, 4, 5]].any()
    assert not overlay(np.zeros((4, 6, 3), np.float32), np.zeros((4, 6), int), alpha=0).any()


def test_overlay_takes_what_load_image_takes(photo, seg):
    expected = overlay(seg.image, seg.labels)
    for same in (photo, Image.fromarray(photo), photo / 255):
        np.testing.assert_array_equal(overlay(same, seg.labels), expected)


def test_overlay_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"\(4, 5\).*\(4, 6\).*same height and width"):
        overlay(np.zeros((4, 5, 3), np.float32), HALVES)


def test_write_overlay(photo, seg, tmp_path):
    write_overlay(photo, seg.labels, tmp_path / "draft")  # any name
    written = Image.open(tmp_path / "draft")
    assert written.format == "PNG"
    np.testing.assert_array_equal(written, overlay(photo, seg.labels))


# --- frames

def pictures_in(html):
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(d))).convert("RGB")) for d in data]


def test_frame_slider_packs_the_pictures(seg):
    frames = [np.full((6, 8), i) for i in range(5)]
    html = frame_slider(frames, width=123).data
    for got, frame in zip(pictures_in(html), frames, strict=True):
        np.testing.assert_array_equal(got, label_picture(frame))
    assert html.count("<figure") == 5 and len(re.findall(r"<figure[^>]* hidden>", html)) == 4
    assert 'type="range" min="0" max="4" value="0"' in html and "max-width:123px" in html
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["0", "1", "2", "3", "4"]
    assert "<script" not in html and "http" not in html


@pytest.mark.parametrize("first, shown", [(0, 0), (2, 2), (-1, 4)])
def test_frame_slider_starts_where_it_is_told(first, shown):
    html = frame_slider([HALVES + i for i in range(5)], first=first).data
    hidden = [" hidden" in tag for tag in re.findall(r"<figure[^>]*>", html)]
    assert hidden == [i != shown for i in range(5)] and f'value="{shown}"' in html


def test_frame_slider_takes_rgb_pictures(seg):
    picture = overlay(seg.image, seg.labels)
    shown, = pictures_in(frame_slider([picture]).data)
    assert shown.shape == picture.shape and np.abs(shown.astype(int) - picture).mean() < 12  # a palette of 256


@given(st.text(max_size=30))
def test_titles_cannot_break_out_of_the_page(title):
    html = frame_slider([HALVES], [title]).data
    caption = html.split("<figcaption>")[1].split("</figcaption>")[0]
    alt = html.split('alt="')[1].split('" src=')[0]
    for text in (caption, alt): assert "<" not in text and ">" not in text and '"' not in text
    assert html.count("<") == frame_slider([HALVES], ["plain"]).data.count("<")


def test_frame_slider_refuses():
    with pytest.raises(InputError, match="frames is empty; expected at least one"): frame_slider([])
    with pytest.raises(InputError, match="1 titles for 2 frames"): frame_slider([HALVES, HALVES], ["one"])


# --- files

def test_writing_shows_the_file_only_when_it_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    with writing(path) as draft:
        assert draft.parent == tmp_path and draft.suffix == ".csv" and draft != path
        draft.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ZeroDivisionError):
        with writing(path, overwrite=True) as draft:
            draft.write_text("half")
            1 / 0
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_what_exists_is_kept_unless_asked(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="table.csv.*exists.*overwrite=True.*--force"):
        with writing(path): pytest.fail("nothing may be written")
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]
    with writing(path, overwrite=True) as draft: draft.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="no folder.*nowhere.*table.csv.*Make it first"):
        with writing(tmp_path / "nowhere" / "table.csv"): pytest.fail("there is no place to write to")


def test_an_error_of_the_system_names_what_was_to_be_written(tmp_path):
    path = tmp_path / "table.csv"
    for name, known in ((None, str(path)), ("elsewhere.txt", "elsewhere.txt")):
        with pytest.raises(OSError) as said:
            with writing(path): raise OSError(27, "File too large", name)
        assert said.value.filename == known and said.value.strerror == "File too large"
    with pytest.raises(IsADirectoryError) as said:
        with writing(path) as draft:
            draft.unlink()
            draft.mkdir()
            try: draft.read_bytes()
            finally: draft.rmdir()
    assert said.value.filename == str(path)
    with pytest.raises(OSError, match="^encoder error$"):  # nothing of the system: it has no number
        with writing(path): raise OSError("encoder error")


def test_writing_does_not_touch_the_umask_which_threads_share(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("another thread may be making a file"))
    with writing(tmp_path / "a.txt") as draft: draft.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        with writing(tmp_path / "a.txt") as draft: draft.write_text("x")
        assert os.umask(umask) == umask  # as it was
    finally: os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~umask


# --- pixels without data

def test_no_label_is_no_id_and_has_no_colour():
    labels, valid = np.array([[5, 5, 7], [9, 7, 7]]), np.array([[1, 1, 0], [1, 0, 1]], bool)
    assert by_area(labels, valid).tolist() == [[0, 0, -1], [2, -1, 1]]
    ids = np.array([[0, -1], [1, 1]])
    colours = label_picture(np.array([[0, 1]]))[0].tolist()
    grey = [NO_DATA] * 3
    assert label_picture(ids).tolist() == [[colours[0], grey], [colours[1], colours[1]]]
    assert label_picture(ids, np.zeros((2, 2, 3)))[0, 1].tolist() == grey
    assert overlay(np.zeros((2, 2, 3)), ids, edges=False)[0, 1].tolist() == grey
    assert (label_picture(np.full((2, 2), -1)) == NO_DATA).all()
