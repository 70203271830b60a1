"""Files and arrays to RGB pixels, labels and splits. Imports no Keras and no HDF5."""
