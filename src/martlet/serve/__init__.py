"""The OpenAI-compatible server: HTTP around one engine thread.

Owns the wire: what a request may say, how a reply is put, who may ask. Knows nothing of weights,
blocks or kernels; what it asks of an engine is in `martlet.backends.base`.
"""
