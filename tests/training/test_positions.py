"""The positional component of features: found where there is one and nowhere else, and removed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from training_fixtures import CHANNELS, PatchBackbone, pictures

from featup_app.base.errors import Cancelled
from featup_app.fields.restoration import at_grid
from featup_app.training import train_upsampler
from featup_app.training.cache import Preparation, prepare_pictures
from featup_app.training.examples import TrainingSet
from featup_app.training.positions import SIDE, solve_positional
from featup_app.training.recipes import DEFAULT
from featup_app.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def pattern(strength: float = 0.5) -> torch.Tensor:
    """(CHANNELS, SIDE, SIDE), a wave of its own in every channel, with a mean of zero."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    waves = [
        torch.cos(torch.pi * (down * places[:, None] + right * places))
        for down, right in ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1))
    ]
    found = torch.stack(waves)
    return strength * (found - found.mean((1, 2), keepdim=True))


class FramedBackbone(PatchBackbone):
    """Adds to every map a pattern that does not move with the picture."""

    def __init__(self, added: torch.Tensor) -> None:
        super().__init__(f"framed {float(added.abs().sum()):.3f}")
        self.added = added

    def features(self, batch, layer=None, progress=None):
        found = super().features(batch)
        return found + at_grid(self.added, tuple(found.shape[-2:]))


def cached(backbone, folder, count=24, views=6):
    return prepare_pictures(pictures(count), backbone, preparation=Preparation(size=64, views=views), folder=folder)


def alike(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0))


def test_a_pattern_that_stays_where_it_is_is_found(tmp_path):
    added = pattern()
    found = solve_positional(cached(FramedBackbone(added), tmp_path), lambda features: features)
    assert found.shape == (CHANNELS, SIDE, SIDE)
    assert alike(found, added) > 0.9
    amount = float((found * added).sum() / added.square().sum())
    assert 0.2 < amount <= 1, "views show the pattern too, so less than all of it is taken out"


def test_half_of_the_features_have_half_of_the_pattern(tmp_path):
    pictures_of = cached(FramedBackbone(pattern()), tmp_path)
    whole = solve_positional(pictures_of, lambda features: features)
    torch.testing.assert_close(solve_positional(pictures_of, lambda features: features / 2), whole / 2)


def test_hardly_anything_is_taken_for_a_pattern_where_there_is_none(tmp_path):
    there = solve_positional(cached(FramedBackbone(pattern()), tmp_path), lambda features: features)
    none = solve_positional(cached(PatchBackbone(), tmp_path), lambda features: features)
    assert none.square().sum() < 0.02 * there.square().sum()


def test_a_single_picture_tells_nothing(tmp_path):
    found = solve_positional(cached(FramedBackbone(pattern()), tmp_path, count=1), lambda features: features)
    assert not found.any()


def test_it_can_be_cancelled(tmp_path):
    def stop(words, done, total, stage=None):
        assert total == 24
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        solve_positional(cached(FramedBackbone(pattern()), tmp_path), lambda features: features, progress=stop)


@pytest.mark.parametrize("grid", [(16, 16), (8, 8), (5, 9), (26, 34), (9, 1), (1, 1)])
def test_a_grid_of_any_size_sees_the_pattern(grid):
    seen = at_grid(pattern(), grid)
    assert seen.shape == (CHANNELS, *grid)
    rows = (torch.arange(grid[0]) + 0.5) / grid[0]
    if grid[0] > 4:
        assert float(seen.mean().abs()) < 0.02
        wave = torch.cos(torch.pi * rows)[:, None].expand(grid)
        assert alike(seen[0], wave - wave.mean()) > 0.99


def test_training_takes_it_out_unless_the_recipe_keeps_it(tmp_path):
    added = pattern()
    recipe = replace(DEFAULT, directions=0, views=2)
    options = {"steps": 2, "size": 64, "views": 4, "measure_every": 2, "cache": tmp_path}
    found = train_upsampler(pictures(24), FramedBackbone(added), recipe, **options)
    assert alike(found.restoration.positional.float(), added) > 0.9
    kept = train_upsampler(pictures(24), FramedBackbone(added), replace(recipe, positional=False), **options)
    assert not kept.restoration.positional.any()
    assert found.figures["stack"] < kept.figures["stack"] - 0.01
    assert found.curve[0].held_out < kept.curve[0].held_out - 0.01, "the network learns from the map without it"


def test_a_resumed_training_goes_on_without_it(tmp_path):
    backbone = FramedBackbone(pattern())
    sets = [cached(backbone, tmp_path, count) for count in (8, 2)]
    recipe = replace(DEFAULT, directions=0, views=2, schedule="constant", warm_up=0.0)

    def trainer():
        return Trainer([TrainingSet(*sets)], recipe)

    whole = trainer().run(steps=4, measure_every=2)
    first, second = trainer(), trainer()
    file = tmp_path / "half.training.pt"
    first.run(steps=2, measure_every=2, checkpoint=file)
    second.resume(file)
    resumed = second.run(steps=4, measure_every=2)
    assert torch.equal(resumed.restoration.positional, whole.restoration.positional)
    assert resumed.restoration.positional.any()
    assert torch.equal(resumed.restoration.detail, whole.restoration.detail)
