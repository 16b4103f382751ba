"""Commands that mend a model's folder, and how to name one."""

from pathlib import Path
from shlex import quote

from martlet.doctor.finding import PIP
from martlet.errors import MartletError, MissingExtraError, ModelError, NotFoundError
from martlet.lora.config import CONFIG_NAME, read_config
from martlet.lora.provenance import Provenance, read_provenance
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.rejected import CERTIFICATE_NAME
from martlet.models.resolve import MODELSCOPE_PREFIX, is_hub_id, resolve
from martlet.models.shard import read_shard

_CACHED = "models--"
"""Begins the folder of a model among the downloads of Hugging Face."""
_WORDS = ("token*", "special*", "*.model", "vocab*", "merges*")
"""The files of a tokenizer."""


def mend(name: str, error: MartletError) -> str:
    """The command for a folder that cannot be opened.

    Args:
        name: As the user named it.
        error: Why it cannot.
    """
    if isinstance(error, MissingExtraError):
        return f"{PIP} install 'martlet[{error.extra}]'"
    if isinstance(error, NotFoundError):
        return _download(name)
    path = resolve(name, may_download=False)
    if (path / CERTIFICATE_NAME).is_file() and "certificate" in str(error):
        return f"less {quote(str(path / CERTIFICATE_NAME))}"
    if (path / CONFIG_NAME).is_file():
        return f"martlet doctor {_base_of(path)} --adapter {quote(f'{path.name}={name}')}"
    if "git lfs pull" in str(error):
        return f"git -C {quote(str(path))} lfs pull"
    if broken := _broken_weights(path):
        return _fetch(path, *map(quote, broken), "--force-download")
    if "JSON" in str(error):
        return _fetch(path, "--include '*.json'", "--force-download")
    return _fetch(path)


def _download(name: str) -> str:
    """Fetches a model under its id; a folder is looked for."""
    repository, _, revision = name.removeprefix(MODELSCOPE_PREFIX).partition("@")
    of_revision = f" --revision {quote(revision)}" if revision else ""
    if name.startswith(MODELSCOPE_PREFIX):
        return f"modelscope download --model {quote(repository)}{of_revision}"
    if is_hub_id(name):
        return f"hf download {quote(repository)}{of_revision}"
    return "find . -name config.json"


def as_argument(base: str, provenance: Provenance | None) -> str:
    """What an adapter was trained on, if its name leads there, else a word to be filled in.

    Args:
        base: As it was named in training; a folder may have moved since.
        provenance: None if a name is all that is known.
    """
    try:
        folder = open_folder(resolve(base, may_download=False))
    except MartletError:
        return quote(base) if is_hub_id(base) else "BASE"
    is_it = provenance is None or provenance.base_hash == folder.model_hash
    return quote(base) if is_it else "BASE"


def _base_of(adapter: Path) -> str:
    try:
        provenance = read_provenance(adapter)
        return as_argument(provenance.base if provenance else read_config(adapter).base_model, None)
    except MartletError:
        return "BASE"


def _broken_weights(folder: Path) -> list[str]:
    """The weight files that must come anew; one that is missing comes by itself."""
    return [path.name for path in sorted(folder.glob("*.safetensors")) if _is_broken(path)]


def _is_broken(weights: Path) -> bool:
    try:
        read_shard(weights)
    except ModelError:
        return True
    return False


def fetch_tokenizer(folder: ModelFolder) -> str:
    """Downloads a tokenizer again, over one that does not go with the model."""
    return _fetch(folder.path, *(f"--include '{each}'" for each in _WORDS), "--force-download")


def _fetch(folder: Path, *options: str) -> str:
    """Downloads files of a model, over those that are there."""
    cached = next((part for part in folder.parts if part.startswith(_CACHED)), None)
    if cached is not None:
        return " ".join(("hf download", cached.removeprefix(_CACHED).replace("--", "/"), *options))
    return " ".join(("hf download ORG/NAME", *options, "--local-dir", quote(str(folder))))
