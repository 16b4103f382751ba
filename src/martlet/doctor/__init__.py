"""Looks at a set-up, and says what is wrong with it and the one command that mends it."""
