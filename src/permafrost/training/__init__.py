"""The Keras training loop that heads and fine-tuning share."""
