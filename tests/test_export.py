"""Files for other programs: polygons that are the labels again, tables by hand, pictures that keep ids and place."""
import csv
import importlib.util
import io
import json
import re
import warnings

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dynaseg import export
from dynaseg.export import (Place, Table, coco, geojson, needed, outlines, place_of, polygons, storable, svg,
                            table, write_ome, write_png, write_table,
                            write_tiff)
from dynaseg.images import InputError, read_image
from dynaseg.labels import regions


def need(package):
    "Skips where an optional package is missing, and says which."
    return pytest.mark.skipif(importlib.util.find_spec(package) is None,
                              reason=f"needs {package}: pip install -e '.[dev]'")


SMALL = np.array([[0, 0, 1, 1, 1, 1],
                  [0, 0, 1, 2, 2, 1],
                  [3, 3, 1, 1, 1, 1],
                  [3, 3, 3, 0, -1, -1]])
any_labels = arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)),
                    elements=st.integers(-1, 3)).filter(lambda a: a.max() >= 0)


def flooded(labels):
    "The sets of pixels that are connected by edges and have one label, found by flooding."
    left = {(y, x) for y, x in np.ndindex(labels.shape) if labels[y, x] >= 0}
    found = []
    while left:
        todo, seen = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            seen.add((y, x))
            for at in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if at in left and labels[at] == labels[y, x]:
                    left.remove(at)
                    todo.append(at)
        found.append(frozenset(seen))
    return set(found)


def drawn(features, shape, place=lambda x, y: (x, y)):
    """The map of ids that the polygons draw: a pixel belongs to the polygon that its middle is in, by counting the
    sides above it."""
    ids = np.full(shape, -1)
    for feature in features:
        for y, x in np.ndindex(shape):
            px, py = place(x + 0.5, y + 0.5)
            above = 0
            for ring in feature["geometry"]["coordinates"]:
                for (ax, ay), (bx, by) in zip(ring, ring[1:]): above += (min(ax, bx) < px < max(ax, bx)) and ay > py
            if above % 2:
                assert ids[y, x] == -1, "two polygons cover a pixel"
                ids[y, x] = feature["id"]
    return ids


def tags(left=500_000.0, top=5_300_000.0, step=10.0, byteorder="<", point=False, epsg=32632, projected=True, unit=9001):
    "The metadata of a photo with a place, as `read_image` gives it."
    file = io.BytesIO()
    keys = [(1024, 0, 1, 1 if projected else 2), (1025, 0, 1, 2 if point else 1),
            (3072 if projected else 2048, 0, 1, epsg)]
    if unit: keys.append((3076, 0, 1, unit))
    directory = (1, 1, 0, len(keys), *(n for key in keys for n in key))
    extra = [(33550, "d", 3, (step, step, 0), True), (33922, "d", 6, (0, 0, 0, left, top, 0), True),
             (34735, "H", len(directory), directory, True)]
    tifffile.imwrite(file, np.arange(24, dtype=np.uint8).reshape(4, 6), extratags=extra, byteorder=byteorder,
                     metadata=None)
    return read_image(file).meta


# --- segments

def segments(labels): return regions(labels, out=-1)


def test_segments_by_hand():
    assert segments(SMALL).tolist() == [[2, 2, 0, 0, 0, 0], [2, 2, 0, 3, 3, 0],
                                        [1, 1, 0, 0, 0, 0], [1, 1, 1, 4, -1, -1]]


def test_labels_that_are_such_ids_already_stay_as_they_are():
    assert segments(np.array([[0, 0, 2, 1]])).tolist() == [[0, 0, 2, 1]]
    assert segments(np.array([[7, 7, 2, -1]])).tolist() == [[0, 0, 1, -1]]


def test_of_equal_areas_the_smaller_label_comes_first():
    assert segments(np.array([[2, 0, 1, 0]])).tolist() == [[3, 0, 2, 1]]


@given(any_labels)
def test_segments_are_what_flooding_finds(labels):
    ids = segments(labels)
    assert ((ids == -1) == (labels == -1)).all()
    found = {frozenset(zip(*np.nonzero(ids == i))) for i in np.unique(ids[ids >= 0])}
    assert found == flooded(labels)


@pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.zeros((2, 2, 2), int), np.full((2, 2), -1),
                                    np.array([[0, -2]]), np.zeros((0, 3), int), np.zeros((2, 2), bool)])
