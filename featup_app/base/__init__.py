"""What every room may use: errors, progress, files, words for quantities, resources. Imports no other room, and no torch."""
