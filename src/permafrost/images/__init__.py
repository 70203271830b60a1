"""Decode image files and arrays to RGB pixels, read datasets with labels and splits, and make augmented views.

Imports neither Keras nor HDF5.
"""