def test_what_is_no_label_map_is_refused(labels):
    for function in (outlines, polygons, coco, svg, storable):
        with pytest.raises(InputError, match="expected"): function(labels)


# --- polygons

def test_outline_of_a_piece_with_a_hole():
    outer, hole = outlines(segments(SMALL))[0]
    assert set(map(tuple, outer.tolist())) == {(2, 0), (6, 0), (6, 3), (2, 3)}
    assert set(map(tuple, hole.tolist())) == {(3, 1), (5, 1), (5, 2), (3, 2)}


def test_a_ring_whose_ends_meet_at_a_corner_is_an_outline_and_a_hole():
    """Eight pixels around a ninth, one of them missing: the outside and the hole touch at a corner, and neither ring
    touches itself."""
    labels = np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 0]])
    (outer, hole), = outlines(labels).values()
    assert len(set(map(tuple, outer.tolist()))) == len(outer) == 6 and len(hole) == 4
    assert (1, 1) in set(map(tuple, outer.tolist())) & set(map(tuple, hole.tolist()))


@given(any_labels)
def test_polygons_drawn_again_are_the_labels(labels):
    features = polygons(labels)
    ids = segments(labels)
    assert [f["id"] for f in features] == np.unique(ids[ids >= 0]).tolist()
    assert (drawn(features, labels.shape) == ids).all()
    for feature in features: assert feature["properties"]["cluster"] == labels[ids == feature["id"]][0]


@given(any_labels)
def test_rings_are_closed_and_simple_and_turn_as_rfc_7946_asks(labels):
    for feature in polygons(labels):
        for k, ring in enumerate(feature["geometry"]["coordinates"]):
            assert ring[0] == ring[-1] and len(set(map(tuple, ring))) == len(ring) - 1 >= 4
            area = sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(ring, ring[1:])) / 2
            assert (area > 0) == (k == 0)
            for a, b, c in zip(ring, ring[1:], [*ring[2:], ring[1]]):
                assert (a[0] == b[0]) != (b[0] == c[0])  # every point is a corner


@given(any_labels)
def test_areas_of_rings_add_up_to_pixels(labels):
    ids = segments(labels)
    for i, rings in outlines(ids).items(): assert sum(export._area(ring) for ring in rings) == (ids == i).sum()


@need("shapely")
@given(any_labels)
def test_polygons_are_valid_by_shapely(labels):
    from shapely.geometry import shape
    from shapely.validation import explain_validity
    for feature in polygons(labels):
        assert shape(feature["geometry"]).is_valid, explain_validity(shape(feature["geometry"]))


def test_coordinates_on_the_map():
    features = polygons(np.array([[0, 1], [0, 1]]), tags())
    ring = features[1]["geometry"]["coordinates"][0]
    assert (set(map(tuple, ring))
            == {(500_010, 5_300_000), (500_020, 5_300_000), (500_020, 5_299_980), (500_010, 5_299_980)})
    assert polygons(np.array([[0, 1]]), tags(), crs="pixels") == polygons(np.array([[0, 1]]))
    assert polygons(np.array([[0, 1]]), tags(), crs="epsg:32632") == polygons(np.array([[0, 1]]), tags())


