"""Files: features and pictures written with their provenance, and read back. Importing this room imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featup_app.base.lazily import lazy_names

if TYPE_CHECKING:
    from featup_app.export.feature_files import DTYPES, FORMATS, estimated_bytes, export_features, stage_features
    from featup_app.export.pictures import picture_provenance, stage_picture, write_picture
    from featup_app.export.provenance import SCHEMA, build_provenance
    from featup_app.export.reading import LoadedExport, load_export
    from featup_app.export.staging import Staging

__all__ = [
    "DTYPES",
    "FORMATS",
    "SCHEMA",
    "LoadedExport",
    "Staging",
    "build_provenance",
    "estimated_bytes",
    "export_features",
    "load_export",
    "picture_provenance",
    "stage_features",
    "stage_picture",
    "write_picture",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DTYPES": "feature_files",
        "FORMATS": "feature_files",
        "estimated_bytes": "feature_files",
        "export_features": "feature_files",
        "stage_features": "feature_files",
        "picture_provenance": "pictures",
        "stage_picture": "pictures",
        "write_picture": "pictures",
        "SCHEMA": "provenance",
        "build_provenance": "provenance",
        "LoadedExport": "reading",
        "load_export": "reading",
        "Staging": "staging",
    },
)
