"""The Keras training loop that heads and fine-tuning share. May import the packages up to `extraction`."""