def test_geojson_names_its_crs_unless_it_is_the_one_of_rfc_7946():
    assert geojson(SMALL, tags())["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    assert "crs" not in geojson(SMALL, tags(8.0, 48.0, 0.001, epsg=4326, projected=False, unit=None))
    assert "crs" not in geojson(SMALL) and "crs" not in geojson(SMALL, tags(), crs="pixels")
    with pytest.warns(UserWarning, match="no EPSG number"): nameless = geojson(SMALL, tags(epsg=32767))
    assert "crs" not in nameless and nameless["features"][0]["geometry"]["coordinates"][0][0][0] >= 500_000


def test_a_crs_that_cannot_be_had():
    with pytest.raises(InputError, match="does not say where it lies"): polygons(SMALL, crs="EPSG:4326")
    with pytest.raises(InputError, match="no EPSG number"): polygons(SMALL, tags(epsg=32767), crs="EPSG:4326")
    with pytest.raises(InputError, match=r"needs no_such_package.*pip install 'dynaseg\[geo\]'"):
        needed("no_such_package", "geo", "crs='x'")


@need("rasterio")
def test_longitude_and_latitude():
    "500 km east in UTM zone 32 is its meridian, 9 degrees east; 5 300 km north are 47.85 degrees of latitude."
    collection = geojson(SMALL, tags(), crs="EPSG:4326")
    assert "crs" not in collection
    lon, lat = max(collection["features"][2]["geometry"]["coordinates"][0], key=lambda p: p[1] - p[0])
    assert lon == pytest.approx(9, abs=1e-9) and lat == pytest.approx(47.853, abs=0.002)
    with pytest.raises(InputError, match="expected a name such as"): geojson(SMALL, tags(), crs="EPSG:1")


@need("rasterio")
@given(any_labels, st.sampled_from([0.5, 10.0, 30.0]), st.integers(-10**6, 10**6), st.integers(-10**6, 10**6))
def test_geotiff_to_labels_to_geojson_to_raster(labels, step, left, top):
    "Read by rasterio, written by us, drawn by rasterio: all ids at their places."
    from rasterio.features import rasterize
    from rasterio.io import MemoryFile
    meta = tags(left, top, step)
    file = io.BytesIO()
    write_tiff(segments(labels), file, meta)
    with MemoryFile(file.getvalue()) as memory, memory.open() as source:
        stored, transform, nodata = source.read(1).astype(np.int64), source.transform, source.nodata
        assert source.crs.to_epsg() == 32632 and tuple(transform)[:6] == (step, 0, left, 0, -step, top)
    collection = json.loads(json.dumps(geojson(labels, meta)))
    again = rasterize([(f["geometry"], f["id"]) for f in collection["features"]], labels.shape, fill=-1,
                      transform=transform, dtype="int32")
    assert (again == segments(labels)).all()
    assert (np.where(stored == nodata, -1, stored) == again).all()


@need("rasterio")
@given(any_labels)
def test_outlines_are_those_of_rasterio(labels):
    from rasterio.features import shapes
    ids = segments(labels).astype(np.int32)
    theirs = {int(i): {frozenset(map(tuple, ring)) for ring in shape["coordinates"]}
              for shape, i in shapes(ids, mask=ids >= 0, connectivity=4)}
    ours = {i: {frozenset(map(tuple, ring.tolist())) for ring in rings} for i, rings in outlines(ids).items()}
    assert ours == theirs


# --- place

@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_place_by_hand(byteorder):
    assert place_of(tags(byteorder=byteorder)) == Place((10, 0, 500_000, 0, -10, 5_300_000), 32632, "m", (10, 10))
    # the tags name the middle of the pixel
    assert place_of(tags(byteorder=byteorder, point=True)).transform == (10, 0, 499_995, 0, -10, 5_300_005)
    assert (place_of(tags(8, 48, 0.5, byteorder, epsg=4326, projected=False, unit=None))
            == Place((0.5, 0, 8, 0, -0.5, 48), 4326, "degree", (0.5, 0.5)))
    assert place_of(tags(unit=None)).unit is None  # the CRS has one, and the file does not say which


def test_place_of_a_turned_photo():
    matrix = (0, 3, 0, 100, 4, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1)
    place = place_of({"georeference": [(34264, 12, 16, np.array(matrix, ">f8").tobytes(), True)], "byteorder": ">"})
    assert place == Place((0, 3, 100, 4, 0, 200), None, None, (3, 4))


@pytest.mark.parametrize("meta", [
    None, {}, {"pixel_size": (1.0, 1.0)}, {"pixel_size": (1.0, 1.0), "unit": "pixel"}, {"georeference": []},
    {"georeference": [(33922, 12, 12, bytes(96), True)], "byteorder": "<"},  # tie points without a scale
    {"georeference": [(34264, 12, 16, bytes(128), True)], "byteorder": "<"}])  # a matrix of zeros
def test_no_place(meta): assert place_of(meta) == Place()


@pytest.mark.parametrize("unit", ["µm", "μm", "um", "micron", "Micrometer"])
def test_micrometres_have_one_name(unit):
    assert place_of({"pixel_size": (0.5, 0.25), "unit": unit}) == Place(unit="um", size=(0.5, 0.25))


@need("rasterio")
@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:3857", "EPSG:2056"])
@pytest.mark.parametrize("turned", [False, True])
def test_place_is_what_rasterio_wrote(crs, turned, tmp_path):
    import rasterio
    from rasterio.transform import Affine
    transform = Affine(2.0, 0.5 * turned, 300.0, 0.25 * turned, -3.0, 80.0)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", width=6, height=4, count=1, dtype="uint8", crs=crs,
                       transform=transform) as file:
        file.write(np.arange(24, dtype=np.uint8).reshape(1, 4, 6))
    meta = read_image(tmp_path / "a.tif").meta
    place = place_of(meta)
    assert place.transform == pytest.approx(tuple(transform)[:6])
    assert f"EPSG:{place.epsg}" == crs
    assert place.unit == ("degree" if crs == "EPSG:4326" else "m")
    write_tiff(SMALL, tmp_path / "b.tif", meta)
    with rasterio.open(tmp_path / "b.tif") as file:
        assert file.crs == rasterio.crs.CRS.from_string(crs)
        assert file.transform.almost_equals(transform)
        assert file.nodata == 255
        assert (file.read(1) == np.where(SMALL < 0, 255, SMALL)).all()


