"""The cache of features: computed once, found again, within its budget, never damaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as pillow
from training_fixtures import CHANNELS, PatchBackbone, picture, pictures

from featup_app.base.errors import Cancelled, UpsamplerError
from featup_app.training.cache import Preparation, cache_folder, prepare_pictures

SMALL = Preparation(size=32, views=3)


def prepare(images, folder, backbone=None, **options):
    return prepare_pictures(images, backbone or PatchBackbone(), folder=folder, **{"preparation": SMALL, **options})


def test_pictures_hold_what_the_backbone_gives_for_them_and_for_their_views(tmp_path):
    backbone = PatchBackbone()
    image = picture(1)
    found = prepare([image], tmp_path, backbone)
    (only,) = found.pictures
    size = backbone.input_size(image.size_hw, 32)
    pixels = backbone.resized(image, size)
    assert only.grid_hw == (4, 5)
    torch.testing.assert_close(only.features(), backbone.features(pixels[None])[0], atol=1e-3, rtol=1e-3)
    for index in (0, 2):
        view = only.jitters[index].pixels(pixels)
        torch.testing.assert_close(
            only.view_features([index])[0], backbone.features(view[None])[0], atol=1e-3, rtol=1e-3
        )
    assert only.guidance().shape == (3, 64, 80)
    assert only.guidance().dtype == torch.uint8
    assert found.channels == CHANNELS
    assert found.scale > 0


def test_the_guidance_is_the_image_averaged_over_the_finest_cells(tmp_path):
    image = picture(2, 128, 128)
    (only,) = prepare([image], tmp_path).pictures
    whole = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1).float()
    expected = F.avg_pool2d(whole[None], 2)[0]
    assert (only.guidance().float() - expected).abs().max() <= 0.5


def test_features_are_computed_once_and_more_views_are_added_to_them(tmp_path):
    backbone = PatchBackbone()
    images = pictures(2)
    first = prepare(images, tmp_path, backbone)
    calls = backbone.calls
    again = prepare(images, tmp_path, backbone)
    assert backbone.calls == calls
    more = prepare(images, tmp_path, backbone, preparation=Preparation(size=32, views=5))
    assert backbone.calls == calls + 2, "only the views that were missing"
    for one, same, longer in zip(first.pictures, again.pictures, more.pictures, strict=True):
        assert one.jitters == same.jitters == longer.jitters[:3]
        assert torch.equal(one.view_features([0, 1, 2]), longer.view_features([0, 1, 2]))
    fewer = prepare(images, tmp_path, backbone, preparation=Preparation(size=32, views=1))
    assert len(fewer.pictures[0].jitters) == 1


@pytest.mark.parametrize(
    ("backbone", "preparation"),
    [
        (PatchBackbone(name="another"), SMALL),
        (PatchBackbone(seed=1), SMALL),
        (PatchBackbone(), Preparation(size=40, views=3)),
        (PatchBackbone(), Preparation(size=32, views=3, seed=1)),
        (PatchBackbone(), Preparation(size=32, views=3, max_zoom=1.5)),
    ],
)
def test_whatever_changes_features_makes_another_file(tmp_path, backbone, preparation):
    prepare([picture(0)], tmp_path)
    prepare([picture(0)], tmp_path, backbone, preparation=preparation)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_crops_lie_in_the_image_and_are_the_same_for_the_same_seed(tmp_path):
    image = picture(3, 100, 140)
    options = {"preparation": Preparation(size=32, crops=2, views=1)}
    found = prepare([image], tmp_path, **options)
    assert [one.name for one in found.pictures] == ["picture 3", "picture 3, crop 1", "picture 3, crop 2"]
    again = prepare([image], tmp_path / "other", **options)
    for one, other in zip(found.pictures, again.pictures, strict=True):
        assert torch.equal(one.guidance(), other.guidance())
    assert not torch.equal(found.pictures[1].guidance(), found.pictures[2].guidance())


def test_a_small_budget_means_fewer_views_and_says_so(tmp_path):
    one_view = 2 * CHANNELS * 20
    budget = 2 * (3 * one_view + 3 * 16 * 16 * 20 + 4096)
    found = prepare(pictures(2), tmp_path, budget=budget)
    assert len(found.pictures[0].jitters) == 2
    assert "Only 2 of 3 views" in found.notes[0]
    assert found.bytes <= budget


def test_a_hopeless_budget_is_one_sentence(tmp_path):
    with pytest.raises(UpsamplerError, match=r"may take 1\.0 kB, but 2 pictures need at least"):
        prepare(pictures(2), tmp_path, budget=1000)


def test_old_files_of_other_sets_make_room(tmp_path):
    prepare([picture(1)], tmp_path)
    (old,) = tmp_path.glob("*.safetensors")
    prepare([picture(2)], tmp_path, budget=int(1.5 * old.stat().st_size))
    assert not old.exists()
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_damaged_file_is_computed_again(tmp_path):
    before = prepare([picture(1)], tmp_path).pictures[0].features()
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(prepare([picture(1)], tmp_path).pictures[0].features(), before)


def test_files_that_are_no_pictures_are_left_out_and_noted(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    pillow.fromarray(np.zeros((40, 40, 3), np.uint8)).save(good)
    bad.write_text("no picture")
    found = prepare([bad, good], tmp_path / "cache")
    assert [one.name for one in found.pictures] == ["good.png"]
    assert "bad.png" in found.notes[0]
    with pytest.raises(UpsamplerError, match=r"no image to train with.*bad\.png"):
        prepare([bad], tmp_path / "cache")
    with pytest.raises(UpsamplerError, match="no image to train with"):
        prepare([], tmp_path / "cache")


def test_features_that_half_precision_cannot_hold_are_refused(tmp_path):
    class Loud(PatchBackbone):
        def features(self, batch, layer=None, progress=None):
            return 1e6 * super().features(batch)

    with pytest.raises(UpsamplerError, match="half precision"):
        prepare([picture(1)], tmp_path, Loud())
    assert list(tmp_path.iterdir()) == []


def test_cancelling_keeps_what_is_complete_and_leaves_no_parts(tmp_path):
    seen = []

    def stop(words, done, total, stage=None):
        seen.append((done, total))
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        prepare(pictures(3), tmp_path, progress=stop)
    assert seen[-1] == (1, 3)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_a_disk_that_refuses_is_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UpsamplerError, match="Cannot write the cached features"):
        prepare([picture(1)], blocked / "cache")


def test_the_folder_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATUP_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path / "training"
