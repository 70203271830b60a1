"""Folders of images: the tree that is there, and which of its levels are classes and splits."""