# --- the table

IMAGE = np.stack([np.arange(24).reshape(4, 6) / 24, np.where(SMALL == 2, 1.0, 0.0)], -1).astype(np.float32)


def test_table_by_hand():
    columns = table(SMALL, IMAGE, {"value_range": (0, 24)})
    assert isinstance(columns, Table)
    assert (list(columns)[:10]
            == ["id", "cluster", "area", "top", "left", "bottom", "right", "centroid_y", "centroid_x", "perimeter"])
    rows = columns.rows()
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["cluster"] for row in rows] == [1, 3, 0, 2, 0]
    assert [row["area"] for row in rows] == [10, 5, 4, 2, 1]
    hole = rows[3]  # the two pixels (1, 3) and (1, 4), whose values are 9 and 10
    assert ((hole["top"], hole["left"], hole["bottom"], hole["right"], hole["centroid_y"], hole["centroid_x"])
            == (1, 3, 2, 5, 1, 3.5))
    assert hole["mean_1"] == pytest.approx(9.5)
    assert hole["spread_1"] == pytest.approx(0.5)
    assert hole["mean_2"] == 24
    assert hole["spread_2"] == 0
    assert [row["neighbours"] for row in rows] == ["1 2 3 4", "0 2 4", "0 1", "0", "0 1"]


def test_label_0_is_a_row():
    assert table(np.zeros((4, 4), int), np.zeros((4, 4, 1), np.float32))["area"].tolist() == [16]
    assert table(np.zeros((4, 4), int), np.zeros((4, 4, 1), np.float32))["perimeter"].tolist() == [12]
    assert table(np.zeros((4, 4), int), np.zeros((4, 4, 1), np.float32))["neighbours"].tolist() == [""]


def test_large_ids_cost_nothing():
    columns = table(np.array([[10**12, 10**12, 5]]), np.zeros((1, 3, 1), np.float32))
    assert columns["cluster"].tolist() == [10**12, 5] and columns["neighbours"].tolist() == ["1", "0"]


def test_units():
    small = table(np.zeros((4, 4), int), np.zeros((4, 4, 1), np.float32), {"pixel_size": (0.5, 0.5), "unit": "µm"})
    assert small["area_um2"].tolist() == [4] and small["perimeter_um"].tolist() == [6] and "x" not in small
    oblong = table(np.zeros((4, 4), int), np.zeros((4, 4, 1), np.float32), {"pixel_size": (0.5, 0.25), "unit": "µm"})
    assert oblong["area_um2"].tolist() == [2] and "perimeter_um" not in oblong
    ground = table(np.zeros((4, 6), int), np.zeros((4, 6, 1), np.float32), tags())
    assert ground["area_m2"].tolist() == [2400]
    assert ground["x"].tolist() == [500_030]
    assert ground["y"].tolist() == [5_299_980]
    angles = table(np.zeros((4, 6), int), np.zeros((4, 6, 1), np.float32),
                   tags(8, 48, 0.5, epsg=4326, projected=False, unit=None))
    assert angles["x"].tolist() == [9.5] and not any("degree" in name for name in angles)


