"""Query sets: vectors that answer as their marks do, files that come back as they were, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_grouping import SIZE, field_of, odd_features, square, two_things

from featup_app.base.errors import LensError, MarkError
from featup_app.base.files import PROVENANCE
from featup_app.features import FeatureMap
from featup_app.images import image_from_array
from featup_app.lenses import (
    Query,
    QuerySet,
    SimilarityRequest,
    cosine,
    parse_views,
    pinned,
    read_query_set,
    request_from_json,
    similarity,
    write_query_set,
)
from featup_app.lenses import (
    grouping as grouping_of_cells,
)
from featup_app.lenses.queries import MOST_QUERIES
from featup_app.marks import BoxMark, PointMark, PolygonMark, StrokeMark

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ["attention", "jbu", "bilinear", "guided_filter", "lowres", "not linear"]
QUERIES = (
    Query(PointMark((40, 32)), name="square"),
    Query(BoxMark((30, 20), (50, 44))),
    Query(StrokeMark(((2.0, 3.0), (20.0, 9.0), (90.0, 4.0)), 3), negative=True, name="ground"),
    Query(PolygonMark(((60, 40), (90, 44), (70, 60))), negative=True),
    Query(PointMark((3, 60)), hidden=True),
)


def features(seed: int | None = None) -> FeatureMap:
    """Those of the square; moved and in another picture for a seed."""
    found = replace(two_things(), backbone_name="net", provenance={"weights_sha256": "f00"})
    if seed is None:
        return found
    noise = torch.randn(found.data.shape, generator=torch.Generator().manual_seed(seed))
    pixels = found.image.pixels[:, ::-1].copy()
    pixels[0, 0] = seed
    return replace(found, data=found.data.flip(2) + 0.2 * noise + 0.3, image=image_from_array(pixels, name="other"))


def from_elsewhere(queries):
    """The same vectors, as if their picture were another one."""
    return tuple(
        replace(query, vectors=replace(query.vectors, source=replace(query.vectors.source, image_sha256="elsewhere")))
        for query in queries
    )


@pytest.fixture
def unmoved(monkeypatch):
    """Queries from elsewhere are asked as they are, not moved to what is like them."""
    monkeypatch.setattr(grouping_of_cells, "FOREIGN", 0.0)


@pytest.mark.parametrize("grouping", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("method", METHODS)
def test_vectors_answer_as_the_point_that_they_are_of(method, grouping, unmoved):
    field = field_of(features(), method)
    for point in ((40, 32), (3, 60), (0, 0), (96, 64)):
        query = Query(PointMark(point))
        asked = from_elsewhere(pinned(field, [query], size=SIZE, grouping=grouping))
        found = similarity(field, asked, size=SIZE, grouping=grouping)
        expected = similarity(field, [query], size=SIZE, grouping=grouping)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        found, expected = (cosine(field, each, size=SIZE) for each in (asked, [query]))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("combine", ["mean", "maximum", "difference"])
@pytest.mark.parametrize("method", METHODS)
def test_vectors_answer_as_the_marks_that_they_are_of(method, combine, unmoved):
    field = field_of(features(), method)
    asked = from_elsewhere(pinned(field, QUERIES, size=SIZE, grouping=1.0))
    for function in (similarity, cosine):
        found, expected = (function(field, each, size=SIZE, combine=combine) for each in (asked, QUERIES))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_on_its_own_picture_a_query_is_its_mark():
    field, coarser = (field_of(features(), method) for method in ("attention", "lowres"))
    asked = pinned(coarser, QUERIES, size=(8, 12), grouping=1.0)
    for combine in ("mean", "maximum"):
        found, expected = (similarity(field, each, size=SIZE, combine=combine) for each in (asked, QUERIES))
        assert torch.equal(found, expected)


def test_a_query_finds_its_thing_on_another_picture():
    here, there = field_of(features(), "attention"), field_of(features(seed=5), "attention")
    asked = pinned(here, [Query(PointMark((40, 32)))], size=SIZE, grouping=1.0)
    found = similarity(there, asked, size=SIZE)
    inside = square().flip(1)
    assert float(found[inside].mean()) > float(found[~inside].mean()) + 0.5
    kept = pinned(there, [*asked, Query(PointMark((50, 32)))], size=SIZE, grouping=1.0)
    assert kept[0] == asked[0], "a query keeps the vectors of its own picture"
    assert kept[1].vectors.source.image == "other"
    assert similarity(there, kept, size=SIZE).isfinite().all()


@pytest.mark.parametrize("method", ["attention", "not linear"])
@pytest.mark.parametrize("name", ["smaller than a window", "one row of cells", "one column of cells", "one colour"])
def test_vectors_on_odd_pictures(name, method, unmoved):
    found = odd_features(name)
    field, size = field_of(found, method), found.geometry.image_hw
    asked = from_elsewhere(pinned(field, [Query(PointMark((1, 1)))], size=size, grouping=1.0))
    torch.testing.assert_close(
        similarity(field, asked, size=size), similarity(field, (1, 1), size=size), atol=2e-5, rtol=0
    )


def test_a_query_from_elsewhere_is_moved_to_the_cells_that_are_like_it(monkeypatch):
    here, there = field_of(features(), "lowres"), field_of(features(seed=5), "lowres")
    asked = pinned(here, [Query(PointMark((40, 32)))], size=SIZE)
    cells = grouping_of_cells.prepare(there, size=SIZE, grouping=1.0).cells
    units = torch.nn.functional.normalize(cells.components.flatten(1), dim=0)
    moved = float((units.T @ cells.asked_with(asked[0].vectors).grouped[0]).max())
    monkeypatch.setattr(grouping_of_cells, "FOREIGN", 0.0)
    assert moved > float((units.T @ cells.asked_with(asked[0].vectors).grouped[0]).max())


def test_features_that_do_not_vary_have_vectors():
    flat = replace(features(), data=torch.full((16, 8, 12), 3.0))
    asked = from_elsewhere(pinned(field_of(flat, "bilinear"), QUERIES[:2], size=SIZE, grouping=1.0))
    assert bool(similarity(field_of(features(), "bilinear"), asked, size=SIZE).isfinite().all())


def test_a_mark_outside_cannot_be_kept():
    with pytest.raises(MarkError, match="outside of the picture"):
        pinned(field_of(features(), "bilinear"), [Query(PointMark((100, 3)))], size=SIZE, grouping=1.0)


# -- files -----------------------------------------------------------------------------------------------------------------


def record_of(path):
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()[PROVENANCE])


@pytest.fixture(scope="module")
def kept() -> tuple[Query, ...]:
    field = field_of(features(), "attention")
    other = field_of(features(seed=3), "attention")
    return (
        *pinned(field, QUERIES, size=SIZE, grouping=1.0),
        *pinned(other, [Query(PointMark((4, 4)))], size=SIZE, grouping=1.0),
    )


def test_a_set_comes_back_as_it_was(kept, tmp_path):
    saved = QuerySet("red cars", kept, measure="cosine", grouping=0.25, combine="maximum")
    path = tmp_path / "new" / "cars.safetensors"
    write_query_set(path, saved)
    assert read_query_set(path) == saved
    write_query_set(path, QuerySet("cars", kept[:1]))
    assert read_query_set(path) == QuerySet("cars", kept[:1])
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    with pytest.raises(LensError, match=r"Cannot write .*choose another name"):
        write_query_set(path / "below.safetensors", saved)


def test_a_request_with_vectors_comes_back_from_json_as_it_was(kept):
    request = SimilarityRequest(kept, threshold="auto", combine="mean", title="cars")
    again = request_from_json(json.loads(json.dumps(request.as_json())))
    assert again == request
    assert hash(again) == hash(request)


def test_the_file_holds_what_it_says(kept, tmp_path):
    write_query_set(tmp_path / "a.safetensors", QuerySet("a", kept))
    arrays = load_file(tmp_path / "a.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {
        "feature": (6, 16), "cell": (6, 16), "group": (6, 16), "commonness": (6,)
    }  # fmt: skip
    assert all(array.dtype == np.float32 for array in arrays.values())
    record = record_of(tmp_path / "a.safetensors")
    assert record["schema"] == "featup-app/queries"
    assert [source["image"] for source in record["sources"]] == ["array", "other"]
    assert record["sources"][0]["weights_sha256"] == "f00"
    assert record["sources"][0]["input_hw"] == [112, 168]


def test_what_cannot_be_written_is_refused(kept, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(LensError, match="they need vectors"):
        write_query_set(path, QuerySet("a", QUERIES))
    with pytest.raises(LensError, match="at most 200"):
        write_query_set(path, QuerySet("a", kept[:1] * (MOST_QUERIES + 1)))
    vectors = kept[0].vectors
    narrow = replace(
        kept[0],
        vectors=replace(vectors, feature=(1.0,), cell=(1.0,), group=(1.0,), source=replace(vectors.source, channels=1)),
    )
    with pytest.raises(LensError, match="all of one width"):
        write_query_set(path, QuerySet("a", (*kept, narrow)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"backbone_name": "other"}, "backbone"),
        ({"provenance": {"weights_sha256": "bad"}}, "weights of the backbone"),
        ({"layer": "block 3"}, "layer"),
        ({"data": torch.randn(9, 8, 12)}, "number of channels"),
        ({"normalised": True}, "normalisation of the channels"),
    ],
)
def test_queries_of_another_backbone_layer_or_width_are_refused(kept, changes, title):
    field = field_of(replace(features(seed=9), **changes), "bilinear")
    for function in (similarity, cosine):
        with pytest.raises(
            LensError, match=rf'The queries from "array" were made with another {title} \(.*choose that one'
        ):
            function(field, kept[:1], size=SIZE)


def changed(path, change):
    """Write a set again with its record or arrays changed."""
    facts, arrays = record_of(path), load_file(path)
    change(facts, arrays)
    save_file(arrays, path, {PROVENANCE: json.dumps(facts)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda facts, arrays: facts.update(schema="featup-app/implicit"), "holds no queries; give a file"),
        (lambda facts, arrays: facts.update(version=2), "another version of this program"),
        (lambda facts, arrays: facts.pop("queries"), "'queries' is missing"),
        (lambda facts, arrays: facts.update(queries=[]), "do not belong to its queries"),
        (lambda facts, arrays: facts.update(measure="dot"), "settings are not understood"),
        (lambda facts, arrays: facts.update(grouping="much"), "could not convert"),
        (lambda facts, arrays: facts["queries"][0].update(source=7), "out of range"),
        (lambda facts, arrays: facts["queries"][0].update(negative="no"), "This is no query"),
        (lambda facts, arrays: facts["queries"][0].update(mark={"kind": "circle"}), "no mark of the kind"),
        (lambda facts, arrays: facts["queries"][0]["mark"].update(point=[1e99, 0]), "coordinates must be"),
        (lambda facts, arrays: facts["sources"][0].update(channels=9), "numbers instead of 9"),
        (lambda facts, arrays: facts["sources"][0].update(image=4), "source is not understood"),
        (lambda facts, arrays: facts["sources"][0].pop("layer"), "layer"),
        (lambda facts, arrays: facts.update(sources=None), "is not iterable"),
        (lambda facts, arrays: facts.update(queries=facts["queries"] * 40), "do not belong to its queries"),
        (lambda facts, arrays: arrays.pop("cell"), '"cell" is missing'),
        (lambda facts, arrays: arrays.update(group=arrays["group"][:, :3]), "do not belong"),
        (lambda facts, arrays: arrays.update(group=np.full_like(arrays["group"], np.nan)), "no finite numbers"),
        (lambda facts, arrays: arrays.update(group=arrays["group"].astype(np.float64)), "no finite numbers"),
    ],
)  # fmt: skip
def test_files_that_hold_something_else_are_refused_in_a_sentence(kept, tmp_path, change, sentence):
    path = tmp_path / "a.safetensors"
    write_query_set(path, QuerySet("a", kept))
    changed(path, change)
    with pytest.raises(LensError, match=sentence) as refused:
        read_query_set(path)
    assert str(path) in str(refused.value)


def test_more_than_two_hundred_queries_in_a_file_are_refused(kept, tmp_path):
    path = tmp_path / "a.safetensors"
    write_query_set(path, QuerySet("a", kept[:1] * MOST_QUERIES))
    assert len(read_query_set(path).queries) == MOST_QUERIES

    def twice(facts, arrays):
        facts["queries"] *= 2
        arrays.update({name: np.concatenate([array, array]) for name, array in arrays.items()})

    changed(path, twice)
    with pytest.raises(LensError, match="There are 400 queries; at most 200"):
        read_query_set(path)


def test_cut_foreign_and_missing_files_are_refused(kept, tmp_path):
    path = tmp_path / "a.safetensors"
    write_query_set(path, QuerySet("a", kept))
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LensError, match="damaged, incomplete"):
            read_query_set(path)
    path.write_bytes(b"\x89PNG" * 50)
    with pytest.raises(LensError, match="damaged, incomplete"):
        read_query_set(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(LensError, match="holds no queries; give a file"):
        read_query_set(path)
    for missing in (tmp_path / "b.safetensors", tmp_path):
        with pytest.raises(LensError, match=r"there is no such file|it is a folder"):
            read_query_set(missing)


# -- the command line ------------------------------------------------------------------------------------------------------


def test_a_set_is_written_on_the_command_line(kept, tmp_path):
    path = tmp_path / "my, cars.safetensors"
    write_query_set(path, QuerySet("red cars", kept, measure="cosine", combine="maximum"))
    plain = tmp_path / "cars.safetensors"
    plain.write_bytes(path.read_bytes())
    expected = SimilarityRequest(kept, measure="cosine", combine="maximum", title="red cars")
    for text in (f'similarity@"{path}"', f"similarity @ {plain}", f"similarity@'{path}'"):
        request = parse_views(f"pca,{text},cam")[1]
        assert replace(request, file="") == expected
        assert request.inputs() in ((path,), (plain,))
    changed = parse_views(f"similarity:grouped:mean:mask=0.25@{plain}")[0]
    assert changed == replace(expected, measure="grouped", combine="mean", threshold=0.25, file=str(plain))
    with pytest.raises(LensError, match="there is no such file"):
        parse_views("similarity@none.safetensors")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("similarity:mask@3,4", {"threshold": "auto"}),
        ("similarity:mask=auto@3,4", {"threshold": "auto"}),
        ("similarity : cosine : mask = -0.5 @ 3 , 4", {"threshold": -0.5, "measure": "cosine"}),
        ("similarity:maximum@3,4", {"combine": "maximum"}),
    ],
)
def test_options_of_a_point(text, fields):
    assert parse_views(text)[0] == SimilarityRequest((3, 4), **fields)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("similarity:mask=2@3,4", 'The threshold "2" is no number from -1 to 1'),
        ("similarity:mask=x@3,4", 'The threshold "x"'),
        ("similarity:median@3,4", 'no option "median"; it has: grouped, cosine, mean'),
        ("similarity:cosine=1@3,4", 'no option "cosine=1"'),
        ("similarity@cars.json", "a point in pixels"),
        ("similarity@99999999,4", "coordinates must be"),
    ],
)
def test_options_that_there_are_not(text, sentence):
    with pytest.raises((LensError, MarkError), match=sentence):
        parse_views(text)
