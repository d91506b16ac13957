"""Data: captioned images from files to batches, as pure functions of a position. Stands on torch, numpy and Pillow alone."""
