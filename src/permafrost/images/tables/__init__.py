"""Tables of images: the text of a CSV, its columns, and its rows."""
