"""Files that clients sent, and those that batches made."""

import asyncio
import time
from pathlib import Path
from typing import Literal, cast, get_args
from uuid import uuid4

from fastapi import Request

from martlet.errors import InputError, ParameterError, ResourceError
from martlet.serve.batches.database import Database
from martlet.serve.batches.record import UNFINISHED
from martlet.serve.batches.shelf import BATCHES, FILES, Json, Order, Page
from martlet.serve.batches.upload import UploadForm

_Uploaded = Literal["batch", "fine-tune"]
Purpose = _Uploaded | Literal["batch_output"]


class FileStore:
    """The files of a server.

    Args:
        database: Knows where they lie.
        max_file_bytes: A larger one is refused.
    """

    def __init__(self, database: Database, *, max_file_bytes: int) -> None:
        self._database = database
        self._max_file_bytes = max_file_bytes

    async def upload(self, request: Request) -> Json:
        """Keeps the file of a form, and returns what is known of it.

        Raises:
            MartletError: As `UploadForm.read`; if its purpose is unknown; if the disk is full.
        """
        await self._database.do(lambda _: None)  # makes the folder, and takes its lock
        file_id = f"file-{uuid4().hex}"
        path = self._database.file_path(file_id)
        try:
            with path.open("xb") as target:
                form = UploadForm(target=target)
                await form.read(request, max_file_bytes=self._max_file_bytes)
            purpose = _checked_purpose(form)
            body = file_body(file_id, path, filename=form.filename or "", purpose=purpose)
            await self._database.do(lambda connection: FILES.put(connection, body))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ResourceError(f"the file cannot be kept: {error.strerror}") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return body

    async def get(self, file_id: str) -> Json:
        """What is known of a file; raises NotFoundError for none."""
        return await self._database.do(lambda connection: FILES.get(connection, file_id))

    async def page(
        self, *, limit: int, after: str | None, order: Order, purpose: str | None
    ) -> Page:
        """Some of the files; see `Shelf.page`."""
        where = None if purpose is None else {"purpose": purpose}
        return await self._database.do(
            lambda connection: FILES.page(
                connection, limit=limit, after=after, order=order, where=where
            )
        )

    async def path_of(self, file_id: str) -> Path:
        """Where the content of a file lies; raises NotFoundError for none."""
        await self.get(file_id)
        return self._database.file_path(file_id)

    async def delete(self, file_id: str) -> None:
        """Forgets a file.

        Raises:
            NotFoundError: If there is none.
            InputError: If a batch that is not finished reads it.
        """
        path = await self.path_of(file_id)
        for batch in await self._database.do(BATCHES.all):
            if batch["input_file_id"] == file_id and batch["status"] in UNFINISHED:
                raise InputError(f"the batch {batch['id']} reads {file_id}; cancel the batch first")
        await self._database.do(lambda connection: FILES.remove(connection, file_id))
        await asyncio.to_thread(path.unlink, missing_ok=True)


def file_body(file_id: str, path: Path, *, filename: str, purpose: Purpose) -> dict[str, object]:
    """What OpenAI's clients read of a file."""
    return {
        "id": file_id,
        "object": "file",
        "bytes": path.stat().st_size,
        "created_at": int(time.time()),
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }


def _checked_purpose(form: UploadForm) -> Purpose:
    if form.filename is None:
        raise ParameterError("the form holds no file", param="file")
    if form.num_bytes == 0:
        raise ParameterError("the file is empty", param="file")
    unknown = set(form.fields) - {"purpose"}
    if any(name.startswith("expires_after") for name in unknown):
        raise ParameterError(
            "expires_after is not supported: files are kept until they are deleted",
            param="expires_after",
        )
    if unknown:
        raise ParameterError(f"unknown field {min(unknown)!r}; known: file, purpose")
    given = form.fields.get("purpose")
    if given not in get_args(_Uploaded):
        raise ParameterError(
            f"purpose must be 'batch' or 'fine-tune', not {given!r}", param="purpose"
        )
    return cast(Purpose, given)
