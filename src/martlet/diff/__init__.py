"""Two results side by side: what flipped, whether that is more than chance, and what explains it."""
