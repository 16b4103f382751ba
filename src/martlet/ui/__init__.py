"""The page: a server's models in a browser. It speaks to the server's public API alone."""
