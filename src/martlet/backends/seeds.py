"""Where the seed of one sample comes from."""

from hashlib import blake2b


def sample_seed(base: str, index: int) -> int:
    """The seed of sample `index` of a prompt, 64 bits.

    Args:
        base: Names the prompt's draws; the same base gives the same samples.
        index: The sample's number among those of the prompt.
    """
    digest = blake2b(f"{base}, {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def given_seed(seed: int, index: int) -> int:
    """The seed of sample `index` of a prompt whose draws a user fixed, in Python and over HTTP.

    Sample 0 has the very seed: whoever asks for one sample at a time, as a run over a server does,
    decides its draws.
    """
    return seed % 2**64 if index == 0 else sample_seed(f"seed {seed}", index)
