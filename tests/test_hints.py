"""Strokes in the fit: they are read, they pull, their classes survive; what cannot be used is said."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from typer.testing import CliRunner

from dynaseg import segment
from dynaseg.batch import segment_folder
from dynaseg.cli import app
from dynaseg.hints import marks_at, read_scribbles, scribble_hint, scribble_loss
from dynaseg.images import InputError
from dynaseg.many import segment_many


@pytest.fixture
def strokes():
    strokes = np.zeros((40, 60), int)
    strokes[5:35, 10] = 3
    strokes[5:35, 50] = 8
    return strokes


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 5), st.integers(2, 5))
def test_gradient_is_that_of_the_formula(seed, q, h, w):
    generator = torch.Generator().manual_seed(seed)
    r = (20 * torch.randn(q, h, w, generator=generator, dtype=torch.float64)).requires_grad_()
    marks = torch.randint(0, q + 1, (h, w), generator=generator)
    marks[0, 0] = 1
    labels, loss, gradient = scribble_hint(marks)(r.detach(), r.argmax(0))
    by_class = []
    for k in set(marks[marks > 0].tolist()):
        by_class.append(torch.stack([-torch.log_softmax(r[:, i, j], 0)[k - 1]
                                     for i, j in (marks == k).nonzero().tolist()]).mean())
    slow = sum(by_class) / len(by_class)
    slow.backward()
    assert torch.allclose(loss, slow) and torch.allclose(scribble_loss(r, marks), slow)
    assert torch.allclose(gradient, r.grad)
    assert (labels[marks > 0] == marks[marks > 0] - 1).all()
    assert (labels[marks == 0] == r.argmax(0)[marks == 0]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9))
def test_no_mark_is_lost_on_a_smaller_map(seed, h, w):
    marks = np.random.default_rng(seed).choice(4, (9, 9), p=[.85, .05, .05, .05])
    small = marks_at(marks, (h, w))
    for i in range(9):
        for j in range(9):
            if marks[i, j]: assert small[i * h // 9, j * w // 9] > 0


def test_two_halves_from_two_strokes(red_half, strokes):
    seg = segment(red_half, scribbles=strokes, only_scribbled=True, progress=False)
    truth = np.where(np.arange(60) < 30, 3, 8)[None].repeat(40, 0)
    assert (seg.labels == truth).mean() > .98


def test_classes_survive_and_further_clusters_come_above(red_half, strokes):
    strokes[0, 0] = 5  # one pixel, in the middle of another class
    seg = segment(red_half, scribbles=strokes, progress=False)
    found = set(np.unique(seg.labels))
    assert {3, 5, 8} <= found and all(label > 8 for label in found - {3, 5, 8})
    assert (seg.labels[strokes > 0] == strokes[strokes > 0]).all()
    assert min(seg.history["n_labels"]) >= 3
    assert seg.at(n_segments=2).n_clusters == 2  # the tree is kept


def test_the_number_for_unmarked_pixels_is_free(red_half, strokes):
    one = segment(red_half, scribbles=strokes, only_scribbled=True, progress=False)
    other = segment(red_half, scribbles=np.where(strokes == 0, -1, strokes), unmarked=-1, only_scribbled=True,
                    progress=False)
    assert (one.labels == other.labels).all()


def test_strokes_from_a_file(tmp_path, strokes):
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[strokes == 3] = 255, 0, 0, 255
    pixels[strokes == 8] = 0, 0, 255, 255
    Image.fromarray(pixels).save(tmp_path / "strokes.png")
    found = read_scribbles(tmp_path / "strokes.png", (40, 60))
    assert found.names.tolist() == [1, 2]
    assert (found.marks[strokes == 8] == 1).all()
    assert (found.marks[strokes == 3] == 2).all()
    assert (found.marks > 0).sum() == (strokes > 0).sum()


def test_command_line(tmp_path, red_half, strokes):
    Image.fromarray((red_half * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[strokes == 3] = 255, 0, 0, 255
    pixels[strokes == 8] = 0, 0, 255, 255
    Image.fromarray(pixels).save(tmp_path / "strokes.png")
    command = ["segment", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--scribbles",
               str(tmp_path / "strokes.png"), "--only-scribbled"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / "photo" / "labels.png")))) == {1, 2}


def test_what_cannot_be_used_is_said(red_half, strokes, tmp_path):
    def fails(words, **given):
        with pytest.raises(InputError, match=words): segment(red_half, progress=False, **given)
    fails(r"shape \(39, 60\); expected \(40, 60\)", scribbles=strokes[1:])
    fails("No pixel is marked", scribbles=0 * strokes)
    fails("float64; expected whole numbers", scribbles=strokes * np.nan)
    fails("one class only, 3", scribbles=np.where(strokes == 3, 3, 0), only_scribbled=True)
    fails("2 classes; expected fewer than q=2", scribbles=strokes, q=2, min_labels=1)
    fails("n_segments=4 does not go with scribbles", scribbles=strokes, n_segments=4)
    Image.fromarray(strokes.astype(np.uint8)).save(tmp_path / "opaque.png")
    fails("no transparent background", scribbles=tmp_path / "opaque.png")
    (tmp_path / "text.png").write_text("no picture")
    fails("is no image file", scribbles=tmp_path / "text.png")
    with pytest.raises(FileNotFoundError): segment(red_half, scribbles=tmp_path / "nowhere.png")


def test_strokes_belong_to_one_photo(red_half, strokes, tmp_path):
    with pytest.raises(InputError, match="one photo"): list(segment_many([red_half], scribbles=strokes))
    Image.fromarray((red_half * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="one photo"): segment_folder(tmp_path, tmp_path / "out", scribbles=strokes)


def test_the_seeded_cut_reads_strokes_in_the_same_way(red_half, strokes, tmp_path):
    "An array or a file; green comes before red in the order of colours. Messages name the parameter of the method."
    seg = segment(red_half, T=2, progress=False)
    one, other = np.unique(strokes[strokes > 0])[:2]
    picture = np.zeros((*strokes.shape, 4), np.uint8)
    picture[strokes == one] = (0, 255, 0, 255)
    picture[strokes == other] = (255, 0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "strokes.png")
    numbers = np.select([strokes == one, strokes == other], [1, 2])
    np.testing.assert_array_equal(seg.seeded(tmp_path / "strokes.png").labels, seg.seeded(numbers).labels)
    with pytest.raises(InputError, match="The scribbles have the shape"): seg.seeded(strokes[1:])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="scribbles='.*text.png' is no image file"): seg.seeded(tmp_path / "text.png")


@pytest.mark.parametrize("name, keep", [("scribbles", 60), ("scribbles", 90), ("guide", 60), ("guide", 90)])
def test_drawings_that_are_damaged_are_told(tmp_path, photo, monkeypatch, name, keep):
    "Cut short in the header or in the pixels; then whole, and larger than a picture may be."
    path = tmp_path / "drawing.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 4), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) * keep // 100])
    with pytest.raises(InputError, match=f"{name}='.*drawing.png'"): segment(photo, **{name: path})
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=f"{name}='.*drawing.png'"): segment(photo, **{name: path})
