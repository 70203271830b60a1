"""A trunk: a pretrained base up to a cut, built, identified by a digest, and saved. May import `images`."""
