"""What scores of a method are compared with."""

from __future__ import annotations

import math

import pytest
import torch

from featup_app.base.resources import resource
from featup_app.engine.scoring import HELD_OUT, score_method
from featup_app.engine.session import Session
from featup_app.engine.settings import ViewSettings
from featup_app.fields import save_upsampler
from featup_app.fields.network import untrained
from featup_app.fields.resize_conv import ResizeConvNetwork
from featup_app.images import image_from_array, load_image

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = ViewSettings(backbone="tf_efficientnet_lite0", layer="stage 4", method="resize_conv", input_size="64")


def test_a_field_of_normalised_features_is_compared_with_the_normalised_map(tmp_path):
    photo = image_from_array(load_image(resource("images", "coffee.jpg")).pixels[60:340:2, 120:530:2])
    session = Session(device="cpu")
    channels = session.features(photo, SETTINGS).channels
    norm = torch.full((channels,), 7.0), torch.zeros(channels)
    network = untrained(ResizeConvNetwork, channels)
    scores = {}
    for name, given in (("plain", None), ("normed", norm)):
        path = tmp_path / f"{name}.safetensors"
        save_upsampler(path, network, norm=given, provenance={"method": "resize_conv"})
        found = score_method(session, photo, SETTINGS.with_(upsampler=str(path)), held_out=True)
        scores[name] = found.scores
    # The untrained network interpolates: in its own space it keeps the coarse map about as well with a norm as without.
    assert scores["normed"]["preservation_error"] == pytest.approx(scores["plain"]["preservation_error"], rel=0.5)
    assert math.isfinite(scores["plain"][HELD_OUT])
    assert math.isnan(scores["normed"][HELD_OUT]), "the views hold the backbone's own features"
