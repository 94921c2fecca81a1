"""The small features that tests of implicit fits share."""

from __future__ import annotations

import pytest
from fit_fixtures import SIZE
from training_fixtures import features_of, picture


@pytest.fixture(scope="module")
def features():
    """6 channels in 3 x 4 cells of a picture of coloured rectangles."""
    return features_of(picture(3), SIZE)
