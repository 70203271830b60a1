"""Classifiers on features that become Keras layers."""
