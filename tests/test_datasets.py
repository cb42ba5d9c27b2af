"""Readers: on tiny sets in the official layouts, and on the real sets where DYNASEG_DATA names their folder."""
import json
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from dynaseg.datasets import (
    BSD500,
    COARSE,
    IMAGE_SUFFIXES,
    VOC2012,
    COCOStuff27,
    Dataset,
    ICoseg,
    Photos,
    Record,
    _natural,
)
from dynaseg.images import InputError, load_image

rng = np.random.default_rng(0)
PHOTO = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
MAPS = [rng.integers(1, 4, (12, 16)), rng.integers(1, 9, (12, 16)), np.ones((12, 16), int)]


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    img = Image.fromarray(np.asarray(array, dtype=np.uint8))
    if mode == "P":
        img = img.convert("P")
        img.putpalette(bytes(255 - i // 3 for i in range(768)))
    img.save(path)


def real(name):
    root = os.environ.get("DYNASEG_DATA")
    if not root: pytest.skip("DYNASEG_DATA is not set: no real data to read")
    if not (Path(root) / name).is_dir(): pytest.skip(f"{name} is not in DYNASEG_DATA")
    return root


@pytest.fixture
def bsd(tmp_path):
    "Two photos in `val`, one in `train`, in the official layout."
    data = tmp_path / "BSDS500" / "data"
    for part, name, maps in [("val", "1000", MAPS), ("val", "200", MAPS[:1]), ("train", "3", MAPS[1:])]:
        save(data / "images" / part / f"{name}.jpg", PHOTO)
        (data / "images" / part / "Thumbs.db").touch()
        (data / "groundTruth" / part).mkdir(parents=True, exist_ok=True)
        cells = np.empty((1, len(maps)), dtype=object)
        for i, m in enumerate(maps):
            cells[0, i] = {"Segmentation": m.astype(np.uint16), "Boundaries": np.zeros(m.shape, np.uint8)}
        savemat(data / "groundTruth" / part / f"{name}.mat", {"groundTruth": cells})
    return data


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    mask = np.zeros((12, 16), int)
    mask[3:9, 3:9] = 15
    mask[2, 3:9] = 255
    for name in ["2007_000001", "2008_000002"]:
        save(root / "JPEGImages" / f"{name}.jpg", PHOTO)
        save(root / "SegmentationClass" / f"{name}.png", mask, "P")
        save(root / "SegmentationObject" / f"{name}.png", np.where(mask == 15, 1, mask), "P")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000001\r\n2008_000002\r\n")
    return root, mask


@pytest.fixture
def coco(tmp_path):
    fine = np.full((12, 16), 255)
    fine[:, 4:] = 0
    fine[:, 8:] = 181
    for name in ["000000000139", "000000000285"]:
        save(tmp_path / "images" / "val2017" / f"{name}.jpg", PHOTO)
        save(tmp_path / "annotations" / "val2017" / f"{name}.png", fine)
    (tmp_path / "fine_to_coarse.json").write_text(json.dumps({"fine_index_to_coarse_index": {"0": 9, "181": 26}}))
    (tmp_path / "val2017_curated.txt").write_text("000000000285")
    return tmp_path, fine


def constant(path, value):
    return [np.full((2, 2), value)]


# --- records and sequences

def test_record_reads_lazily_and_each_time(tmp_path):
    record = Record("a", tmp_path / "a.png", tmp_path / "a.txt", partial(constant, value=3))
    with pytest.raises(FileNotFoundError): record.image
    save(record.path, PHOTO)
    image = record.image
    assert image.shape == (12, 16, 3) and image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
    assert record.image is not image
    assert record.ground_truths[0].tolist() == [[3, 3], [3, 3]]
    assert "a.png" not in repr(record) and "'a'" in repr(record)


def test_records_pickle_so_that_a_pool_can_score_them(bsd, coco):
    for ds in [BSD500(bsd), COCOStuff27(coco[0])]:
        again = pickle.loads(pickle.dumps(ds))
        assert again.names == ds.names
        np.testing.assert_array_equal(again[0].ground_truths[0], ds[0].ground_truths[0])


def test_sequence_of_records(bsd):
    ds = BSD500(bsd)
    assert len(ds) == 2 and [r.name for r in ds] == ds.names == ["200", "1000"]
    assert ds[-1].name == "1000" and ds["1000"] == ds[1] and ds[0] in ds
    assert ds[1:].names == ["1000"] and isinstance(ds[1:], BSD500) and ds[1:].split == "val"
    assert ds.names == ["200", "1000"]
    with pytest.raises(IndexError): ds[2]
    with pytest.raises(KeyError, match="4000"): ds["4000"]
    assert repr(ds) == "BSD500(split 'val', 2 images, 200 … 1000)"
    assert repr(ds[:1]) == "BSD500(split 'val', 1 image, 200)" and repr(ds[:0]) == "BSD500(split 'val', 0 images)"


@given(st.integers(1, 30), st.integers(0, 2**32), st.data())
def test_random_subset_is_sorted_unique_and_depends_on_the_seed_alone(n, seed, data):
    records = [Record(f"{i}", Path("here")) for i in range(n)]
    for r in records: object.__setattr__(r, "path", Path(__file__))
    k = data.draw(st.integers(1, n))
    chosen = [int(name) for name in Dataset(records, k, seed).names]
    assert chosen == sorted(set(chosen)) and len(chosen) == k and set(chosen) <= set(range(n))
    assert chosen == [int(name) for name in Dataset(records, k, seed).names]


def test_seeds_differ_and_choices_are_pinned():
    records = [Record(f"{i}", Path(__file__)) for i in range(100)]
    assert len({tuple(Dataset(records, 5, seed).names) for seed in range(10)}) == 10
    assert Dataset(records, np.int64(100)).names == [f"{i}" for i in range(100)]
    expected = sorted(np.random.default_rng(7).choice(100, size=3, replace=False).tolist())
    assert Dataset(records, 3, 7).names == [str(i) for i in expected]


def test_subset_by_names_keeps_their_order(bsd):
    assert BSD500(bsd, subset=["1000", "200"]).names == ["1000", "200"]
    assert BSD500(bsd, subset="200").names == ["200"]


@pytest.mark.parametrize("subset, words", [(0, "subset=0; expected 1 to 2"), (3, "subset=3; expected 1 to 2"),
                                           (-1, "subset=-1"), (["nine"], "nine"), ([], "0 names"),
                                           (["200", "200"], "2 names, 1 of them")])
def test_bad_subsets_are_named(bsd, subset, words):
    with pytest.raises(InputError, match=words): BSD500(bsd, subset=subset)


# --- a folder of photos

def test_photos_recursive_natural_order_known_suffixes(tmp_path):
    names = ["b10.JPG", "b9.jpeg", "a/2.png", "a/10.png", "a/1.webp", "c.tif", ".thumbs/x.png", "._b9.jpg", "notes.txt"]
    for name in names: save(tmp_path / name, PHOTO) if name != "notes.txt" else (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    photos = Photos(tmp_path)
    assert photos.names == ["a/1.webp", "a/2.png", "a/10.png", "b9.jpeg", "b10.JPG", "c.tif"]
    assert photos[0].ground_truths == [] and photos["c.tif"].image.shape == (12, 16, 3)
    assert Photos(str(tmp_path), subset=2, seed=1).names == Photos(tmp_path, subset=2, seed=1).names


def test_photos_in_a_folder_below_a_hidden_one(tmp_path):
    save(tmp_path / ".cache" / "mine" / "1.png", PHOTO)
    assert Photos(tmp_path / ".cache" / "mine").names == ["1.png"]


def test_photos_missing_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*not a folder"): Photos(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no photo.*jpg"): Photos(tmp_path)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=8, unique=True))
def test_natural_order_of_numbers(numbers):
    names = [f"img {n} x" for n in numbers]
    assert [int(n.split()[1]) for n in sorted(names, key=_natural)] == sorted(numbers)


