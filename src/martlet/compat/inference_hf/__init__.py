"""`python -m martlet.compat.inference_hf`: the third article's script, its flags and its files."""
