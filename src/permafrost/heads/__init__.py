"""Heads: classifiers fitted to cached features and converted to Keras layers. May import the packages up to `model`."""