@given(any_labels, st.integers(1, 3), st.integers(0, 99))
def test_table_is_what_counting_finds(labels, bands, seed):
    image = np.random.default_rng(seed).random((*labels.shape, bands), np.float32)
    ids = segments(labels)
    for row in table(labels, image).rows():
        mask = ids == row["id"]
        y, x = np.nonzero(mask)
        assert row["area"] == len(y) and row["cluster"] == labels[mask][0]
        assert (row["top"], row["left"], row["bottom"], row["right"]) == (y.min(), x.min(), y.max() + 1, x.max() + 1)
        assert (row["centroid_y"], row["centroid_x"]) == pytest.approx((y.mean(), x.mean()))
        for band in range(bands):
            values = image[..., band][mask].astype(float)
            assert row[f"mean_{band + 1}"] == pytest.approx(values.mean())
            assert row[f"spread_{band + 1}"] == pytest.approx(values.std(), abs=1e-7)
        beside = {ids[b] for a in zip(y, x)
                  for b in ((a[0] + 1, a[1]), (a[0] - 1, a[1]), (a[0], a[1] + 1), (a[0], a[1] - 1))
                  if 0 <= b[0] < ids.shape[0] and 0 <= b[1] < ids.shape[1]} - {row["id"], -1}
        assert row["neighbours"] == " ".join(map(str, sorted(beside)))


def test_sizes_that_differ():
    with pytest.raises(InputError, match="same height and width"): table(SMALL, IMAGE[:3])


def test_a_table_as_csv(tmp_path):
    columns = table(SMALL, IMAGE)
    write_table(columns, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file: rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(columns) and [int(row["id"]) for row in rows] == [0, 1, 2, 3, 4]
    assert [float(row["mean_1"]) for row in rows] == columns["mean_1"].tolist()  # no digit is lost
    assert rows[0]["neighbours"] == "1 2 3 4"


@need("pyarrow")
def test_a_table_as_parquet(tmp_path):
    from pyarrow import parquet
    columns = table(SMALL, IMAGE)
    write_table(columns, tmp_path / "a.parquet")
    assert (parquet.read_table(tmp_path / "a.parquet").to_pydict()
            == {name: column.tolist() for name, column in columns.items()})


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"parquet needs pyarrow.*pip install 'dynaseg\[parquet\]'"):
        write_table(table(SMALL, IMAGE), tmp_path / "a.parquet")


def test_a_table_shows_itself():
    many = table(np.arange(12)[None], np.zeros((1, 12, 1), np.float32))
    assert repr(many).startswith("Table(12 rows: id, cluster, area")
    assert "12 rows, the first 10" in many._repr_html_()
    assert many._repr_html_().count("<tr>") == 11


# --- label pictures

@pytest.mark.parametrize("ids, kind", [(255, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16),
                                       (65_537, np.uint32)])
def test_as_few_bits_as_hold_all_ids(ids, kind):
    labels = np.arange(ids)[None]
    stored, nodata = storable(labels)
    assert stored.dtype == kind and nodata is None and (stored == labels).all()


@pytest.mark.parametrize("ids, kind, nodata",
                         [(255, np.uint8, 255), (256, np.uint16, 65_535), (65_535, np.uint16, 65_535),
                          (65_536, np.uint32, 2**32 - 1)])
def test_pixels_that_are_out_have_the_largest_number(ids, kind, nodata):
    stored, number = storable(np.arange(-1, ids)[None])
    assert stored.dtype == kind
    assert number == nodata
    assert stored[0, 0] == nodata
    assert (stored[0, 1:] == np.arange(ids)).all()


def test_numbers_of_ones_own_for_pixels_that_are_out():
    assert storable(SMALL, 0)[0][3].tolist() == [4, 4, 4, 1, 0, 0] and storable(SMALL, 0)[1] == 0
    assert storable(np.arange(255)[None], 0)[0].dtype == np.uint8
    assert storable(np.arange(256)[None], 0)[0].dtype == np.uint16
    assert storable(SMALL, 9)[0][3].tolist() == [3, 3, 3, 0, 9, 9] and storable(SMALL, 300)[0].dtype == np.uint16
    with pytest.raises(InputError, match="nodata=2, but that is the id of a label"): storable(SMALL, 2)
    for wrong in (-1, 1.5, "0", True):
        with pytest.raises(InputError, match="nodata=.*whole number"): storable(SMALL, wrong)


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="65536.*0 to 65535.*Save .tif"):
        write_png(np.arange(65_537)[None], io.BytesIO())
    with pytest.raises(InputError, match="0 to 4294967295.*Save .npz"): storable(np.array([[0, 2**32]]))
    with pytest.raises(InputError, match="Save .npz"):
        storable(np.array([[-1, 2**32 - 1]]))  # no number is left for the pixels that are out
    assert storable(np.array([[0, 2**32 - 1]]))[0].tolist() == [[0, 2**32 - 1]]