def test_suffixes_are_lower_case_and_pillow_knows_them():
    known = Image.registered_extensions()
    assert all(s == s.lower() and (s in known or s in (".npy", ".btf", ".lsm")) for s in IMAGE_SUFFIXES)


@pytest.mark.parametrize("name", ["a.jp2", "a.tga", "a.jfif", "a.npy", "a.avif", "a.TIF", "a.webp", "a.qoi", "a.dds"])
def test_what_is_read_alone_is_found_in_a_folder(tmp_path, photo, name):
    file = tmp_path / name
    if name.endswith("npy"): np.save(file, photo)
    else:
        try: Image.fromarray(photo).save(file, {"a.jfif": "JPEG"}.get(name))
        except (KeyError, OSError, ValueError): pytest.skip("this Pillow does not write it")
    assert load_image(file).shape == photo.shape
    assert Photos(tmp_path).names == [name]


@pytest.mark.parametrize("name", ["a.eps", "a.mpg", "a.h5", "a.wmf", "a.txt", "a.npz", "a"])
def test_what_cannot_be_read_is_no_photo(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="no photo"): Photos(tmp_path)


# --- BSD500

def test_bsd500_reads_the_official_layout_from_any_height(bsd):
    for root in [bsd, bsd.parent, bsd.parent.parent]:
        ds = BSD500(root, split="val")
        truths = ds["1000"].ground_truths
        assert len(truths) == 3 and all(t.dtype == np.int64 for t in truths)
        for truth, m in zip(truths, MAPS): np.testing.assert_array_equal(truth, m)
        assert ds["1000"].image.shape == (12, 16, 3)
    assert BSD500(bsd, split="train").names == ["3"]
    assert len(BSD500(bsd, split="train")[0].ground_truths) == 2


