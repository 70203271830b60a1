"""Run a trunk on batches of pixels, with Keras or OpenVINO. May import `images` and `trunk`."""
