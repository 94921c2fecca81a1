"""What the tests of implicit fits share; modules with features of their own name them alike and get those."""

from __future__ import annotations

import pytest
from fit_fixtures import SIZE, SOLVED
from training_fixtures import features_of, picture

from featup_app.features import FeatureMap
from featup_app.fields.implicit import ImplicitFit


@pytest.fixture(scope="module")
def features() -> FeatureMap:
    """6 channels in 3 x 4 cells of a picture of coloured rectangles."""
    return features_of(picture(3), SIZE)


@pytest.fixture(scope="module")
def solved(features) -> ImplicitFit:
    """A finished fit that no test changes."""
    fit = ImplicitFit(features, recipe=SOLVED)
    fit.run()
    return fit
