"""Images through the trunk into the store."""
