"""Run images through a trunk and cache their features in a store. May import the packages up to `store`."""
