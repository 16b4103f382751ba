"""The body of `POST /v1/batches`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from martlet.serve.schema.base import RequestModel

Metadata = Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)]


class CreateBatch(RequestModel):
    """A file of requests to answer."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "output_expires_after": "files are kept until they are deleted",
    }

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: Metadata | None = None
