"""The kinds of puzzle, one a file; each kind writes its problems in English and in Chinese."""
