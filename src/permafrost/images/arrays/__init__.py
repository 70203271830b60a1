"""Arrays of images: the arrays of an npz file, what their values mean, and their labels."""
