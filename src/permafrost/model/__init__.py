"""The exported Keras model and its run: assembled, checked, saved, used. May import the packages up to `training`."""
