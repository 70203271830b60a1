"""Cached features: shards, stores and feature sets in HDF5 files. May import `images` and `trunk`; never Keras."""
