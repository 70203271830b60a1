"""Cache features on disk: shards, stores and feature sets in HDF5. May import `images` and `trunk`; never Keras."""
