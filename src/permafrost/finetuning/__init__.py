"""Unfreeze, cache what crosses the cut, train on."""
