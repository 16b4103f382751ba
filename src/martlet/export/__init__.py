"""Merge and quantise, and the certificate that says what it cost."""
