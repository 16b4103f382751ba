"""Libraries kept from talking about themselves: what goes wrong is raised."""

import logging
import os
import warnings

_NAMES = ("bitsandbytes", "transformers", "peft", "trl", "accelerate", "datasets")


def quiet_libraries() -> None:
    """Lets only errors of the libraries through; to be called before they are imported."""
    # transformers sets its own logger up when it is imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=f"({'|'.join((*_NAMES, 'torch'))})")
    for name in _NAMES:
        logging.getLogger(name).setLevel(logging.ERROR)
