"""Training an upsampler in the window."""
