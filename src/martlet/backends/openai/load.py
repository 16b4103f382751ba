"""From a URL to a backend that answers through it: looked at, compared, told what it cannot do."""

import logging
import os
from dataclasses import replace

import httpx

from martlet.backends.base import DefaultParams, ModelIdentity
from martlet.backends.openai.address import ServerAddress
from martlet.backends.openai.backend import OpenAIBackend
from martlet.backends.openai.courier import Courier
from martlet.backends.openai.pace import Pace
from martlet.backends.openai.parity import check_parity
from martlet.backends.openai.rendering import (
    Renders,
    RendersHere,
    RendersNowhere,
    RendersThere,
)
from martlet.backends.openai.server import LOOK_TIMEOUT_S, Server, look_at
from martlet.backends.options import BackendOptions, refuse_unused
from martlet.errors import ParameterError
from martlet.models.resolve import resolve
from martlet.text.template import read_template
from martlet.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
_UNUSED = (
    "dtype",
    "device",
    "weights",
    "weights_cache",
    "max_num_batched_tokens",
    "kv_memory_gib",
    "kv_dtype",
    "gpu_memory_utilization",
    "prefix_sharing",
    "speculation",
    "block_size",
    "max_loaded_adapters",
    "vllm",
)


def load_openai(model: str, options: BackendOptions) -> OpenAIBackend:
    """Looks at a server and returns what answers through it.

    Args:
        model: `http://host:8000/v1#name`, or a name beside `options.base_url`.

    Raises:
        ParameterError: If an option is the server's own matter.
        UnavailableError: If nothing answers there.
        AuthenticationError: If the server wants another key than `OPENAI_API_KEY` holds.
        NotFoundError: If it has no such model.
        TemplateError: If the tokenizer that was given reads words differently from the server.
    """
    if options.adapters:
        raise ParameterError(
            "a server loads its own adapters; name one that it serves as the model: URL#NAME"
        )
    refuse_unused(options, "openai", unused=_UNUSED, advice="it is the server's own matter")
    if options.chat_template is not None and options.tokenizer is None:
        raise ParameterError("--chat-template needs --tokenizer DIR: a template alone has no words")
    address = ServerAddress.parse(model, options.base_url)
    headers = _headers()
    client = httpx.Client(headers=headers, timeout=LOOK_TIMEOUT_S)
    try:
        server = _with_context(look_at(address, client), options)
        tokenizer = _tokenizer(options)
        renders = choose_rendering(
            server, tokenizer, client, has_own_template=options.chat_template is not None
        )
    except BaseException:
        client.close()
        raise
    _tell_limits(server)
    return OpenAIBackend(
        server,
        Courier(server, headers=headers, pace=Pace(most=options.max_num_requests)),
        renders,
        identity=_identity(server, tokenizer),
        default_params=DefaultParams(source=f"server at {address.base_url}"),
    )


def choose_rendering(
    server: Server,
    tokenizer: Tokenizer | None,
    client: httpx.Client,
    *,
    has_own_template: bool,
) -> Renders:
    """Who turns prompts into ids; a tokenizer here must agree with the server's.

    Args:
        client: Belongs to the result from now on.

    Raises:
        ParameterError: If the server would not take its ids.
        TemplateError: If they differ.
    """
    there = RendersThere(server, client)
    if tokenizer is None:
        if server.can.tokenizes:
            return there
        client.close()
        return RendersNowhere()
    if not server.can.takes_token_ids:
        raise ParameterError(
            f"{server.described} takes no token ids, so a tokenizer here cannot decide what the "
            "model reads; leave --tokenizer out"
        )
    if server.can.tokenizes:
        check_parity(tokenizer, there, server, has_own_template=has_own_template)
    there.close()
    return RendersHere(tokenizer)


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE, "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _with_context(server: Server, options: BackendOptions) -> Server:
    asked, known = options.max_context_tokens, server.max_context_tokens
    if asked is None:
        return server
    if known is not None and asked > known:
        raise ParameterError(
            f"a context of {asked} tokens was asked for, and {server.described} allows {known}"
        )
    return replace(server, max_context_tokens=asked)


def _tokenizer(options: BackendOptions) -> Tokenizer | None:
    if options.tokenizer is None:
        return None
    template = options.chat_template
    return Tokenizer.load(
        resolve(options.tokenizer),
        trust_remote_code=options.trust_remote_code,
        chat_template=None if template is None else read_template(template),
    )


def _tell_limits(server: Server) -> None:
    """Says what a run over this server will not have."""
    facts = [
        "its weights have no hash here, so results are tied to its URL and the model's name",
        "what its folder recommends for sampling is not known",
    ]
    if not server.can.keeps_seeds:
        facts.append("seeds are sent, and whether they fix a reply is up to it")
    if server.max_context_tokens is None:
        facts.append("its context is not known: a prompt too long fails by itself (--max-context)")
    logger.warning("%s: %s", server.described, "; ".join(facts))


def _identity(server: Server, tokenizer: Tokenizer | None) -> ModelIdentity:
    return ModelIdentity(
        model=server.name,
        model_hash="",
        template_hash="" if tokenizer is None else tokenizer.template_hash,
        tokenizer_hash="" if tokenizer is None else tokenizer.tokenizer_hash,
        backend="openai",
        dtype="",
    )