def test_a_png_of_few_ids_has_colours(tmp_path):
    from dynaseg.labels import label_picture
    labels = np.arange(24).reshape(4, 6)
    write_png(labels, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P" and (np.asarray(picture) == labels).all()
        assert (np.asarray(picture.convert("RGB")) == label_picture(labels)).all()
    write_png(SMALL, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as picture:
        assert np.asarray(picture)[3].tolist() == [3, 3, 3, 0, 255, 255]
        assert (np.asarray(picture.convert("RGBA"))[..., 3] == np.where(SMALL < 0, 0, 255)).all()
    write_png(SMALL, tmp_path / "c.png", nodata=0)
    with Image.open(tmp_path / "c.png") as picture:
        assert (np.asarray(picture) == SMALL + 1).all()
        rgba = np.asarray(picture.convert("RGBA"))
        assert (rgba[..., :3][SMALL >= 0] == label_picture(np.maximum(SMALL, 0))[SMALL >= 0]).all()
        assert (rgba[..., 3] == np.where(SMALL < 0, 0, 255)).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 16, 17, 255, 256, 257, 65_536])
def test_ids_of_a_png_are_exact(n, tmp_path):
    labels = np.arange(n)[None]
    write_png(labels, tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) == labels).all()


@pytest.mark.parametrize("n", [256, 257, 65_536, 70_000])
def test_ids_of_a_tiff_are_exact_for_every_reader(n, tmp_path):
    labels = np.arange(n).reshape(4, -1) if n % 4 == 0 else np.arange(n)[None]
    write_tiff(labels, tmp_path / "a.tif")
    assert (tifffile.imread(tmp_path / "a.tif") == labels).all()
    assert (np.asarray(Image.open(tmp_path / "a.tif")) == labels).all()


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_the_place_of_a_geotiff_is_kept_byte_for_byte(byteorder, tmp_path):
    meta = tags(byteorder=byteorder)
    write_tiff(SMALL, tmp_path / "a.tif", meta)
    again = read_image(tmp_path / "a.tif").meta
    assert (again["georeference"], again["byteorder"], again["nodata"]) == (meta["georeference"], byteorder, 255)
    assert len(meta["georeference"]) == 3


def test_numbers_about_the_bands_of_the_photo_do_not_become_numbers_about_ids(tmp_path):
    "A scale of 0.0001 in GDAL_METADATA would make ids of 0.0003."
    text = '<GDALMetadata><Item name="SCALE" sample="0" role="scale">0.0001</Item></GDALMetadata>'
    tifffile.imwrite(tmp_path / "a.tif", np.arange(24, dtype=np.uint8).reshape(4, 6),
                     extratags=[(42112, "s", 0, text, True)], metadata=None)
    write_tiff(SMALL, tmp_path / "b.tif", read_image(tmp_path / "a.tif").meta)
    with tifffile.TiffFile(tmp_path / "b.tif") as file: assert 42112 not in file.pages[0].tags


