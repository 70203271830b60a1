"""Cached features on disk. Never imports Keras."""
