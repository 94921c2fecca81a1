"""Principal components that stay as they are: locked for other pictures and methods, saved to a file, read again.

A request (:class:`~featup_app.lenses.PCARequest`) names a locked basis by a reference: the path of a file, or, for a basis that
is only held in memory, ``sha256:`` and the hash of its numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from featup_app.base.errors import LensError
from featup_app.base.tensor_files import Arrays, read_record, write_record
from featup_app.features import Size
from featup_app.fields.field import FeatureField
from featup_app.lenses.feature_spaces import FeatureSpace, space_of
from featup_app.lenses.pictures import numbers_of
from featup_app.lenses.principal_components import PCABasis

SCHEMA = "featup-app/principal-components"
VERSION = 1
HELD = "sha256:"
"""Beginning of the reference of a basis that is held in memory."""

_ARRAYS = ("mean", "components", "explained", "low", "high")
_WHAT = "principal components"


@dataclass(frozen=True)
class BasisPicture:
    """A picture that a basis was fitted on.

    Attributes:
        name, sha256: of the picture.
        input_hw: size at which the backbone saw it.
        share: part of the picture that was selected, 0 .. 1.
    """

    name: str
    sha256: str
    input_hw: Size
    share: float = 1.0


@dataclass(frozen=True, eq=False)
class LockedBasis:
    """A basis with what it is for.

    Attributes:
        basis: the components and the limits of their colours.
        space: of the features that it was fitted on, and of those that it can show.
        pictures: that it was fitted on.
        reference: names it in requests: ``sha256:`` and the hash of its numbers and its space.
    """

    basis: PCABasis
    space: FeatureSpace
    pictures: tuple[BasisPicture, ...] = ()
    reference: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(repr(self.space).encode())
        for array in _arrays(self.basis).values():
            digest.update(array.tobytes())
        object.__setattr__(self, "reference", f"{HELD}{digest.hexdigest()}")

    def check_fits(self, shown: FeatureField, name: str) -> None:
        """Check that the basis can show the features of a field.

        Args:
            shown: the field.
            name: of the basis, for the sentence.

        Raises:
            LensError: if it was fitted on features of another backbone, layer, width, weights or normalisation.
        """
        theirs = space_of(shown)
        if (why := self.space.difference(theirs)) is not None:
            raise LensError(
                f"The principal components {name} were fitted on {self.space.in_words()}, and these features have {why}; "
                "choose the settings that they were fitted with, or fit others."
            )

    def facts(self) -> dict[str, Any]:
        """What a record says about the basis, JSON-able, without its numbers."""
        pictures = [dataclasses.asdict(picture) for picture in self.pictures]
        return {"reference": self.reference, "space": self.space.as_json(), "pictures": pictures}


_held: WeakValueDictionary[str, LockedBasis] = WeakValueDictionary()


def hold(locked: LockedBasis) -> str:
    """Make a basis known to requests by its reference, for as long as somebody holds it. Returns the reference."""
    _held[locked.reference] = locked
    return locked.reference


def find_basis(reference: str) -> LockedBasis:
    """The basis that a request names.

    Args:
        reference: the path of a file, or what :func:`hold` returned.

    Raises:
        LensError: if the file cannot be read, or nobody holds the basis any more.
    """
    if not reference.startswith(HELD):
        return read_basis(Path(reference))
    found = _held.get(reference)
    if found is None:
        raise LensError(
            "The locked principal components are no longer there; fit them again, or save them to a file first."
        )
    return found


def write_basis(path: str | Path, locked: LockedBasis) -> Path:
    """Write a basis as safetensors, whole or not at all; an older file of that name is replaced.

    The tensors are float32: ``mean`` (C), ``components`` (N, C), ``explained``, ``low`` and ``high`` (N). The metadata have
    backbone, layer, channels, weights and pictures with their input sizes. The same basis gives the same bytes.

    Args:
        path: ends in .safetensors; its folder is made if there is none.

    Returns:
        The file.

    Raises:
        LensError: for another ending, or if the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".safetensors":
        raise LensError(f'Principal components are written as safetensors; give "{path.name}" the ending .safetensors.')
    write_record(path, _arrays(locked.basis), locked.facts(), schema=SCHEMA, version=VERSION, error=LensError)
    return path


def read_basis(path: str | Path) -> LockedBasis:
    """The basis of a file of :func:`write_basis`; nothing in the file is executed.

    Raises:
        LensError: if it is missing, damaged, no such file, or of another version of this program.
    """
    path = Path(path).expanduser()
    facts, arrays = read_record(path, _ARRAYS, schema=SCHEMA, version=VERSION, what=_WHAT, error=LensError)
    try:
        space = FeatureSpace(**facts["space"])
        _check_space(space, arrays)
        pictures = tuple(_picture(picture) for picture in facts["pictures"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise LensError(f'"{path}" holds no {_WHAT} that can be read; fit and save them again.') from error
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    explained = tuple(float(share) for share in tensors.pop("explained"))
    return LockedBasis(PCABasis(explained=explained, **tensors), space, pictures)


def _picture(facts: Mapping[str, Any]) -> BasisPicture:
    height, width = (int(side) for side in facts["input_hw"])
    return BasisPicture(str(facts["name"]), str(facts["sha256"]), (height, width), float(facts["share"]))


def _check_space(space: FeatureSpace, arrays: Arrays) -> None:
    """Raises ValueError unless the arrays are components of features of that space."""
    texts = (space.backbone, space.layer, space.weights_sha256, space.norm or "")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the space is not named by texts")
    count = arrays["components"].shape[0] if arrays["components"].ndim == 2 else 0
    shapes = {"mean": (space.channels,), "components": (count, space.channels)}
    if count < 1 or any(array.shape != shapes.get(name, (count,)) for name, array in arrays.items()):
        raise ValueError("the arrays do not belong together")


def _arrays(basis: PCABasis) -> Arrays:
    return {
        "mean": numbers_of(basis.mean),
        "components": numbers_of(basis.components),
        "explained": np.array(basis.explained, np.float32),
        "low": numbers_of(basis.low),
        "high": numbers_of(basis.high),
    }
