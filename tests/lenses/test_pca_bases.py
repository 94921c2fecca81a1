"""Principal components that are fitted on selections and several pictures, locked, saved and loaded."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app.base.errors import LensError
from featup_app.base.resources import resource
from featup_app.engine.bases import MOST_PICTURES, fit_basis
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.features import FeatureMap, Geometry
from featup_app.fields import upsample
from featup_app.images import image_from_array, load_image
from featup_app.lenses import PCARequest, fit_pca, read_basis, space_of, write_basis
from featup_app.lenses.pca_bases import BasisPicture, LockedBasis, find_basis, hold

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ViewSettings(
    backbone="tf_efficientnet_lite0", layer="stage 4", input_size="160", method="bilinear", output_size="4x"
)


def feature_map(seed: int, channels: int = 6, layer: str = "block 1") -> FeatureMap:
    data = torch.randn(channels, 8, 10, generator=torch.Generator().manual_seed(seed))
    image = image_from_array(np.full((80, 100, 3), 128, np.uint8))
    return FeatureMap(data, Geometry((80, 100), (80, 100), (8, 10)), layer, image, backbone_name="random")


def half(right: bool) -> np.ndarray:
    """A mask of the left or right half of the picture."""
    mask = np.zeros((80, 100), bool)
    mask[:, 50:] = right
    mask[:, :50] = not right
    return mask


def locked(features: FeatureMap) -> LockedBasis:
    return LockedBasis(
        fit_pca(features), space_of(upsample(features, method="bilinear")), (BasisPicture("a", "b", (8, 9)),)
    )


@pytest.fixture(scope="module")
def photo():
    return image_from_array(load_image(resource("images", "coffee.jpg")).pixels[60:340:2, 120:530:2])


# -- selections and several pictures ------------------------------------------------------------------


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_basis_of_a_selection_is_that_of_the_selected_cells_alone(seed, right):
    features = feature_map(seed)
    part = features.data[:, :, 5:] if right else features.data[:, :, :5]
    alone = replace(features, data=part.contiguous(), geometry=Geometry((80, 50), (80, 50), (8, 5)))
    found, expected = fit_pca(features, masks=[half(right)]), fit_pca(alone)
    torch.testing.assert_close(found.components, expected.components)
    torch.testing.assert_close(found.low, expected.low)
    assert found.explained == pytest.approx(expected.explained)


def test_a_selection_of_a_field_counts_its_pixels_there_alone():
    features = feature_map(1)
    features.data[:, :, 5:] = 100.0 + features.data[:, :, 5:]
    field = upsample(features, method="lowres")
    left, right = (fit_pca(field, masks=[half(side)]) for side in (False, True))
    assert float(left.mean.max()) < 5, "but for the pixels in the middle"
    assert float(right.mean.min()) > 95


def test_pictures_weigh_alike_and_the_whole_picture_is_no_selection():
    one, two = feature_map(1), feature_map(2)
    both = fit_pca([one, two], masks=[None, None])
    torch.testing.assert_close(both.mean, (one.data.mean((1, 2)) + two.data.mean((1, 2))) / 2)
    whole, plain = fit_pca(one, masks=[np.ones((80, 100), bool)]), fit_pca(one)
    assert torch.equal(whole.components, plain.components)
    assert torch.equal(whole.high, plain.high)


def test_too_small_a_selection_gets_a_sentence():
    mask = np.zeros((80, 100), bool)
    mask[:10, :20] = True
    with pytest.raises(
        LensError, match=r"The selection holds 2 cells of the feature grid of 8x10, and .* need 4; select more"
    ):
        fit_pca(feature_map(0), masks=[mask])


def test_a_session_fits_on_several_pictures(photo):
    session = Session(device="cpu")
    other = image_from_array(photo.pixels[:, ::-1].copy())
    mask = np.zeros(photo.size_hw, bool)
    mask[:, : photo.size_hw[1] // 2] = True
    found = fit_basis(session, [(photo, None), (other, mask)], SMALL)
    assert [picture.share for picture in found.pictures] == [1.0, pytest.approx(0.5, abs=0.01)]
    assert found.pictures[0].input_hw == session.features(photo, SMALL).geometry.input_hw
    view = session.view(photo, SMALL, PCARequest(basis=hold(found)))
    assert torch.equal(view.basis.components, found.basis.components)
    assert view.provenance()["fit"] == "locked"
    with pytest.raises(LensError, match=f"choose from 1 to {MOST_PICTURES}"):
        fit_basis(session, [], SMALL)


# -- files ------------------------------------------------------------------


def test_a_basis_comes_back_from_its_file_as_it_was(tmp_path):
    saved = locked(feature_map(3))
    path, again = (write_basis(tmp_path / name / "b.safetensors", saved) for name in ("one", "two"))
    found = read_basis(path)
    assert (found.reference, found.space, found.pictures) == (saved.reference, saved.space, saved.pictures)
    assert torch.equal(found.basis.components, saved.basis.components)
    assert path.read_bytes() == again.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["b.safetensors"]


def test_a_file_and_a_basis_in_memory_show_the_same(tmp_path, photo):
    session = Session(device="cpu")
    found = fit_basis(session, [(photo, None)], SMALL)
    path = write_basis(tmp_path / "b.safetensors", found)
    of_file, of_memory, plain = (
        session.view(photo, SMALL, PCARequest(basis=basis)) for basis in (str(path), hold(found), None)
    )
    assert np.array_equal(of_file.pixels, of_memory.pixels)
    assert np.array_equal(of_file.pixels, plain.pixels), "the coarse map of the same picture"
    assert "basis" not in plain.provenance()


def test_a_basis_of_other_features_is_refused(photo):
    session = Session(device="cpu")
    found = fit_basis(session, [(photo, None)], SMALL)
    request = PCARequest(basis=hold(found))
    with pytest.raises(
        LensError, match=r"on tf_efficientnet_lite0, layer stage 4, 320 channels, and .* the layer stage 3"
    ):
        session.view(photo, SMALL.with_(layer="stage 3"), request)
    wider = LockedBasis(found.basis, replace(found.space, channels=384))
    with pytest.raises(LensError, match="320 channels, not 384"):
        session.view(photo, SMALL, PCARequest(basis=hold(wider)))
    others = LockedBasis(found.basis, replace(found.space, weights_sha256="0" * 64))
    with pytest.raises(LensError, match="other weights of the backbone"):
        session.view(photo, SMALL, PCARequest(basis=hold(others)))


def test_a_basis_that_nobody_holds_is_gone():
    saved = locked(feature_map(4))
    reference = hold(saved)
    assert find_basis(reference) is saved
    del saved
    gc.collect()
    with pytest.raises(LensError, match="no longer there; fit them again"):
        find_basis(reference)


def damaged(tmp_path, kind):
    path = write_basis(tmp_path / "b.safetensors", locked(feature_map(5)))
    whole = path.read_bytes()
    if kind == "nothing":
        path.write_bytes(b"")
    elif kind == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("principal components")
    elif kind == "upsampler":
        return resource("weights", "jbu-universal.safetensors")
    elif kind == "missing":
        path.unlink()
    elif kind == "width":
        path.write_bytes(whole.replace(b'\\"channels\\": 6', b'\\"channels\\": 7'))
    elif kind == "numbers":
        path.write_bytes(whole[:-4] + b"\xff\xff\xff\x7f")
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("nothing", "damaged, incomplete"),
        ("half", "damaged, incomplete"),
        ("text", "damaged, incomplete"),
        ("upsampler", "holds no principal components; give a file"),
        ("missing", "there is no such file"),
        ("width", "holds no principal components that can be read"),
        ("numbers", "is missing or no finite numbers"),
    ],
)
def test_a_file_that_is_none_gets_a_sentence(tmp_path, kind, sentence):
    with pytest.raises(LensError, match=sentence):
        read_basis(damaged(tmp_path, kind))


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(LensError, match=r'give "b\.pt" the ending \.safetensors'):
        write_basis(tmp_path / "b.pt", locked(feature_map(6)))


# -- foreground ------------------------------------------------------------------


def test_the_foreground_is_a_side_of_the_first_component(photo):
    session = Session(device="cpu")
    above = session.view(photo, SMALL, PCARequest((4, 5, 6), foreground="above", threshold=0.3))
    first = session.view(photo, SMALL, PCARequest()).values[0]
    assert np.array_equal(above.foreground(), first >= 0.3)
    assert np.array_equal(above.outlined(), above.foreground())
    below = above.with_request(replace(above.request, foreground="below"))
    assert np.array_equal(below.foreground(), ~above.foreground())
    assert session.view(photo, SMALL, PCARequest()).foreground() is None
