"""Extraction runs images through a trunk into a store. May import the packages up to `store`."""
