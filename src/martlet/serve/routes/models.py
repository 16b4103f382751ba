"""`GET /v1/models`: the base and its adapters."""

from fastapi import APIRouter

from martlet.lora.store import AdapterInfo
from martlet.serve.catalog import Catalog
from martlet.serve.parameters import effective_params
from martlet.serve.service import Service, ServiceDep

router = APIRouter()


@router.get("/v1/models")
async def list_models(service: ServiceDep) -> dict[str, object]:
    """All names that the field `model` may say."""
    cards = [_card(service, name) for name in service.catalog.names]
    return {"object": "list", "data": cards}


@router.get("/v1/models/{model:path}")
async def get_model(model: str, service: ServiceDep) -> dict[str, object]:
    """One of them."""
    return _card(service, model)


def _card(service: Service, name: str) -> dict[str, object]:
    """A model's card, with the parameters that hold where a request names none."""
    defaults = effective_params({}, service.engine.backend.default_params)
    return {**card_of(service.catalog, name), "parameters": defaults.as_json()}


def card_of(catalog: Catalog, name: str) -> dict[str, object]:
    """What is known of a model; adapters carry the proof that they change something.

    Raises:
        NotFoundError: If nothing has that name.
    """
    adapter = catalog.resolve(name)
    card: dict[str, object] = {
        "id": name,
        "object": "model",
        "created": catalog.created,
        "owned_by": "martlet",
        "root": catalog.identity.model,
        "parent": None,
        "max_model_len": catalog.max_context_tokens,
    }
    if adapter is None:
        return card
    info = catalog.adapters[adapter]
    own = {"root": str(info.path), "parent": catalog.base_names[0], "adapter": proof_of(info)}
    return {**card, **own}


def proof_of(adapter: AdapterInfo) -> dict[str, object]:
    """What an adapter showed when it was loaded."""
    return {
        "revision": adapter.revision,
        "tensors": f"{adapter.num_tensors}/{adapter.num_tensors_expected}",
        "probe_kl": adapter.probe_kl,
    }
