"""Errors that a person can act on.

Every message has one or two sentences: what failed, with which file or argument, why, and what to do. The command line
prints it and exits with 2; the window shows it in a bar. Any other exception that reaches a person is a defect.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class FeatUpError(Exception):
    """Base of all errors whose message is meant for the person at the keyboard."""


class ImageError(FeatUpError):
    """A picture cannot be opened or is not usable."""


class SizeError(FeatUpError):
    """A size is not understood, or does not fit into the memory that may be used."""


class BackboneError(FeatUpError):
    """A backbone, a layer or its weights are unknown, missing or do not fit."""


class UpsamplerError(FeatUpError):
    """An upsampling method, its options or its weights are unknown or do not fit."""


class LensError(FeatUpError):
    """A lens is asked for something that it cannot show, such as an unknown class."""


class MarkError(FeatUpError):
    """A mark that a person drew is none, or lies outside of the picture."""


class ExportError(FeatUpError):
    """Features or pictures cannot be written, or an export cannot be read back."""


class EvaluationError(FeatUpError):
    """A data set does not have the expected layout, or a measurement is not possible with the given data."""


class Cancelled(Exception):
    """The person asked to stop. Never shown as an error."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Libraries warn within, in words for programmers, without anybody reading it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
