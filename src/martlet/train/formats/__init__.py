"""The formats of training rows, each recognised by its columns: one file a family."""
