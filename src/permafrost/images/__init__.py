"""Image files and arrays to RGB pixels; datasets with labels and splits; augmented views.

Imports neither Keras nor HDF5.
"""