def test_ome_tiff_has_axes_and_the_size_of_a_pixel(tmp_path):
    write_ome(SMALL, tmp_path / "a.ome.tif", {"pixel_size": (0.5, 0.25), "unit": "µm"})
    write_ome(np.stack([SMALL, SMALL]), tmp_path / "b.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.is_ome and file.series[0].axes == "YX"
        for words in ('PhysicalSizeX="0.25"', 'PhysicalSizeY="0.5"', 'PhysicalSizeXUnit="µm"'):
            assert words in file.ome_metadata
        assert (file.asarray() == np.where(SMALL < 0, 255, SMALL)).all()
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
        assert file.series[0].axes == "ZYX" and file.series[0].shape == (2, 4, 6)
    assert place_of(read_image(tmp_path / "a.ome.tif").meta) == Place(unit="um", size=(0.5, 0.25))


# --- COCO

def decoded(mask):
    "A run-length code as a mask, run by run."
    flat = []
    for k, count in enumerate(mask["counts"]): flat += [k % 2] * count
    height, width = mask["size"]
    return np.array(flat + [0] * (height * width - len(flat))).reshape(width, height).T


@given(any_labels)
def test_masks_of_coco_are_the_segments(labels):
    ids = segments(labels)
    found = coco(labels, "photo.png")
    assert found["images"] == [{"id": 1, "width": labels.shape[1], "height": labels.shape[0], "file_name": "photo.png"}]
    assert {c["id"] for c in found["categories"]} == set((labels[labels >= 0] + 1).tolist())
    for annotation in found["annotations"]:
        mask = ids == annotation["id"] - 1
        y, x = np.nonzero(mask)
        assert (decoded(annotation["segmentation"]) == mask).all()
        assert annotation["area"] == mask.sum()
        assert annotation["category_id"] == labels[mask][0] + 1
        assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    json.dumps(found)


@need("pycocotools")
@given(labels=any_labels)
def test_pycocotools_reads_the_masks(tmp_path, capsys, labels):
    from pycocotools.coco import COCO
    (tmp_path / "a.json").write_text(json.dumps(coco(labels)))
    data = COCO(str(tmp_path / "a.json"))
    ids = np.full(labels.shape, -1)
    for annotation in data.loadAnns(data.getAnnIds()): ids[data.annToMask(annotation) == 1] = annotation["id"] - 1
    assert (ids == segments(labels)).all()


# --- SVG

def test_a_drawing_is_well_formed_and_has_a_path_for_each_segment():
    from xml.etree import ElementTree
    root = ElementTree.fromstring(svg(SMALL))
    assert root.get("viewBox") == "0 0 6 4"
    assert ([(p.get("id"), p.get("data-cluster")) for p in root]
            == [("segment-0", "1"), ("segment-1", "3"), ("segment-2", "0"), ("segment-3", "2"), ("segment-4", "0")])
    assert root[2].get("fill") == root[4].get("fill") != root[0].get("fill")


@given(any_labels)
def test_paths_of_a_drawing_are_the_segments(labels):
    features = []
    for i, path in re.findall(r'<path id="segment-(\d+)".* d="([^"]*)"', svg(labels)):
        rings = []
        for part in path.split("Z")[:-1]:
            ring = []
            for command, numbers in re.findall(r"([MHV])([\d ]+)", part):
                if command == "M": x, y = map(int, numbers.split())
                elif command == "H": x = int(numbers)
                else: y = int(numbers)
                ring.append([x, y])
            rings.append([*ring, ring[0]])
        features.append({"id": int(i), "geometry": {"coordinates": rings}})
    assert (drawn(features, labels.shape) == segments(labels)).all()


def test_nothing_here_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in (outlines, polygons, geojson, coco, svg): make(SMALL)
        table(SMALL, IMAGE)


# --- scenes

@need("rasterio")
@pytest.mark.parametrize("window", [1, 500, 10**6])
def test_a_scene_is_read_window_by_window_into_means_of_squares(tmp_path, window):
    import rasterio
    from rasterio.transform import from_origin
    rng = np.random.default_rng(0)
    numbers = rng.integers(1, 4000, (2, 30, 47)).astype(np.uint16)
    numbers[:, :5, :9] = 0
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", width=47, height=30, count=2, dtype="uint16", nodata=0,
                       crs="EPSG:32632",
                       transform=from_origin(1000, 2000, 10, 10)) as file: file.write(numbers)
    copy = export.read_scene(tmp_path / "a.tif", max_pixels=200, window=window)  # squares of 3 × 3
    assert copy.pixels.shape == (10, 16, 2)
    assert place_of(copy.meta) == Place((30, 0, 1000, 0, -30, 2000), 32632, "m", (30, 30))
    assert copy.meta["value_range"] == (0, 4095)
    assert copy.meta["dtype"] == "uint16"
    assert copy.meta["path"] == str(tmp_path / "a.tif")
    for row, column in np.ndindex(10, 16):
        square = numbers[:, 3 * row:3 * row + 3, 3 * column:3 * column + 3].reshape(2, -1)
        some = square[:, square.any(0)].astype(float)
        assert copy.valid[row, column] == (some.size > 0)
        if some.size: np.testing.assert_allclose(copy.pixels[row, column] * 4095, some.mean(1), rtol=1e-5)


@need("rasterio")
def test_a_scene_that_is_none(tmp_path):
    (tmp_path / "a.tif").write_text("no scene")
    with pytest.raises(InputError, match="cannot be opened by rasterio"): export.read_scene(tmp_path / "a.tif")
