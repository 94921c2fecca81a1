"""The linked views of an image, and the tabs with their settings."""
