"""Lenses: each number against its definition on the full features, each picture against what a person expects of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app import lenses
from featup_app.base.errors import LensError
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import METHODS, upsample
from featup_app.images import image_from_array
from featup_app.lenses.pictures import evidence_limits, outlines, similarity_limits

pytestmark = pytest.mark.usefixtures("one_thread")

ALL_METHODS = [method.name for method in METHODS if method.quick]  # the others have tests of their own
IMAGE_HW = (60, 90)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def feature_map(data: torch.Tensor, image_hw: tuple[int, int] = IMAGE_HW, seed: int = 0) -> FeatureMap:
    pixels = torch.randint(0, 256, (*image_hw, 3), generator=generator(seed), dtype=torch.uint8).numpy()
    grid = int(data.shape[1]), int(data.shape[2])
    geometry = Geometry(image_hw=image_hw, input_hw=(grid[0] * 14, grid[1] * 14), grid_hw=grid)
    return FeatureMap(data=data, geometry=geometry, layer="block 0", image=image_from_array(pixels))


def random_map(channels: int, grid: tuple[int, int] = (8, 12), seed: int = 0) -> FeatureMap:
    """Channels of clearly different variances, mixed, on top of a mean."""
    data = torch.randn(channels, grid[0] * grid[1], generator=generator(seed))
    scales = torch.linspace(3, 0.5, channels)[:, None] if channels > 1 else torch.ones(1, 1)
    mix = torch.linalg.qr(torch.randn(channels, channels, generator=generator(seed + 1)))[0]
    return feature_map((mix @ (data * scales) + 1.5).view(channels, *grid))


# -- PCA ---------------------------------------------------------------------------------------------------------------


def test_components_equal_those_of_a_singular_value_decomposition():
    features = random_map(16)
    basis = lenses.fit_pca(features)
    rows = features.data.flatten(1).T.double().numpy()
    centred = rows - rows.mean(axis=0)
    _, values, expected = np.linalg.svd(centred, full_matrices=False)
    expected = expected[:9] * np.sign((expected[:9] ** 3).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(basis.components.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(basis.mean.numpy(), rows.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(basis.explained, (values**2 / (values**2).sum())[:9], atol=1e-6)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_components_are_orthonormal_and_explain_falling_shares_of_the_variance(method):
    field = upsample(random_map(7), method=method)
    basis = lenses.fit_pca(field)
    torch.testing.assert_close(basis.components @ basis.components.T, torch.eye(7), atol=1e-5, rtol=0)
    assert list(basis.explained) == sorted(basis.explained, reverse=True)
    assert sum(basis.explained) == pytest.approx(1, abs=1e-6)
    assert ((basis.components**3).sum(dim=1) > 0).all()


def test_components_are_those_of_the_features_that_are_shown():
    features = feature_map(random_map(6, (8, 12)).data, image_hw=(48, 48))
    on_map = lenses.fit_pca(features)
    on_cells = lenses.fit_pca(upsample(features, method="lowres"))  # at 96 x 96 pixels, each cell as often as any other
    torch.testing.assert_close(on_cells.components, on_map.components, atol=1e-4, rtol=1e-4)
    assert on_cells.explained == pytest.approx(on_map.explained)
    smooth = upsample(features, method="bilinear")
    full = smooth.features(size=(96, 96)).flatten(1).double()
    on_field = lenses.fit_pca(smooth)
    variance = torch.linalg.eigvalsh(torch.cov(full, correction=0)).flip(0)
    assert on_field.explained == pytest.approx((variance / variance.sum()).tolist(), abs=1e-5)
    assert on_field.explained[0] != pytest.approx(on_map.explained[0], abs=0.003)


def test_signs_do_not_flip_when_features_are_negated_or_disturbed():
    features = random_map(12)
    basis = lenses.fit_pca(features)
    negated = lenses.fit_pca(feature_map(-features.data))
    torch.testing.assert_close(negated.components, basis.components)
    torch.testing.assert_close(negated.mean, -basis.mean)
    for seed in range(5):
        turn = torch.linalg.matrix_exp(1e-3 * (skew := torch.randn(12, 12, generator=generator(seed))) - 1e-3 * skew.T)
        turned = (turn @ features.data.flatten(1)).view_as(features.data)
        alike = (lenses.fit_pca(feature_map(turned)).components * basis.components).sum(dim=1)
        assert (alike > 0.99).all()


def test_a_joint_basis_gives_equal_colours_to_equal_features():
    first, second = random_map(8, seed=1), random_map(8, seed=2)
    second.data[:, 2:5, 3:7] = first.data[:, 2:5, 3:7]
    basis = lenses.fit_pca([first, second])
    pictures = [lenses.pca(upsample(each, method="lowres"), size=(8, 12), basis=basis) for each in (first, second)]
    assert np.array_equal(pictures[0][2:5, 3:7], pictures[1][2:5, 3:7])
    assert not np.array_equal(pictures[0], pictures[1])
    together = lenses.fit_pca(feature_map(torch.cat([first.data, second.data], dim=1)))
    torch.testing.assert_close(basis.components, together.components, atol=1e-4, rtol=1e-4)
    assert basis.explained == pytest.approx(together.explained)
    torch.testing.assert_close(basis.low, together.low, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(basis.high, together.high, atol=1e-4, rtol=1e-4)
    # Both weigh the same, whatever their number of cells.
    torch.testing.assert_close(
        lenses.fit_pca([first, random_map(8, (3, 4), seed=2)]).mean,
        (first.data.mean(dim=(1, 2)) + random_map(8, (3, 4), seed=2).data.mean(dim=(1, 2))) / 2,
    )
    with pytest.raises(ValueError, match=r"\[8, 9\]"):
        lenses.fit_pca([first, random_map(9)])


def test_one_outlier_does_not_take_the_contrast_of_the_others():
    data = torch.randn(4, 20, 30, generator=generator(0)) * 0.01
    data[0] = torch.linspace(-1, 1, 600).view(20, 30)
    clean = lenses.pca(upsample(feature_map(data), method="lowres"), size=(20, 30))
    data[0, 10, 10] = 40
    spoilt = lenses.pca(upsample(feature_map(data), method="lowres"), size=(20, 30))
    assert clean[..., 0].std() > 60
    assert spoilt[..., 0].std() > 60
    assert spoilt[10, 10, 0] in (0, 255)


def test_colours_spread_from_percentile_to_percentile():
    field = upsample(random_map(5, (40, 50)), method="lowres")
    picture = lenses.pca(field, size=(40, 50))
    assert picture.dtype == np.uint8
    assert picture.shape == (40, 50, 3)
    for channel in range(3):
        values = picture[..., channel]
        assert 0.008 < (values == 0).mean() < 0.02
        assert 0.008 < (values == 255).mean() < 0.02


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 10), (-1, 2, 3)])
def test_components_that_do_not_exist_are_refused_in_a_sentence(numbers):
    field = upsample(random_map(12), method="bilinear")
    wrong = next(number for number in numbers if not 1 <= number <= 9)
    with pytest.raises(LensError, match=rf"no principal component {wrong}; choose from 1 to 9"):
        lenses.pca(field, size=(10, 10), components=numbers)


def test_any_three_components_in_any_order():
    field = upsample(random_map(12), method="bilinear")
    basis = lenses.fit_pca(field)
    first, second = (
        lenses.pca(field, size=(11, 13), basis=basis, components=numbers) for numbers in ((1, 5, 9), (9, 5, 1))
    )
    assert np.array_equal(first, second[..., ::-1])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_maps_of_one_and_two_channels_repeat_the_last(channels, method):
    picture = lenses.pca(upsample(random_map(channels), method=method), size=(33, 47))
    assert picture.shape == (33, 47, 3)
    assert np.array_equal(picture[..., 2], picture[..., channels - 1])
    assert picture.std() > 20


@pytest.mark.parametrize("fit_on", ["map", "field"])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_constant_features_give_one_grey(method, fit_on):
    data = (torch.randn(32, 1, 1, generator=generator(4)) * 50).expand(32, 8, 12).contiguous()
    features = feature_map(data)
    field = upsample(features, method=method)
    basis = lenses.fit_pca(features if fit_on == "map" else field)
    picture = lenses.pca(field, size=(37, 53), basis=basis)
    assert ((picture >= 127) & (picture <= 128)).all()
    assert np.isfinite(basis.explained).all()
    assert sum(basis.explained) < 1e-6


def test_components_without_variance_are_grey_beside_those_that_have_some():
    data = torch.randn(6, 1, 1, generator=generator(1)) * 20 + torch.zeros(6, 8, 12)
    data[3] += torch.linspace(-1, 1, 96).view(8, 12)
    picture = lenses.pca(upsample(feature_map(data), method="bilinear"), size=(60, 90))
    assert picture[..., 0].std() > 60
    assert ((picture[..., 1:] >= 127) & (picture[..., 1:] <= 128)).all()


# -- similarity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL_METHODS)
@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 75), st.integers(1, 101)),
    point=st.tuples(st.floats(-5, 100), st.floats(-5, 70)),
    seed=st.integers(0, 99),
)
def test_the_plain_cosine_is_that_of_the_full_features(method, size, point, seed):
    field = upsample(random_map(24, seed=seed), method=method)
    values = lenses.cosine(field, point, size=size)
    assert values.shape == size
    assert values.abs().max() <= 1
    row, column = field.geometry.pixel_of(point, size)
    assert float(values[row, column]) == pytest.approx(1, abs=1e-6)
    full = field.features(size=size).double()
    query = full[:, row, column]
    cosine = torch.einsum("c,chw->hw", query, full) / (query.norm() * full.norm(dim=0))
    torch.testing.assert_close(values.double(), cosine, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_zero_features_are_similar_to_nothing(method):
    data = random_map(6).data.clone()
    data[:, :, :6] = 0
    # Back-projection reaches further than these cells, with weights next to nothing, of which a cosine sees the direction.
    options = {"consistency": 0} if method == "attention" else {}
    field = upsample(feature_map(data), method=method, **options)
    to_something = lenses.cosine(field, (89.0, 30.0), size=IMAGE_HW)
    assert to_something.isfinite().all()
    assert to_something[30, 2].abs() < 1e-6
    to_nothing = lenses.cosine(field, (2.0, 30.0), size=IMAGE_HW)
    assert to_nothing.isfinite().all()
    assert to_nothing[:, 70:].abs().max() < 1e-6


# -- class activation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL_METHODS)
def test_class_activation_is_the_weights_times_the_full_features(method):
    field = upsample(random_map(20), method=method)
    weights = torch.randn(3, 20, generator=generator(5))
    values = lenses.cam(field, weights, size=(61, 77))
    expected = torch.einsum("kc,chw->khw", weights, field.features(size=(61, 77)))
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
    assert (values < 0).any(), "negative evidence is kept"


def test_top_classes_are_the_most_probable_ones_best_first():
    logits = torch.tensor([0.0, 3.0, -1.0, 5.0, 4.0])
    names = ["ant", "bee", "cat", "dog", "emu"]
    best = lenses.top_classes(logits, names, 3)
    assert [(score.index, score.name) for score in best] == [(3, "dog"), (4, "emu"), (1, "bee")]
    expected = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum()
    assert [score.probability for score in best] == pytest.approx([expected[3], expected[4], expected[1]], rel=1e-5)
    everything = lenses.top_classes(logits.half(), names, 50)
    assert len(everything) == 5
    assert sum(score.probability for score in everything) == pytest.approx(1, abs=1e-5)


NAMES = ["tabby cat", "Persian cat", "cougar", "cat", "Great Dane", "great white shark", "espresso", "espresso maker"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", [3, 0, 1]),
        ("CAT persian", [1]),
        ("great", [4, 5]),
        (" espresso ", [6, 7]),
        ("unicorn", []),
        ("", list(range(8))),
    ],
)
def test_search_finds_every_word_and_puts_beginnings_first(text, expected):
    assert lenses.search_classes(NAMES, text) == expected
    assert lenses.search_classes(NAMES, text, limit=1) == expected[:1]


def test_search_puts_whole_words_first():
    names = ["porcupine", "cupboard", "buckeye cup", "cup", "coffee mug"]
    assert [names[index] for index in lenses.search_classes(names, "cup")] == [
        "cup",
        "buckeye cup",
        "cupboard",
        "porcupine",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Cat", 3), ("espresso", 6), ("maker", 7), (" cougar ", 2), ("0", 0), ("7", 7), ("white", 5), ("dane", 4)],
)
def test_a_class_is_found_by_name_by_a_unique_part_and_by_number(text, expected):
    assert lenses.find_class(NAMES, text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("8", "There is no class number 8; the classes are numbered from 0 to 7."),
        ("-1", 'There is no class "-1" among the 8 classes.'),
        ("²", 'There is no class "²" among the 8 classes.'),
        ("", 'There is no class "" among the 8 classes.'),
        (
            "great",
            '"great" could be several classes: "Great Dane", "great white shark". Give the whole name or its number.',
        ),
        ("expresso", 'There is no class "expresso" among the 8 classes. Did you mean “espresso”'),
    ],
)
def test_a_class_that_is_not_clear_is_refused_with_what_could_be_meant(text, sentence):
    with pytest.raises(LensError) as refused:
        lenses.find_class(NAMES, text)
    assert str(refused.value).startswith(sentence)


def test_many_candidates_are_not_all_listed():
    names = [f"spaniel {index}" for index in range(40)]
    with pytest.raises(LensError, match="and others") as refused:
        lenses.find_class(names, "spaniel")
    assert str(refused.value).count('"spaniel ') == 5


# -- pictures ----------------------------------------------------------------------------------------------------------


def lightness(colormap: str) -> np.ndarray:
    table = lenses.lookup_table(colormap).astype(np.float32)[None] / 255
    return cv2.cvtColor(table, cv2.COLOR_RGB2Lab)[0, :, 0]


@pytest.mark.parametrize("colormap", lenses.COLORMAPS)
def test_every_colour_map_is_a_table_of_distinct_colours_that_nobody_can_change(colormap):
    table = lenses.lookup_table(colormap)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert len(np.unique(table, axis=0)) > 200
    assert np.abs(np.diff(table.astype(int), axis=0)).max() < 16, "no jumps"
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


@pytest.mark.parametrize("colormap", ["viridis", "inferno", "magma", "grey"])
def test_even_colour_maps_grow_lighter_all_the_way(colormap):
    steps = lightness(colormap)
    assert (np.diff(steps) > -0.35).all(), "but for the rounding to 8 bit"
    assert (np.diff(steps[::8]) > 0.5).all()
    assert steps[0] < 20
    assert steps[-1] > 85


def test_colours_are_red_green_blue():
    assert np.abs(lenses.lookup_table("viridis")[0].astype(int) - (68, 1, 84)).max() <= 2
    assert np.abs(lenses.lookup_table("viridis")[-1].astype(int) - (253, 231, 37)).max() <= 2
    first, last = (lenses.lookup_table("blue-white-red")[end].astype(int) for end in (0, -1))
    assert first[2] > first[0] + 60
    assert last[0] > last[2] + 60


def test_the_diverging_map_is_lightest_in_the_middle_and_equally_dark_at_both_ends():
    steps = lightness("blue-white-red")
    assert steps.argmax() in (127, 128)
    assert (np.diff(steps[:128]) > -0.35).all()
    assert (np.diff(steps[128:]) < 0.35).all()
    assert np.abs(steps - steps[::-1]).max() < 4
    middle = lenses.lookup_table("blue-white-red")[127:129].astype(int)
    assert np.ptp(middle, axis=1).max() <= 3, "white has no hue"


def test_unknown_colour_maps_are_refused_with_the_names_that_there_are():
    with pytest.raises(ValueError, match=r'no colour map "jet".*viridis'):
        lenses.lookup_table("jet")


@pytest.mark.parametrize("colormap", lenses.COLORMAPS)
def test_heat_pictures_reach_both_ends_at_the_limits_and_stay_there_beyond(colormap):
    table = lenses.lookup_table(colormap)
    values = np.array([[-9.0, -1.0, 0.5, 2.0, 9.0]], np.float32)
    picture = lenses.heat_picture(values, colormap=colormap, limits=(-1, 2))
    assert picture.shape == (1, 5, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[0], table[[0, 0, 128, 255, 255]])


def test_outlines_go_around_a_region_and_around_its_holes():
    mask = np.zeros((9, 12), bool)
    mask[2:7, 3:9] = True
    mask[4, 5] = False
    mask[8, 11] = True
    curves = sorted((curve.min(0).tolist(), curve.max(0).tolist()) for curve in outlines(mask))
    assert curves == [([3.5, 2.5], [8.5, 6.5]), ([4.5, 3.5], [6.5, 5.5]), ([11.5, 8.5], [11.5, 8.5])]
    assert outlines(np.zeros((3, 4), bool)) == []


@pytest.mark.parametrize("limits", [(1.0, 1.0), (2.0, 1.0)])
def test_empty_limits_give_one_colour(limits):
    values = np.linspace(-1, 3, 12, dtype=np.float32).reshape(3, 4)
    picture = lenses.heat_picture(values, colormap="viridis", limits=limits)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_limits_suit_the_image_and_are_never_empty():
    values = np.linspace(0.2, 1, 1001, dtype=np.float32)
    assert similarity_limits(values) == pytest.approx((0.208, 1.0), abs=1e-3)
    low, high = similarity_limits(np.ones((4, 4), np.float32))
    assert low < high == 1
    assert evidence_limits(np.array([[-3.0, 2.5]], np.float32)) == (0, 2.5)
    low, high = evidence_limits(np.full((2, 2), -1, np.float32))
    assert low == 0 < high


def test_overlays_show_one_picture_alone_at_each_end_and_their_mean_between():
    picture, image = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype=np.uint8)
    assert np.array_equal(lenses.overlay(picture, image, 0), image)
    assert np.array_equal(lenses.overlay(picture, image, 1), picture)
    half = lenses.overlay(picture, image, 0.5)
    assert half.dtype == np.uint8
    assert np.abs(half - (picture.astype(float) + image) / 2).max() <= 0.5
