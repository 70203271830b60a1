"""One module per head, each with its `HEAD`. A new head is a module here and its name in `heads.options`."""
