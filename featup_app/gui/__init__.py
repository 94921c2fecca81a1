"""The window. Qt and pyqtgraph live here and nowhere else; torch is only ever imported on the engine's thread."""
