"""`swift deploy` and `swift app-ui`: a server, and a page to talk on."""

from martlet.compat.flags import Flag, FlagTable, Given
from martlet.compat.swift.checkpoint import checkpoint_of
from martlet.compat.swift.running import (
    RUNNING_FLAGS,
    adapter_options,
    engine_options,
    merged_first,
)
from martlet.compat.verbs import Verb

DEPLOY = FlagTable(
    command="swift deploy",
    purpose="Serve a model, and adapters by their names, behind OpenAI's API.",
    flags=(
        *RUNNING_FLAGS,
        Flag(name="host", explanation="Where to listen.", default="127.0.0.1", modern="--host"),
        Flag(name="port", explanation="The port.", kind=int, default=8000, modern="--port"),
    ),
)
APP_UI = FlagTable(
    command="swift app-ui",
    purpose="Talk to a model on a page in the browser.",
    flags=(
        *RUNNING_FLAGS,
        Flag(
            name="server_name",
            explanation="Where to listen.",
            default="127.0.0.1",
            modern="--host",
        ),
        Flag(name="server_port", explanation="The port.", kind=int, default=7860, modern="--port"),
    ),
)


def deploy(given: Given) -> list[Verb]:
    """The modern commands."""
    verbs, checkpoint = merged_first(given, checkpoint_of(given))
    engine = engine_options(given, checkpoint, vllm_takes_adapters=False)
    names = ["--served-model-name", checkpoint.name]
    options = [*adapter_options(checkpoint), *DEPLOY.straight(given), *engine]
    return [*verbs, ["serve", checkpoint.model, *names, *options]]


def app_ui(given: Given) -> list[Verb]:
    """The modern commands."""
    verbs, checkpoint = merged_first(given, checkpoint_of(given))
    engine = engine_options(given, checkpoint, vllm_takes_adapters=False)
    options = [*adapter_options(checkpoint), *APP_UI.straight(given), *engine]
    return [*verbs, ["ui", checkpoint.model, *options]]
