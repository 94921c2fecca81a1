"""The session with the bundled backbones on a photo: sizes, caches, notes, limits, cancellation, determinism."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import featup_app.fields.window_kernels as window_kernels
import featup_app.lenses.principal_components as principal_components
from featup_app.backbones import Backbone
from featup_app.base.errors import BackboneError, Cancelled, LensError, SizeError
from featup_app.base.resources import resource
from featup_app.engine.kept import PICTURES_KEPT
from featup_app.engine.memory import default_keep_bytes
from featup_app.engine.session import CLASSIFIER, Session
from featup_app.engine.settings import ViewSettings
from featup_app.fields import METHODS, upsample
from featup_app.images import Image, image_from_array, load_image
from featup_app.lenses import CAMRequest, PCARequest, SimilarityRequest, grouping

pytestmark = pytest.mark.usefixtures("one_thread")

DINO = ViewSettings(input_size="98", output_size="101x147")
SMALL = ViewSettings(input_size="56", output_size="43x62")
LITE = ViewSettings(backbone=CLASSIFIER, input_size="128", output_size="75x110")
ALL_METHODS = [method.name for method in METHODS if not method.fitted]  # a fit takes too long for these


@pytest.fixture(scope="module")
def photo() -> Image:
    """A part of a photo, not square: a cup of coffee."""
    return image_from_array(load_image(resource("images", "coffee.jpg")).pixels[60:340:2, 120:530:2])


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


@pytest.fixture
def fresh(session: Session) -> Callable[..., Session]:
    """Makes sessions that remember nothing but the loaded backbones, which no request changes."""
    for name in (DINO, LITE):
        session.backbone(name)

    def make(**options) -> Session:
        other = Session(device="cpu", **options)
        hand_over(session, other, "backbone")
        return other

    return make


def hand_over(source: Session, target: Session, *kinds: str) -> None:
    """Let a session have what another one keeps of some kinds."""
    entries = {name: entry for name, entry in source.kept._entries.items() if name[0] in kinds}
    target.kept._entries.update(entries)


def kept(session: Session, kind: str) -> list[object]:
    """The results of a kind that a session keeps, the oldest first."""
    return [entry.value for name, entry in session.kept._entries.items() if name[0] == kind]


def bases(session: Session) -> list[object]:
    return [each for each in kept(session, "remembered") if isinstance(each, principal_components.PCABasis)]


def questions(session: Session) -> list[grouping.Question]:
    return [each for each in kept(session, "remembered") if isinstance(each, grouping.Question)]


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """What the backbones are asked to compute, as it happens."""
    told: list[str] = []

    def counted(name: str) -> None:
        original = getattr(Backbone, name)

        def wrapper(self, *args, **kwargs):
            told.append(f"{self.name} {name}")
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Backbone, name, wrapper)

    counted("extract")
    counted("logits")
    return told


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize(
    ("output_size", "size"), [("101x147", (101, 147)), ("image", (140, 205)), ("33", (33, 48)), ("1x1", (1, 1))]
)
def test_every_view_has_the_size_that_was_asked_for(session, photo, method, output_size, size):
    settings = DINO.with_(method=method, output_size=output_size)
    pca = session.view(photo, settings, PCARequest())
    assert pca.values.shape == (3, *size)
    assert pca.picture().shape == (*size, 3)
    assert pca.picture().dtype == np.uint8
    similarity = session.view(photo, settings, SimilarityRequest((100.5, 70.5)))
    assert similarity.values.shape == size
    assert np.abs(similarity.values).max() <= 1
    cam = session.view(photo, settings, CAMRequest())
    assert cam.values.shape == size
    for view in (pca, similarity, cam):
        assert view.facts.size == size
        assert view.facts.method == method
        assert view.facts.geometry.image_hw == (140, 205)
        assert np.isfinite(view.values).all()
        assert view.values.dtype == np.float32
        assert view.picture().shape == (*size, 3)
    assert pca.facts.geometry == similarity.facts.geometry
    assert pca.facts.geometry.grid_hw == (7, 10)


def test_sizes_in_times_of_the_grid(session, photo):
    assert session.view(photo, DINO.with_(output_size="3x"), PCARequest()).facts.size == (21, 30)
    assert session.look(photo, DINO.with_(output_size="grid")).size == (7, 10)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_query_is_one_and_is_where_it_was_set(session, photo, method):
    settings = DINO.with_(method=method)
    for point in ((0.5, 0.5), (204.5, 139.5), (77.3, 101.9)):
        view = session.view(photo, settings, SimilarityRequest(point))
        row, column = view.facts.geometry.pixel_of(point, view.facts.size)
        assert view.values[row, column] == pytest.approx(1, abs=1e-6)
        assert view.request.point == point


# -- what is remembered --------------------------------------------------------------------------------------------------


def test_the_default_method_restores_maps_of_bundled_layers_alike_everywhere(session, photo):
    assert DINO.method == "attention"
    look = session.view_and_look(photo, DINO, PCARequest())[1]
    assert "35 % of what tells of the place" in (look.facts.restoration or "")
    from_python = upsample(session.features(photo, DINO), photo)
    assert from_python.settings() == look.field.settings()
    assert torch.equal(from_python.features(size=(40, 60)), look.field.features(size=(40, 60)))
    for other in (DINO.with_(layer="block 9"), DINO.with_(method="jbu"), DINO.with_(method="bilinear")):
        assert session.view(photo, other, PCARequest()).facts.restoration is None


def test_a_second_look_runs_no_backbone(fresh, photo, runs):
    session = fresh()
    session.view(photo, DINO, PCARequest())
    assert runs == ["dinov2-s14-imgfocus extract"]
    first = session.view(photo, DINO, SimilarityRequest((50, 50)))
    again = session.view(photo, DINO, SimilarityRequest((50, 50)))
    assert np.array_equal(first.values, again.values)
    session.view(photo, DINO, SimilarityRequest((90, 20)))
    session.view(photo, DINO, PCARequest(numbers=(4, 5, 6), fit="field"))
    session.view(photo, DINO.with_(method="bilinear", output_size="image"), PCARequest())
    assert runs == ["dinov2-s14-imgfocus extract"]
    session.view(photo, DINO, CAMRequest())
    assert runs[1:] == [f"{CLASSIFIER} logits", f"{CLASSIFIER} extract"]
    session.view(photo, DINO, CAMRequest("espresso"))
    session.view(photo, DINO.with_(method="lowres"), CAMRequest(967))
    assert len(runs) == 3
    session.view(photo, DINO.with_(layer="block 3"), PCARequest())
    session.view(photo, DINO.with_(input_size="112"), PCARequest())
    assert runs[3:] == ["dinov2-s14-imgfocus extract"] * 2


def test_another_image_is_another_result(fresh, photo, runs):
    session = fresh()
    mirrored = image_from_array(photo.pixels[:, ::-1])
    assert not np.array_equal(
        session.view(photo, DINO, PCARequest()).pixels, session.view(mirrored, DINO, PCARequest()).pixels
    )
    assert len(runs) == 2


def parts_of(photo: Image, count: int) -> list[Image]:
    """Different pictures of one size."""
    return [image_from_array(photo.pixels[rows : rows + 100, :120]) for rows in range(count)]


def ask_three_views(session: Session, image: Image, settings: ViewSettings) -> None:
    for request in (PCARequest(), SimilarityRequest((50.5, 30.5)), CAMRequest()):
        session.view(image, settings, request)


@pytest.mark.parametrize("method", ["attention", "jbu"])
def test_many_pictures_end_no_higher_than_a_few(fresh, photo, method):
    """Twenty-five pictures with three views each; what is kept of the first ones has been dropped."""
    session, settings = fresh(), DINO.with_(method=method)
    sizes = []
    for image in parts_of(photo, 25):
        ask_three_views(session, image, settings)
        sizes.append(session.kept.bytes)
    assert sizes[-1] == max(sizes[4:]) == sizes[4]
    for kind in ("map", "field"):
        assert len(kept(session, kind)) == 2 * PICTURES_KEPT, "one of the backbone, one of the classifier"
    assert len(questions(session)) == len(bases(session)) == len(kept(session, "logits")) == PICTURES_KEPT


def test_a_budget_below_what_one_picture_needs_gives_the_same_pictures(fresh, photo):
    rich, poor = fresh(), fresh(keep_bytes=1)
    for image in parts_of(photo, 3):
        for request in (PCARequest(), SimilarityRequest((50.5, 30.5)), CAMRequest(), PCARequest()):
            views = [session.view(image, DINO, request) for session in (rich, poor)]
            assert np.array_equal(views[0].values, views[1].values)
    assert len(kept(poor, "map")) == len(kept(poor, "field")) == 1, "the last request's"
    assert len(kept(rich, "map")) == 6
    assert poor.kept.bytes < rich.kept.bytes


def test_a_smaller_budget_takes_effect_at_once_on_all_caches(fresh, photo):
    session = fresh()
    for image in parts_of(photo, 3):
        ask_three_views(session, image, DINO)
    before = session.kept.bytes
    last = session.features(image, DINO)
    session.kept.settle()
    limit = before - sum(maps.nbytes for maps in questions(session)[0].maps)
    session.keep(limit)
    assert session.kept.bytes <= limit
    assert len(questions(session)) == 2, "the oldest has gone"
    session.keep(1)
    assert not questions(session)
    assert session.features(image, DINO) is not last
    session.keep(None)
    assert session.kept.budget == default_keep_bytes()


def test_the_maps_of_a_fit_and_its_memory_count(fresh, photo):
    session = fresh()
    before = session.kept.bytes
    held = torch.zeros(1000)
    session.fits._kept[1] = held
    session.kept.settle()
    assert session.kept.bytes - before >= held.nbytes


def test_colours_fitted_on_the_grid_mean_the_same_for_every_method(fresh, photo):
    session = fresh()
    views = {method: session.view(photo, DINO.with_(method=method), PCARequest()) for method in ALL_METHODS}
    assert len(bases(session)) == 1
    assert len({view.explained for view in views.values()}) == 1
    for channel in range(3):  # one value is one colour, whatever the method
        values = np.concatenate([view.values[channel].ravel() for view in views.values()])
        colours = np.concatenate([view.pixels[..., channel].ravel() for view in views.values()])
        assert (np.diff(colours[np.argsort(values, kind="stable")].astype(int)) >= 0).all()


def test_colours_fitted_on_the_field_or_on_all_methods_together(fresh, photo):
    session = fresh()
    field = {m: session.view(photo, DINO.with_(method=m), PCARequest(fit="field")) for m in ("lowres", "jbu")}
    assert field["lowres"].explained != field["jbu"].explained
    joint = {m: session.view(photo, DINO.with_(method=m), PCARequest(fit="joint")) for m in ("lowres", "jbu")}
    assert joint["lowres"].explained == joint["jbu"].explained
    assert joint["jbu"].explained != field["jbu"].explained


# -- classes -------------------------------------------------------------------------------------------------------------


def test_a_backbone_without_classes_takes_those_of_the_classifier_and_says_so(session, photo):
    view = session.view(photo, DINO, CAMRequest())
    assert view.note is not None
    assert "DINOv2" in view.note
    assert view.note.endswith(".")
    assert view.facts.backbone == CLASSIFIER
    assert view.facts.backbone_title in view.note
    assert view.kind == "CAM"
    assert len(view.class_names) == 1000
    assert [choice.probability for choice in view.top] == sorted((c.probability for c in view.top), reverse=True)
    assert view.chosen == view.top[0]
    assert view.chosen.name in ("espresso", "cup", "coffee mug", "eggnog")


def test_a_backbone_with_classes_explains_its_own_without_a_note(session, photo):
    view = session.view(photo, LITE, CAMRequest())
    assert view.note is None
    assert view.facts.backbone == CLASSIFIER
    assert view.facts.size == (75, 110)


def test_the_map_of_a_linear_head_averages_to_the_score(session, photo):
    """CAM's defining property, on the grid: the mean of the map plus the bias is the class's score."""
    settings = LITE.with_(method="lowres", output_size="grid")
    view = session.view(photo, settings, CAMRequest("espresso"))
    backbone = session.backbone(settings)
    score = float(backbone.logits(photo, size="128")[view.chosen.index])
    bias = float(backbone.model.get_classifier().bias[view.chosen.index])
    assert view.values.mean() + bias == pytest.approx(score, abs=1e-3)


def test_classes_by_name_by_number_and_by_text_of_a_number(session, photo):
    views = [session.view(photo, LITE, CAMRequest(chosen)) for chosen in ("espresso", "ESPRESSO ", 967, "967")]
    assert {view.chosen.index for view in views} == {967}
    assert all(np.array_equal(view.values, views[0].values) for view in views)
    assert session.view(photo, LITE, CAMRequest(0)).chosen.index == 0
    assert not np.array_equal(session.view(photo, LITE, CAMRequest(0)).values, views[0].values)


@pytest.mark.parametrize("chosen", [1000, -1, "1000", "no such thing", "dog"])
def test_unknown_and_unclear_classes_are_refused_in_a_sentence(session, photo, chosen):
    with pytest.raises(LensError, match=re.escape(str(chosen))):
        session.view(photo, LITE, CAMRequest(chosen))


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
def test_gradient_methods_of_a_linear_head_show_the_map_of_cam(session, photo, method):
    settings = LITE.with_(method="lowres", output_size="grid")
    plain = session.view(photo, settings, CAMRequest("espresso", method="cam"))
    view = session.view(photo, settings, CAMRequest("espresso", method=method))
    cells = plain.values.size
    assert (plain.kind, plain.facts.layer) == ("CAM", view.facts.layer)
    assert view.kind.lower().replace("-", "") == method
    if method == "layercam":
        assert (view.values >= 0).all()
        assert (cells * view.values >= plain.values - 1e-3).all(), "only evidence against the class is left out"
    else:
        assert np.allclose(cells * view.values, plain.values, atol=1e-3)
    assert view.stem() == f"cam-espresso-{method}"
    assert view.provenance()["method"] == method


@pytest.mark.parametrize("upsampling", ALL_METHODS)
def test_the_difference_of_two_classes_changes_its_sign_with_their_order(session, photo, upsampling):
    settings = LITE.with_(method=upsampling)
    for method in (None, "layercam"):
        one, other = (
            session.view(photo, settings, CAMRequest(first, against=second, method=method))
            for first, second in (("espresso", "eggnog"), ("eggnog", "espresso"))
        )
        largest = np.abs(one.values).max()
        assert np.allclose(one.values, -other.values, atol=1e-5 * largest)
        assert np.allclose(one.parts[0] - one.parts[1], one.values, atol=1e-5 * largest)
        assert one.limits() == pytest.approx((-largest, largest))
        assert one.legend().colormap == one.provenance()["colormap"] == "blue-white-red"
        assert (one.chosen, one.against) == (other.against, other.chosen)
    assert one.settled_request().against == one.against.index
    assert (one.named_request().chosen, one.named_request().against) == ("espresso", "eggnog")
    assert one.provenance()["against"]["name"] == "eggnog"
    assert "espresso" in one.reading(3, 4)
    assert "eggnog" in one.reading(3, 4)


def test_a_class_less_itself_is_refused(session, photo):
    with pytest.raises(LensError, match='"espresso" less itself is zero'):
        session.view(photo, LITE, CAMRequest("espresso", against="espresso"))
    with pytest.raises(LensError, match="no such thing"):
        session.view(photo, LITE, CAMRequest("espresso", against="no such thing"))


def test_eigencam_loads_no_classifier_and_reads_the_chosen_features(fresh, photo, runs):
    session = fresh()
    view = session.view(photo, DINO.with_(layer="block 3"), CAMRequest(method="eigencam"))
    assert runs == ["dinov2-s14-imgfocus extract"]
    assert (view.kind, view.facts.layer, view.chosen, view.top) == ("EigenCAM", "block 3", None, ())
    assert view.values.mean() > 0
    assert "class" not in view.provenance()
    assert view.stem() == "cam-eigencam"


def test_a_backbone_without_classes_explains_the_picture_as_a_whole(fresh, photo, runs):
    """Its gradients lie on the last layer whose positions act on the embedding, and belong to its length."""
    session = fresh()
    settings = DINO.with_(method="lowres", output_size="grid")
    view = session.view(photo, settings, CAMRequest(target="picture"))
    assert runs == ["dinov2-s14-imgfocus extract"]
    assert (view.kind, view.note, view.facts.layer) == ("HiResCAM", None, "block 10")
    assert view.provenance()["target"] == "picture"
    backbone = session.backbone(settings)
    layer, (gradient,) = backbone.evidence_gradients(photo, None, size=settings.input_size)
    data = backbone.extract(photo, size=settings.input_size, layer=layer).data
    assert np.allclose(view.values, (gradient * data).sum(0), atol=1e-5 * np.abs(view.values).max())
    layercam = session.view(photo, settings, CAMRequest(target="picture", method="layercam"))
    assert (layercam.values >= 0).all()
    assert "brought to this size" in layercam.legend().tooltip


def test_the_average_drop_is_measured_when_it_is_asked_for(fresh, photo, runs):
    session = fresh()
    plain = session.view(photo, LITE, CAMRequest("espresso"))
    assert plain.masked is None
    assert "average_drop" not in plain.provenance()
    before = len(runs)
    view = session.view(photo, LITE, CAMRequest("espresso", drop=True))
    assert runs[before:] == [f"{CLASSIFIER} logits"] * 2
    assert view.masked.whole == pytest.approx(view.chosen.probability, abs=0.02)
    assert view.provenance()["average_drop"]["percent"] == pytest.approx(100 * view.masked.drop)
    assert 0 <= view.masked.drop <= 1
    assert np.array_equal(view.values, plain.values)


def test_unknown_names_are_refused_in_a_sentence(session, photo):
    with pytest.raises(BackboneError, match="block 12"):
        session.view(photo, DINO.with_(layer="block 12"), PCARequest())
    with pytest.raises(SizeError, match="nonsense"):
        session.view(photo, DINO.with_(output_size="nonsense"), PCARequest())
    with pytest.raises(LensError, match="no principal component 10"):
        session.view(photo, DINO, PCARequest(numbers=(1, 2, 10)))


# -- memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL_METHODS)
def test_an_output_beyond_the_memory_budget_names_a_size_that_works(fresh, photo, method):
    session = fresh(memory_budget=40_000_000)
    settings = DINO.with_(method=method, output_size="1400x2050")
    for request in (PCARequest(), SimilarityRequest((5, 5)), CAMRequest()):
        view = functools.partial(session.view, request=request)
        with pytest.raises(SizeError, match=r"1400x2050 .* would work") as refused:
            view(photo, settings)
        height, width = map(int, re.search(r"(\d+)x(\d+) would work", str(refused.value)).groups())
        assert view(photo, settings.with_(output_size=f"{height}x{width}")).facts.size == (height, width)
        with pytest.raises(SizeError):
            view(photo, settings.with_(output_size=f"{height + 3}x{width + 3}"))


def test_a_click_keeps_maps_only_where_memory_is_left_and_they_are_freed_when_it_is_short(fresh, photo):
    settings = DINO.with_(method="attention", output_size="300x450")
    needed = (2 * grouping.COMPONENTS + 1) * 4 * 300 * 450
    rich, poor = fresh(memory_budget=2**30), fresh(memory_budget=160_000_000)
    answers = [session.view(photo, settings, SimilarityRequest((60.5, 90.5))) for session in (rich, poor)]
    assert (answers[0].values == answers[1].values).all()
    (question,) = questions(rich)
    assert sum(maps.nbytes for maps in question.maps) == needed
    assert [question.maps for question in questions(poor)] == [None]
    session = fresh(memory_budget=2**30)
    session.view(photo, settings, SimilarityRequest((60.5, 90.5)))
    with pytest.raises(SizeError):
        session.view(photo, settings.with_(output_size="9000x13500"), PCARequest())
    assert not questions(session)


def test_the_memory_that_is_free_now_is_the_budget_unless_one_is_given(fresh):
    assert fresh(memory_budget=12345).memory_budget == 12345
    assert fresh().memory_budget > 10_000_000


# -- cancellation and determinism ----------------------------------------------------------------------------------------


class CancelAt:
    """Raises Cancelled at the n-th call."""

    def __init__(self, number: int) -> None:
        self.left, self.told = number, []

    def __call__(self, words: str, done: int, total: int, stage: object = None) -> None:
        self.told.append(words)
        self.left -= 1
        if self.left == 0:
            raise Cancelled


def many_small_steps(monkeypatch) -> None:
    """Small work in many strips, so that a cancellation often leaves weights half there."""
    monkeypatch.setattr(window_kernels, "_STRIP_BYTES", 2**20)
    monkeypatch.setattr(principal_components, "FIT_PIXELS", 32 * 32)


def values_of(view: object) -> list[np.ndarray]:
    return [view.values, view.picture()]


VIEWS = {
    "pca": lambda session, photo, progress: session.view(photo, SMALL, PCARequest(), progress=progress),
    "pca of all methods": lambda session, photo, progress: session.view(
        photo, SMALL, PCARequest(fit="joint"), progress=progress
    ),
    "similarity": lambda session, photo, progress: session.view(photo, SMALL, SimilarityRequest((60, 80)), progress),
    "class activation": lambda session, photo, progress: session.view(photo, SMALL, CAMRequest(), progress=progress),
}


@pytest.mark.parametrize("lens", VIEWS)
def test_cancelled_at_any_step_the_session_gives_the_same_as_if_nothing_had_happened(fresh, photo, lens, monkeypatch):
    many_small_steps(monkeypatch)
    view = VIEWS[lens]
    undisturbed = values_of(view(fresh(), photo, CancelAt(0)))
    # Once with nothing there, which stops the backbone at each of its steps; once with the maps there, for all that follows.
    disturbed, prepared = fresh(), fresh()
    for each in (disturbed, prepared):
        if each is prepared:
            hand_over(disturbed, prepared, "map", "logits")
        cancelled = []
        for number in range(1, 10_000):
            progress = CancelAt(number)
            try:
                found = values_of(view(each, photo, progress))
                break
            except Cancelled:
                cancelled.append(progress.told[-1])
        for one, other in zip(undisturbed, found, strict=True):
            assert one.tobytes() == other.tobytes()
        # And everything else that the session then gives is what it would have been.
        for name in ("pca", "similarity"):
            expected, after = (VIEWS[name](session, photo, CancelAt(0)) for session in (fresh(), each))
            for one, other in zip(values_of(expected), values_of(after), strict=True):
                assert one.tobytes() == other.tobytes(), name
        assert len(cancelled) >= 4
        backbone = {"extracting features", "features"}
        assert (backbone <= set(cancelled)) if each is disturbed else not backbone & set(cancelled)
    assert any(stage.startswith(("upsampling", "measuring")) for stage in cancelled), set(cancelled)


@pytest.mark.parametrize("lens", ["pca", "similarity"])
def test_cancelled_once_late_in_a_fresh_session(fresh, photo, lens, monkeypatch):
    many_small_steps(monkeypatch)
    view = VIEWS[lens]
    whole = CancelAt(0)
    expected = values_of(view(fresh(), photo, whole))
    maps = fresh()
    maps.features(photo, SMALL)
    upsampling = [index + 1 for index, stage in enumerate(whole.told) if stage.startswith(("upsampling", "measuring"))]
    for number in upsampling[:: max(1, len(upsampling) // 4)]:
        session = fresh()
        with pytest.raises(Cancelled):
            view(session, photo, CancelAt(number))
        assert [each.layer for each in kept(session, "map")] == [each.layer for each in kept(maps, "map")]
        for one, other in zip(expected, values_of(view(session, photo, CancelAt(0))), strict=True):
            assert one.tobytes() == other.tobytes()


def test_a_cancelled_loading_leaves_no_backbone_behind(photo):
    session = Session(device="cpu")
    with pytest.raises(Cancelled):
        session.backbone(LITE, CancelAt(1))
    assert session.backbone(LITE) is session.backbone(LITE)


def test_a_failure_is_not_remembered(fresh, photo, monkeypatch):
    session = fresh()
    with monkeypatch.context() as patched:
        patched.setattr(Backbone, "extract", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.view(photo, DINO, PCARequest())
    assert session.view(photo, DINO, PCARequest()).pixels.std() > 20


def test_two_sessions_give_the_same_bytes_in_whatever_order_they_are_asked(fresh, photo):
    one, other = fresh(), fresh()
    first = [view(one, photo, CancelAt(0)) for view in VIEWS.values()]
    second = [view(other, photo, CancelAt(0)) for view in reversed(VIEWS.values())][::-1]
    for a, b in zip(first, second, strict=True):
        for left, right in zip(values_of(a), values_of(b), strict=True):
            assert left.tobytes() == right.tobytes()


def test_facts_of_a_backbone_for_menus(session):
    facts = session.backbone_facts(DINO)
    assert facts.default_layer in dict(facts.layers)
    assert not facts.has_head
    assert facts.stride == 14
    assert facts.device == "cpu"
    assert session.backbone_facts(LITE).has_head


# -- ahead of being asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [DINO, LITE, DINO.with_(method="jbu")])
def test_a_prepared_picture_needs_no_further_run_of_a_backbone(fresh, photo, runs, settings):
    session, plain = fresh(memory_budget=10**12), fresh()
    assert session.prepare(photo, settings, PCARequest(), photo)
    prepared = len(runs)
    requests = PCARequest(), SimilarityRequest((30, 40)), CAMRequest()
    views = [session.view(photo, settings, request) for request in requests]
    assert len(runs) == prepared > 0
    for view, request in zip(views, requests, strict=True):
        assert np.array_equal(view.values, plain.view(photo, settings, request).values)


def test_three_prepared_pictures_are_kept(fresh, photo, runs):
    session = fresh(memory_budget=10**12)
    pictures = [image_from_array(photo.pixels[rows:]) for rows in (0, 10, 20)]
    for picture in pictures:
        session.prepare(picture, DINO, PCARequest(), picture)
    prepared = len(runs)
    for picture in pictures:
        session.view(picture, DINO, PCARequest())
        session.view(picture, DINO, CAMRequest())
    assert len(runs) == prepared


def test_walking_computes_each_picture_once(fresh, photo, runs):
    """What is shown counts as used last, so that the picture one comes from is kept beside the next two."""
    session = fresh(memory_budget=10**12)
    pictures = [image_from_array(photo.pixels[rows:]) for rows in range(0, 60, 10)]
    for index, shown in enumerate(pictures):
        session.view(shown, DINO, PCARequest())
        session.view(shown, DINO, CAMRequest())
        for neighbour in (index + 1, index - 1):
            if 0 <= neighbour < len(pictures):
                session.prepare(pictures[neighbour], DINO, PCARequest(), shown)
    assert len(runs) == 3 * len(pictures), "features, classes, and the features that these are read from"


def test_nothing_is_prepared_that_would_push_out_what_is_shown(fresh, photo, runs):
    session = fresh(memory_budget=10**12)
    session.view(photo, DINO, PCARequest())
    other = image_from_array(photo.pixels[10:])
    asked, session.kept.budget = len(runs), session.kept.bytes + 1000
    assert not session.prepare(other, DINO, PCARequest(), photo)
    assert len(runs) == asked
    session.kept.budget *= 10
    assert session.prepare(other, DINO, PCARequest(), photo)


def test_nothing_is_prepared_where_memory_is_short(fresh, photo, runs):
    assert not fresh(memory_budget=10**6).prepare(photo, DINO, PCARequest(), photo)
    assert runs == []


def test_preparing_is_cancelled_between_blocks(fresh, photo):
    session, steps = fresh(memory_budget=10**12), []

    def progress(words, done, total, *_):
        steps.append((words, done))
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        session.prepare(photo, DINO, PCARequest(), photo, progress)
    assert steps[-1] == ("features", 3)
    assert not kept(session, "map")