def test_bsd500_missing_parts_are_named(bsd):
    with pytest.raises(FileNotFoundError, match="images/test.*berkeley"): BSD500(bsd, split="test")
    with pytest.raises(FileNotFoundError, match="images/test"): BSD500(bsd, split="all")
    with pytest.raises(InputError, match="dev.*train, val, test, all"): BSD500(bsd, split="dev")
    (bsd / "groundTruth" / "val" / "1000.mat").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4.*1000.mat.*berkeley"): BSD500(bsd)
    assert BSD500(bsd, subset=["200"]).names == ["200"]


def test_bsd500_all_is_train_val_test_in_turn(bsd):
    for kind in ["images", "groundTruth"]: (bsd / kind / "val").rename(bsd / kind / "test")
    for kind in ["images", "groundTruth"]: (bsd / kind / "val").mkdir()
    assert BSD500(bsd, split="all").names == ["3", "200", "1000"]


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0", b"\0" * 4096])
def test_bsd500_broken_ground_truth(bsd, content):
    (bsd / "groundTruth" / "val" / "200.mat").write_bytes(content)
    with pytest.raises(InputError, match="200.mat.*ground-truth"): BSD500(bsd)["200"].ground_truths
    savemat(bsd / "groundTruth" / "val" / "200.mat", {"other": 1})
    with pytest.raises(InputError, match="200.mat"): BSD500(bsd)["200"].ground_truths


# --- VOC2012

def test_voc2012_reads_palette_indices(voc):
    root, mask = voc
    for start in [root, root.parent, root.parent.parent]:
        ds = VOC2012(start)
        assert ds.names == ["2007_000001", "2008_000002"] and ds.ignore == 255 and ds.n_classes == 21
    truth, = ds[0].ground_truths
    np.testing.assert_array_equal(truth, mask)
    assert truth.dtype == np.int64


def test_voc2012_object_masks(voc):
    ds = VOC2012(voc[0], masks="object")
    assert np.unique(ds[0].ground_truths[0]).tolist() == [0, 1, 255] and ds.n_classes is None
    with pytest.raises(InputError, match="masks='things'"): VOC2012(voc[0], masks="things")


def test_voc2012_missing_and_broken_files_are_named(voc, tmp_path):
    root, _ = voc
    with pytest.raises(FileNotFoundError, match="test.txt.*lists there: val.*ox.ac.uk"): VOC2012(root, split="test")
    with pytest.raises(FileNotFoundError, match="JPEGImages"): VOC2012(root / "ImageSets")
    ds = VOC2012(root)
    save(ds[0].truth_path, PHOTO)
    with pytest.raises(InputError, match="2007_000001.png.*RGB"): ds[0].ground_truths
    ds[1].truth_path.write_bytes(b"no mask")
    with pytest.raises(InputError, match="2008_000002.png"): ds[1].ground_truths
    ds[1].truth_path.unlink()
    with pytest.raises(FileNotFoundError, match="2008_000002.png"): VOC2012(root)


# --- COCO-Stuff, iCoseg

