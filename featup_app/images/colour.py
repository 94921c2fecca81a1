"""Colours of any model, profile or transfer curve to sRGB.

littleCMS, through Pillow, applies ICC profiles. PNG can state colours in two further ways, which are computed here: gamma
and chromaticities (gAMA, cHRM), and the code points of ITU-T H.273 (cICP). The formulas of the curves are those of
IEC 61966-2-1 (sRGB), ITU-R BT.709, and BT.2100 (PQ and HLG).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featup_app.images.raster import CMYK, GREY, LAB, RGB, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Floats = npt.NDArray[np.float64]

_MODES = {GREY: "L", RGB: "RGB", CMYK: "CMYK", LAB: "LAB"}
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}

SRGB_WHITE_AND_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""x and y of white, red, green and blue."""
_BT2020 = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
_PRIMARIES = {
    1: SRGB_WHITE_AND_PRIMARIES,
    2: SRGB_WHITE_AND_PRIMARIES,
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: _BT2020,
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_PQ, _HLG = 16, 18
_HDR_WHITE = 203.0
"""cd/m2 of diffuse white in PQ (ITU-R BT.2408), which becomes the white of sRGB; what is brighter is clipped."""


@dataclass(frozen=True)
class Curve:
    """How stored values become light.

    Attributes:
        chromaticities: x and y of white, red, green and blue.
        gamma: exponent of the stored values; None if ``transfer`` counts.
        transfer: transfer characteristics of H.273; 0 if ``gamma`` counts.
        full_range: whether black is 0 and white the largest value, and not 16 and 235 of 255.
    """

    chromaticities: tuple[float, ...] = SRGB_WHITE_AND_PRIMARIES
    gamma: float | None = None
    transfer: int = 0
    full_range: bool = True


def coded_curve(primaries: int, transfer: int, full_range: bool) -> Curve | None:
    """The curve of the code points of H.273; None for those that are not known here."""
    known = transfer in (1, 4, 5, 6, 8, 13, 14, 15, _PQ, _HLG) and primaries in _PRIMARIES
    return Curve(_PRIMARIES[primaries], None, transfer, full_range) if known else None


def to_rgb(values: Pixels, model: str, icc: bytes | None, curve: Curve | None, notes: list[str]) -> Pixels:
    """(H, W, 3) uint8 in sRGB.

    Args:
        values: (H, W, C) uint8 of the colour model ``model``.
        model: one of those of :mod:`featup_app.images.raster`.
        icc: profile of the colours; passed over if it is broken, or one of other colours.
        curve: counts instead of a profile.
        notes: gets a sentence if colours were converted.
    """
    from PIL import Image as pillow

    if model == RGB and icc is None and curve is None:
        return values
    mode = _MODES[model]
    plain = np.ascontiguousarray(values[..., 0] if mode == "L" else values)
    if mode == "LAB":
        picture = pillow.frombuffer("LAB", (values.shape[1], values.shape[0]), plain.tobytes(), "raw", "LAB", 0, 1)
    else:
        picture = pillow.fromarray(plain, mode=mode) if mode == "CMYK" else pillow.fromarray(plain)
    if curve is not None and mode in ("L", "RGB"):
        return _through_curve(np.asarray(picture.convert("RGB")), curve, notes)
    picture = _through_profile(picture, icc, notes)
    if picture.mode == "L":
        rgb = np.empty((picture.height, picture.width, 3), np.uint8)
        rgb[:] = np.asarray(picture)[:, :, None]
        return rgb
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def over_white(pixels: Pixels, alpha: Pixels, notes: list[str]) -> Pixels:
    """(H, W, 3) pixels over white where (H, W) alpha is below 255; a note says so."""
    from PIL import Image as pillow

    if alpha.min() == 255:
        return pixels
    notes.append("Transparent parts are shown over white.")
    picture = pillow.fromarray(np.ascontiguousarray(pixels))
    white = pillow.new("RGB", picture.size, "white")
    white.paste(picture, mask=pillow.fromarray(np.ascontiguousarray(alpha)))
    return np.asarray(white)


def _through_profile(picture: Picture, icc: bytes | None, notes: list[str]) -> Picture:
    from PIL import ImageCms

    with suppress(Exception):  # a broken profile, or a Pillow without colour management: the colours as they are
        srgb = ImageCms.createProfile("sRGB")
        if picture.mode == "LAB":
            return ImageCms.profileToProfile(picture, ImageCms.createProfile("LAB"), srgb, outputMode="RGB") or picture
        if icc:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            if _SPACES.get(picture.mode) == profile.profile.xcolor_space.strip():
                transform = ImageCms.buildTransform(profile, srgb, picture.mode, "RGB")
                if _changes(transform, picture.mode):
                    converted = ImageCms.applyTransform(picture, transform)
                    name = " ".join(ImageCms.getProfileDescription(profile).split())
                    notes.append(f'Colours converted from the profile "{name}" to sRGB.')
                    return converted or picture
    return picture


def _changes(transform: Any, mode: str) -> bool:
    """Whether a transform to sRGB moves any colour by more than rounding; the name of a profile proves nothing."""
    from PIL import Image as pillow
    from PIL import ImageCms

    if mode == "CMYK":
        return True
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 1, 3)
    colours = greys if mode == "L" else np.concatenate([greys, lattice])
    source = pillow.fromarray(np.ascontiguousarray(colours[..., 0] if mode == "L" else colours))
    there = np.asarray(ImageCms.applyTransform(source, transform))
    return int(np.abs(there.astype(int) - colours).max()) > 2


