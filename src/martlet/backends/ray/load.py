"""From a model's name to engines on every node of a cluster."""

from dataclasses import replace
from pathlib import Path

from martlet.backends.openai.rendering import RendersHere
from martlet.backends.options import BackendOptions, names_server
from martlet.backends.ray.backend import RayBackend
from martlet.backends.ray.cluster import Demand, connect, demand_of
from martlet.backends.ray.crew import Crew
from martlet.backends.ray.remote import RemoteEngine
from martlet.errors import ParameterError, ParityError
from martlet.models.resolve import DEMO, resolve
from martlet.text.template import read_template
from martlet.text.tokenizer import Tokenizer


def load_ray(model: str, address: str, options: BackendOptions) -> RayBackend:
    """Loads a model on every node of a cluster.

    Args:
        model: A folder that every node has under the same path, a Hugging Face id, `ms:` and a
            ModelScope id, or `demo`.
        address: Of the cluster: `auto`, or `HOST:PORT`.
        options: Of each engine's backend.

    Raises:
        MissingExtraError: If Ray is not installed.
        ParameterError: If a server was named, which needs no engines.
        UnavailableError: If no cluster answers.
        ResourceError: If no node has what an engine takes.
        ParityError: If two nodes have different weights, templates or versions.
        EngineError: If every engine is gone.
        MartletError: As `load_backend` does, on a node.
    """
    if options.backend == "openai" or names_server(model, options):
        raise ParameterError(
            f"{options.base_url or model} is a server, which computes by itself; leave --ray out"
        )
    tokenizer = _tokenizer(model, options)
    disconnect = connect(address)
    try:
        crew = _crew(model, options, demand_of(options))
        try:
            crew.assemble()
            _check_words(tokenizer, crew)
        except BaseException:
            crew.close()
            raise
    except BaseException:
        disconnect()
        raise
    return RayBackend(
        crew,
        RendersHere(tokenizer),
        identity=replace(crew.facts.identity, model=model),
        default_params=crew.facts.default_params,
        on_close=disconnect,
    )


def _crew(model: str, options: BackendOptions, demand: Demand) -> Crew:
    path, own = _everywhere(model), _options_of_engine(options, demand)
    return Crew(demand.seats, lambda seat: RemoteEngine(seat, path, own))


def _options_of_engine(options: BackendOptions, demand: Demand) -> BackendOptions:
    # vLLM finds its device by itself and refuses to be told.
    device = "cuda" if demand.num_gpus else "cpu"
    template = options.chat_template
    return replace(
        options,
        ray=None,
        device=options.device if options.backend == "vllm" else device,
        adapters={name: _everywhere(path) for name, path in options.adapters.items()},
        tokenizer=None if options.tokenizer is None else _everywhere(options.tokenizer),
        chat_template=None if template is None else template.expanduser().absolute(),
    )


def _everywhere(name: str) -> str:
    """A folder's path as actors, which have another working directory, find it."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name != DEMO and path.exists() else name


def _tokenizer(model: str, options: BackendOptions) -> Tokenizer:
    template = options.chat_template
    return Tokenizer.load(
        resolve(options.tokenizer or model, with_code=options.trust_remote_code),
        trust_remote_code=options.trust_remote_code,
        chat_template=None if template is None else read_template(template),
    )


def _check_words(tokenizer: Tokenizer, crew: Crew) -> None:
    identity = crew.facts.identity
    own = (tokenizer.tokenizer_hash, tokenizer.template_hash)
    if own != (identity.tokenizer_hash, identity.template_hash):
        raise ParityError(
            "the tokenizer or chat template here differs from the nodes'; give every machine the "
            "same folder"
        )
