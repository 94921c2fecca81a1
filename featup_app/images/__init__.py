"""Pictures: from a file, pasted bytes or an array to 8 bit RGB pixels, upright and in sRGB.

:mod:`~featup_app.images.image` has the picture and the functions that open one; :mod:`~featup_app.images.decoding` is the
way in for bytes and lists what is read by what; :mod:`~featup_app.images.selection` chooses page, channels and range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.images.image import (
        IMAGE_SUFFIXES,
        Image,
        first_sample,
        image_from_array,
        image_from_bytes,
        load_image,
        resized,
        sample_images,
        visible_pictures,
    )
    from featup_app.images.selection import Selection, split_name
    from featup_app.images.stored import stored_values
    from featup_app.images.thumbnails import thumbnail

__all__ = [
    "IMAGE_SUFFIXES",
    "Image",
    "Selection",
    "first_sample",
    "image_from_array",
    "image_from_bytes",
    "load_image",
    "resized",
    "sample_images",
    "split_name",
    "stored_values",
    "thumbnail",
    "visible_pictures",
]

_HOMES = {"Selection": "selection", "split_name": "selection", "stored_values": "stored", "thumbnail": "thumbnails"}

__getattr__ = lazy_names(__name__, {name: _HOMES.get(name, "image") for name in __all__})
