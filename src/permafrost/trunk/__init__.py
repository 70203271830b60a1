"""Cut a pretrained base into a frozen trunk, identify the trunk by a digest, and save it. May import `images`."""
