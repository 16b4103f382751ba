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


def seed_base(seed: int) -> str:
    """The base of the draws that a user fixed with a seed, the same in Python and over HTTP."""
    return f"seed {seed}"
