"""Words to token ids and back: chat templates, context policy, streaming decode, stop strings.

Knows tokenizers and their folders; knows nothing of weights, requests or devices.
"""
