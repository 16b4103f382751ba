"""Models that a merge or a quantisation spoiled: their certificate says so."""

import json
from pathlib import Path

from martlet.errors import ModelError

CERTIFICATE_NAME = "certificate.json"


def refuse_rejected(folder: Path) -> None:
    """Refuses to run a folder that failed its certificate, whatever it is called by now.

    Raises:
        ModelError: If it did.
    """
    path = folder / CERTIFICATE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(content, dict) and content.get("passed") is False:
        raise ModelError(
            f"{folder} failed its certificate when it was made: {content.get('reason')}; make it "
            f"anew, or remove {path} to use it all the same"
        )
