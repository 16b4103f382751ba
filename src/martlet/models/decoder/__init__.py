"""The decoder that most folders hold (Llama, Mistral, Qwen2, Qwen3), written out.

It computes what transformers computes, bit for bit in fp32, and needs nothing of it: importing the
model code of transformers takes longer than all else that happens before the first token. Folders
that hold anything else, or are unusual in any way, are loaded by transformers.
"""