def test_coco_maps_fine_to_coarse(coco):
    root, fine = coco
    ds = COCOStuff27(root)
    assert ds.names == ["000000000285"] and ds.n_classes == 27 and ds.ignore == 255
    np.testing.assert_array_equal(ds[0].ground_truths[0], np.select([fine == 0, fine == 181], [9, 26], 255))
    assert COCOStuff27(root, curated=False).names == ["000000000139", "000000000285"]


def test_coco_stuff_and_things_number_from_0(coco):
    stuff, things = (COCOStuff27(coco[0], classes=c) for c in ["stuff", "things"])
    assert np.unique(stuff[0].ground_truths[0]).tolist() == [14, 255] and stuff.n_classes == 15
    assert np.unique(things[0].ground_truths[0]).tolist() == [9, 255] and things.n_classes == 12
    assert sum(high - low for name, (low, high) in COARSE.items() if name != "all") == 27


def test_coco_missing_files_are_named(coco, tmp_path):
    root = coco[0]
    with pytest.raises(FileNotFoundError, match="train2017.*cocodataset"): COCOStuff27(root, split="train2017")
    with pytest.raises(InputError, match="classes='stuf'"): COCOStuff27(root, classes="stuf")
    with pytest.raises(FileNotFoundError, match="fine_to_coarse.json.*PiCIE.*maps="):
        COCOStuff27(root, maps=root / "images")
    (root / "val2017_curated.txt").unlink()
    with pytest.raises(FileNotFoundError, match="val2017_curated.txt.*PiCIE.*curated=False"): COCOStuff27(root)
    for text in ["{", "{}", '{"fine_index_to_coarse_index": {"300": 1}}', "[]"]:
        (root / "fine_to_coarse.json").write_text(text)
        with pytest.raises(InputError, match="fine_to_coarse.json"): COCOStuff27(root, curated=False)


def test_icoseg_pairs_groups(tmp_path):
    for group in ["2 bears", "10 kites"]:
        save(tmp_path / "images" / group / "1.a.jpg", PHOTO)
        save(tmp_path / "ground_truth" / group / "1.a.png", 255 * (MAPS[0] > 1))
    ds = ICoseg(tmp_path)
    assert ds.names == ["2 bears/1.a", "10 kites/1.a"] and ds.n_classes == 2
    np.testing.assert_array_equal(ds[0].ground_truths[0], MAPS[0] > 1)
    (tmp_path / "ground_truth" / "2 bears" / "1.a.png").unlink()
    with pytest.raises(FileNotFoundError, match="2 bears/1.a.png.*cornell"): ICoseg(tmp_path)
    with pytest.raises(FileNotFoundError, match="images"): ICoseg(tmp_path / "ground_truth")


# --- the real sets

@pytest.mark.parametrize("split, n", [("train", 200), ("val", 100)])
def test_real_bsd500(split, n):
    ds = BSD500(real("BSDS500"), split)
    assert len(ds) == n and len(BSD500(real("BSDS500"), split, subset=20)) == 20
    for record in ds[::20]:
        truths = record.ground_truths
        assert 4 <= len(truths) <= 9 and {t.shape for t in truths} == {record.image.shape[:2]}
        assert sorted(record.image.shape) == [3, 321, 481] and min(t.min() for t in truths) >= 1


def test_real_voc2012():
    ds = VOC2012(real("VOCdevkit"))
    for record in ds[::20]:
        truth, = record.ground_truths
        assert truth.shape == record.image.shape[:2]
        assert set(np.unique(truth)) <= {*range(21), 255}


def test_real_coco_maps(tmp_path):
    maps = Path(real("coco-stuff")) / "coco-stuff"
    fine = np.arange(192).reshape(12, 16)
    fine[fine > 181] = 255
    names = (maps / "val2017_curated.txt").read_text().split()
    assert len(names) == 2175
    save(tmp_path / "val2017" / f"{names[0]}.jpg", PHOTO)
    save(tmp_path / "stuffthingmaps" / "val2017" / f"{names[0]}.png", fine)
    truth, = COCOStuff27(tmp_path, maps=maps, subset=names[:1])[0].ground_truths
    assert np.unique(truth).tolist() == [*range(27), 255]
    assert (truth[fine < 91] < 12).all() and (truth[(fine >= 91) & (fine < 182)] >= 12).all()
    stuff, = COCOStuff27(tmp_path, classes="stuff", maps=maps, subset=names[:1])[0].ground_truths
    assert np.unique(stuff).tolist() == [*range(15), 255]
