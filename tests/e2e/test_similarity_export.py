"""Masks and query sets as a person exports them: marked on one picture, asked of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.export import picture_provenance
from featup_app.images import load_image, sample_images
from featup_app.lenses import Query, QuerySet, SimilarityRequest, grouping, pinned, proposed_threshold, write_query_set
from featup_app.marks import BoxMark, PointMark, StrokeMark

pytestmark = pytest.mark.usefixtures("one_thread")

CAT, COFFEE, _ = sample_images()
SMALL = ("--backbone", "tf_efficientnet_lite0", "--size", "128", "--output-size", "8x", "--no-features")
SETTINGS = ViewSettings(backbone="tf_efficientnet_lite0", input_size="128", output_size="8x")
QUERIES = (
    Query(PointMark((250, 200)), name="fur"),
    Query(BoxMark((200, 150), (260, 220))),
    Query(StrokeMark(((10.0, 10.0), (200.0, 20.0)), 12), negative=True),
)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


@pytest.fixture
def saved(session, tmp_path):
    """Three queries on the cat."""
    look = session.look(load_image(CAT), SETTINGS)
    path = tmp_path / "sets" / "cat fur.safetensors"
    write_query_set(path, QuerySet("cat fur", pinned(look.field, QUERIES, size=look.size), combine="maximum"))
    return path


def test_a_mask_stands_beside_its_picture(session, tmp_path, command):
    code, out, err = command(
        "export", CAT, "-o", tmp_path, *SMALL, "--views", "similarity:mask@250,200,similarity:cosine:mask=0.9@250,200"
    )
    assert (code, err) == (0, "")
    names = [line.rsplit("cat.", 1)[1] for line in out.splitlines()]
    assert names == [
        "similarity-250-200.png", "similarity-250-200.mask.png", "cosine-250-200.png", "cosine-250-200.mask.png",
    ]  # fmt: skip
    view = session.view(load_image(CAT), SETTINGS, SimilarityRequest((250, 200), threshold="auto"))
    with pillow.open(tmp_path / "cat.similarity-250-200.mask.png") as picture:
        assert picture.mode == "L"
        mask = np.asarray(picture)
    assert ((mask == 255) == (view.values >= view.proposed)).all()
    facts = picture_provenance(tmp_path / "cat.similarity-250-200.mask.png")["view"]
    assert facts["mask"] == view.mask().facts()
    assert facts["point_xy"] == [250, 200]
    assert picture_provenance(tmp_path / "cat.cosine-250-200.mask.png")["view"]["mask"]["threshold"] == 0.9
    assert "mask" not in picture_provenance(tmp_path / "cat.similarity-250-200.png")["view"]
    code, _, err = command("export", CAT, "-o", tmp_path, *SMALL, "--views", "similarity:mask@250,200")
    assert code
    assert "is already there" in err


def test_a_set_is_asked_of_its_own_and_of_another_picture(session, saved, tmp_path, command):
    code, out, err = command("export", CAT, COFFEE, "-o", tmp_path, *SMALL, "--views", f"similarity:mask@{saved}")
    assert (code, err) == (0, "")
    assert [line.rsplit("/", 1)[1] for line in out.splitlines()] == [
        "cat.similarity-maximum-cat-fur.png", "cat.similarity-maximum-cat-fur.mask.png",
        "coffee.similarity-maximum-cat-fur.png", "coffee.similarity-maximum-cat-fur.mask.png",
    ]  # fmt: skip
    direct = session.view(load_image(CAT), SETTINGS, SimilarityRequest(QUERIES, combine="maximum"))
    with pillow.open(tmp_path / "cat.similarity-maximum-cat-fur.png") as picture:
        assert (np.asarray(picture) == direct.picture()).all()
    facts = picture_provenance(tmp_path / "coffee.similarity-maximum-cat-fur.png")["view"]
    assert facts["set"] == "cat fur"
    assert facts["combine"] == "maximum"
    assert [query["image"] for query in facts["queries"]] == ["cat.jpg"] * 3
    assert facts["queries"][0]["name"] == "fur"


def test_vectors_give_the_picture_of_their_marks(session, monkeypatch):
    """On the picture itself, through the vectors alone, with every measure."""
    monkeypatch.setattr(grouping, "FOREIGN", 0.0)
    image = load_image(CAT)
    look = session.look(image, SETTINGS)
    kept = pinned(look.field, QUERIES, size=look.size)
    foreign = tuple(
        replace(query, vectors=replace(query.vectors, source=replace(query.vectors.source, image_sha256="other")))
        for query in kept
    )
    for measure in ("grouped", "cosine"):
        found, expected = (
            session.view(image, SETTINGS, SimilarityRequest(queries, measure=measure)).values
            for queries in (foreign, QUERIES)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_set_of_another_backbone_or_layer_is_refused_in_a_sentence(saved, tmp_path, command):
    other = ("--backbone", "dinov2-s14-imgfocus", "--size", "112", "--output-size", "2x", "--no-features")
    code, _, err = command("export", COFFEE, "-o", tmp_path, *other, "--views", f"similarity@{saved}")
    assert code == 2
    assert 'The queries from "cat.jpg" were made with another backbone (tf_efficientnet_lite0' in err
    code, _, err = command(
        "export", COFFEE, "-o", tmp_path, *SMALL, "--layer", "stage 2", "--views", f"similarity@{saved}"
    )
    assert code == 2
    assert "were made with another" in err or "layer" in err
    inside = saved.rename(saved.with_name("coffee.features.safetensors"))
    written = ("--format", "safetensors", "--overwrite", "--features")
    code, _, err = command("export", COFFEE, "-o", inside.parent, *SMALL, *written, "--views", f'similarity@"{inside}"')
    assert code == 2
    assert "it is an input of this command" in err
    inside.rename(saved)
    saved.write_bytes(saved.read_bytes()[:500])
    code, _, err = command("export", COFFEE, "-o", tmp_path, *SMALL, "--views", f"similarity@{saved}")
    assert code == 2
    assert "is damaged, incomplete" in err


def test_the_proposed_threshold_is_that_of_the_map(session):
    import torch

    view = session.view(load_image(CAT), SETTINGS, SimilarityRequest((250, 200), threshold="auto"))
    assert view.proposed == proposed_threshold(torch.from_numpy(view.values))
