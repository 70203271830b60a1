"""One Keras model out: joined, checked, written, used."""
