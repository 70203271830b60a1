"""Images and datasets: files and arrays to RGB pixels, labels, splits and augmented views.

Imports only `errors`, `atomic`, `units` and `options`; no Keras and no HDF5.
"""
