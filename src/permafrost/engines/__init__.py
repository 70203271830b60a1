"""Run a trunk on batches of pixels."""
