"""Two results side by side: what flipped, whether by chance, and which setting explains it."""