# -- gAMA, cHRM, cICP ------------------------------------------------------------------------------------------------


def _through_curve(values: Pixels, curve: Curve, notes: list[str]) -> Pixels:
    """(H, W, 3) uint8 in sRGB of values that the curve explains."""
    stored = np.arange(256) / 255
    if not curve.full_range:
        stored = np.clip((stored * 255 - 16) / 219, 0, 1)
    light = _light(stored, curve)
    matrix = np.linalg.inv(_to_xyz(SRGB_WHITE_AND_PRIMARIES)) @ _to_xyz(curve.chromaticities)
    same = np.abs(matrix - np.eye(3)).max() < 2e-3
    if same and np.abs(_srgb(light) * 255 - np.arange(256)).max() <= 6:
        return values  # gamma 1 / 2.2 is meant as sRGB
    result = np.empty_like(values)
    for row in range(0, len(values), 256):
        linear = light[values[row : row + 256]]
        if curve.transfer == _HLG:  # the opto-optical transfer of a display of 1000 cd/m2, white at 203 of them
            luminance = linear @ np.array([0.2627, 0.6780, 0.0593])
            linear = linear * np.maximum(luminance, 1e-9)[..., None] ** 0.2 * (1000 / _HDR_WHITE)
        result[row : row + 256] = np.rint(_srgb(linear @ matrix.T) * 255)
    notes.append("Colours converted to sRGB as the gamma or colour code of the file says.")
    return result


def _light(stored: Floats, curve: Curve) -> Floats:
    """Linear light of stored values in [0, 1]; 1 is diffuse white."""
    if curve.gamma is not None:
        return np.asarray(stored**curve.gamma)
    if curve.transfer == 8:
        return stored
    if curve.transfer in (4, 5):
        return np.asarray(stored ** (2.2 if curve.transfer == 4 else 2.8))
    if curve.transfer == _PQ:
        root = stored ** (1 / 78.84375)
        part = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        return np.asarray(10_000 / _HDR_WHITE * part ** (1 / 0.1593017578125))
    if curve.transfer == _HLG:
        high = (np.exp((stored - 0.55991073) / 0.17883277) + 0.28466892) / 12
        return np.where(stored <= 0.5, stored**2 / 3, high)
    # Video is made for a display of about the curve of sRGB, and shown so by browsers: BT.709, BT.601, BT.2020, sRGB
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def _srgb(light: Floats) -> Floats:
    """Stored values in [0, 1] of linear light, clipped."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _to_xyz(chromaticities: tuple[float, ...]) -> Floats:
    """(3, 3): RGB in linear light to CIE XYZ, white at Y = 1."""
    points = np.array(chromaticities, np.float64).reshape(4, 2)
    xyz = np.concatenate([points, 1 - points.sum(axis=1, keepdims=True)], axis=1) / points[:, 1:]
    white, primaries = xyz[0], xyz[1:].T
    return np.asarray(primaries * np.linalg.solve(primaries, white))
