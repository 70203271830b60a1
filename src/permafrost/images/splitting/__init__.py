"""Splits of images: named by folders and tables, or decided by content and group."""
