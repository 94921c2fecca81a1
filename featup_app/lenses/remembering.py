"""What lenses prepare for the next question about a field: kept by whoever asks, or with the field. Imports no torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from featup_app.fields.field import FeatureField

_Value = TypeVar("_Value")

Remember = Callable[[Hashable, Callable[[], Any]], Any]
"""Takes a key and a function; returns the value made for the key before, or makes it. Such as ``Looks.remember``."""

KEPT_WITH_A_FIELD = 2

_with_fields: WeakKeyDictionary[FeatureField, OrderedDict[Hashable, Any]] = WeakKeyDictionary()


def remembered(field: FeatureField, key: Hashable, make: Callable[[], _Value], remember: Remember | None) -> _Value:
    """What was prepared of a field under a key, or is prepared now.

    Args:
        field: that it belongs to.
        key: what it is, and how it was prepared.
        make: prepares it; the value must not refer to the field, or the field would never be freed.
        remember: keeps it; without one, the last few values are kept as long as the field is.
    """
    if remember is not None:
        value: _Value = remember((field, key), make)
        return value
    known = _with_fields.setdefault(field, OrderedDict())
    if key not in known:
        known[key] = make()
    known.move_to_end(key)
    while len(known) > KEPT_WITH_A_FIELD:
        known.popitem(last=False)
    found: _Value = known[key]
    return found
