"""The features of one image as a network that was fitted to it: at any point, at any size (FeatUp section 3.3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featup_app.base.progress import Progress, silent
from featup_app.features import FeatureMap, Region, Size
from featup_app.fields.attention import AttentionField
from featup_app.fields.field import FeatureField, LinearField
from featup_app.fields.guidance import Guidance
from featup_app.fields.implicit.network import ImplicitNetwork, pixel_places
from featup_app.fields.implicit.start import Start
from featup_app.fields.implicit.views import AskedViews, Components
from featup_app.images import Image

KEPT_BYTES = 2**29
"""Of component maps that a field keeps for the next lens; larger outputs are computed anew each time."""

_BLOCK_NUMBERS = 2**24
"""Hidden numbers that are computed at once: 64 MB."""


@dataclass(frozen=True, eq=False)
class LearnedUncertainty:
    """The errors that the fit expects of itself.

    Attributes:
        scale: (h, w), the expected root mean square error of a component at each cell of the image's own grid.
    """

    scale: Tensor


class ImplicitField(FeatureField):
    """Features that a network predicts for the position and colour of each output pixel, added to a base field.

    A click is not asked of the fitted features but of :attr:`carrier`, the base field or an attention without one, and of
    :attr:`asked` (decision 0097).

    The network is evaluated once for an output size; its principal components are kept in half precision, and every lens
    folds its functionals into them. Parts of such an output that are asked for earlier are rounded in the same way, so that
    numbers do not depend on what happens to be kept. For outputs whose components do not fit into :data:`KEPT_BYTES`, few
    functionals are folded into the network's last layer instead, and nothing is kept.

    Args:
        features: the low-resolution map of the image.
        image: the picture, whose colours the network reads, averaged over each output pixel.
        network: in evaluation mode; not changed afterwards.
        components: that the network predicts.
        settings: recipe, seed and figures, for exports and files.
        uncertainty: the errors that the fit expects; None if it learned none.
        start: the base field; the components' mean where it has none.
        asked: views in which a click is asked too; None for none.
    """

    method = "implicit"

    def __init__(
        self,
        features: FeatureMap,
        image: Image,
        network: ImplicitNetwork,
        components: Components,
        settings: Mapping[str, Any],
        uncertainty: LearnedUncertainty | None = None,
        *,
        start: Start,
        asked: AskedViews | None = None,
    ) -> None:
        super().__init__(features)
        self.start, self._base = start, start.field
        self.image, self.asked = image, asked
        self.carrier = start.field if isinstance(start.field, LinearField) else AttentionField(features, image)
        self.network, self.components, self.uncertainty = network, components, uncertainty
        self._settings = dict(settings)
        # The network takes positions in the image, wherever the receptive fields of the coarse cells lie.
        colours_geometry = replace(features.geometry, offset_xy=(0.0, 0.0))
        self._guidance = Guidance(image, colours_geometry, features.data.device, normalise=True)
        self._kept: OrderedDict[Size, Tensor] = OrderedDict()

    def project(
        self,
        matrix: Tensor,
        bias: Tensor | None = None,
        *,
        size: Size,
        region: Region | None = None,
        progress: Progress = silent,
    ) -> Tensor:
        self._check_matrix(matrix)
        matrix = matrix.to(self.components.basis)
        addend = matrix @ self._constant()
        if bias is not None:
            addend = addend + bias.to(addend)
        result = self._functionals(matrix @ self.components.basis, addend, size, region, progress)
        if self._base is not None:
            result += self._base.project(matrix, size=size, region=region, progress=progress)
        return result

    def features(self, *, size: Size, region: Region | None = None, progress: Progress = silent) -> Tensor:
        result = self._functionals(self.components.basis, self._constant(), size, region, progress)
        if self._base is not None:
            result += self._base.features(size=size, region=region, progress=progress)
        return result

    def bytes_per_pixel(self, channels: int) -> float:
        own = 4.0 * channels + 2.0 * self.components.basis.shape[1]
        return own if self._base is None else own + self._base.bytes_per_pixel(channels)

    def fixed_bytes(self, size: Size) -> int:
        own = size[0] * size[1] * (4 + 12) + min(self._map_bytes(size), KEPT_BYTES)
        return own if self._base is None else own + self._base.fixed_bytes(size)

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    def _constant(self) -> Tensor:
        """(C), what is the same everywhere."""
        mean = self.components.mean
        return mean if self._base is None else torch.zeros_like(mean)

    def _map_bytes(self, size: Size) -> int:
        return size[0] * size[1] * self.components.basis.shape[1] * 2

    def _functionals(
        self, matrix: Tensor, addend: Tensor, size: Size, region: Region | None, progress: Progress
    ) -> Tensor:
        """(M, K) functionals of the components and (M) addends -> (M, height, width) of the region."""
        region = Region.within(size, region)
        with torch.no_grad():
            kept = self._components_of(size, region, progress)
            result = torch.empty(len(matrix), region.height, region.width, device=matrix.device)
            if kept is None:
                rounded = self._map_bytes(size) <= KEPT_BYTES
                fold = not rounded and len(matrix) < matrix.shape[1]
                folded = matrix @ self.network.last.weight
                constant = addend if self.network.last.bias is None else addend + matrix @ self.network.last.bias
                for part, hidden in self._hidden(size, region, progress):
                    if fold:
                        values = torch.addmm(constant, hidden, folded.T).T
                    else:
                        strip = self.network.last(hidden).T
                        strip = strip.half().float() if rounded else strip
                        values = torch.addmm(addend[:, None], matrix, strip)
                    result[:, part.top - region.top : part.bottom - region.top] = values.reshape(
                        -1, part.height, part.width
                    )
                return result
            rows = max(1, _BLOCK_NUMBERS // max(1, kept.shape[0] * region.width))
            for top in range(region.top, region.bottom, rows):
                bottom = min(top + rows, region.bottom)
                strip = kept[:, top:bottom, region.columns].float().flatten(1)
                values = torch.addmm(addend[:, None], matrix, strip)
                result[:, top - region.top : bottom - region.top] = values.view(-1, bottom - top, region.width)
            return result

    def _components_of(self, size: Size, region: Region, progress: Progress) -> Tensor | None:
        """(K, H, W) float16 components of the whole output; None if they are not kept."""
        known = self._kept.get(size)
        if known is not None:
            self._kept.move_to_end(size)
            return known
        if self._map_bytes(size) > KEPT_BYTES or region != Region.whole(size):
            return None
        count = self.network.last.out_features
        known = torch.empty(count, *size, dtype=torch.float16, device=self.components.basis.device)
        for part, hidden in self._hidden(size, region, progress):
            known[:, part.rows] = self.network.last(hidden).T.view(count, part.height, part.width).half()
        self._kept[size] = known
        while sum(self._map_bytes(each) for each in self._kept) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return known

    def _hidden(self, size: Size, region: Region, progress: Progress) -> Any:
        """Blocks of rows of the region and the hidden numbers (N, D) of their pixels."""
        colours = self._guidance.at(size)
        rows = max(1, _BLOCK_NUMBERS // (self.network.width * region.width))
        for top in range(region.top, region.bottom, rows):
            progress("evaluating the network", top - region.top, region.height)
            part = Region(top, region.left, min(rows, region.bottom - top), region.width)
            places = pixel_places(size, part, colours.device)
            yield part, self.network.hidden(places, colours[:, part.rows, part.columns].flatten(1).T)
        progress("evaluating the network", region.height, region.height)
