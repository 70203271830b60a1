"""A pretrained base, cut: built, digested, saved."""
