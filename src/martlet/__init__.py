"""Martlet: train, prove, merge, batch, vote, serve and chat with open language models.

The public Python names are listed here and imported on first use, so that `import martlet` and
`martlet --help` cost nothing.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["LLM", "MartletError", "SamplingParams", "__version__"]

if TYPE_CHECKING:
    from martlet.backends.llm import LLM
    from martlet.engine.params import SamplingParams
    from martlet.errors import MartletError


def __getattr__(name: str) -> object:
    match name:
        case "LLM":
            from martlet.backends.llm import LLM

            return LLM
        case "SamplingParams":
            from martlet.engine.params import SamplingParams

            return SamplingParams
        case "MartletError":
            from martlet.errors import MartletError

            return MartletError
    raise AttributeError(f"module 'martlet' has no attribute {name!r}")
