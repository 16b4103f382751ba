"""`python -m martlet.compat.inference_hf`: the script of Chinese-LLaMA-Alpaca 3."""
