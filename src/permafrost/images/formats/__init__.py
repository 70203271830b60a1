"""Formats of image files: recognised by their first bytes, and opened with what each needs."""
