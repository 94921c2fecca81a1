"""The film strip of the pictures that are open together, and what is computed ahead of the next one."""
