"""An example of an upsampling method in one file: every pixel has the mean feature of the image."""

import torch

from featup_app.fields import Method
from featup_app.fields.field import LinearField

METHOD = Method("mean", "Mean", "The mean feature of the image everywhere.", module="mean_method")


class MeanField(LinearField):
    method = "mean"

    def _upsample(self, source, size, region, progress):
        return source.mean((1, 2), keepdim=True).expand(-1, region.height, region.width).clone()

    def bytes_per_pixel(self, channels):
        return 4.0 * channels

    def settings(self):
        return {}


def make_field(features, image, options, progress):
    assert torch.is_tensor(features.data)
    return MeanField(features)
