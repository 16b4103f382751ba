"""A multipart form with one file, which goes to the disk as it comes in."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from martlet.errors import BodyTooLargeError, InputError, ParameterError
from martlet.serve.settings import MIB

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELD_BYTES = 1024
_FORM_BYTES = 64 * 1024
"""What a form may add to its file: boundaries, headers, fields."""


@dataclass(kw_only=True)
class _Part:
    """A part of a form that is being read."""

    header_name: bytes = b""
    header_value: bytes = b""
    name: str = ""
    is_file: bool = False
    value: bytes = b""


@dataclass(kw_only=True)
class UploadForm:
    """Reads a form; its file is written to `target` meanwhile.

    The parser's callbacks get a whole buffer with the range that counts.
    """

    target: BinaryIO
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """As the client calls the file; None if none came."""
    num_bytes: int = 0
    """Of the file."""
    is_complete: bool = False
    _part: _Part = field(default_factory=_Part)

    async def read(self, request: Request, *, max_file_bytes: int) -> None:
        """Reads the form of a request.

        Raises:
            BodyTooLargeError: If the file is over the limit.
            InputError: If it is no form, or a broken one.
            ParameterError: If a field is too long, or a second file comes.
        """
        try:
            parser = MultipartParser(_boundary_of(request), callbacks=self._callbacks())
            async for chunk in _within(request.stream(), max_file_bytes):
                parser.write(chunk)
        except FormParserError as error:
            raise InputError(f"the form cannot be read: {error}") from error
        if not self.is_complete:
            raise InputError("the form ends in its middle; send it again")

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._take_header_name,
            "on_header_value": self._take_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._part = _Part()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _end_header(self) -> None:
        part = self._part
        if part.header_name.lower() == b"content-disposition":
            _, options = parse_options_header(part.header_value)
            part.name = options.get(b"name", b"").decode(errors="replace")
            part.is_file = b"filename" in options
            if part.is_file:
                self._begin_file(part, options[b"filename"].decode(errors="replace"))
        part.header_name = part.header_value = b""

    def _begin_file(self, part: _Part, filename: str) -> None:
        if part.name != "file" or self.filename is not None:
            raise ParameterError("a form holds one file, in the field 'file'", param=part.name)
        self.filename = filename

    def _end_headers(self) -> None:
        if not self._part.name:
            raise InputError("a part of the form has no name")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.is_file:
            self.num_bytes += self.target.write(data[start:end])
            return
        part.value += data[start:end]
        if len(part.value) > _MAX_FIELD_BYTES:
            raise ParameterError(
                f"{part.name} is longer than {_MAX_FIELD_BYTES} bytes", param=part.name
            )

    def _end_part(self) -> None:
        if not self._part.is_file:
            self.fields[self._part.name] = self._part.value.decode(errors="replace")

    def _end(self) -> None:
        self.is_complete = True


def _boundary_of(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InputError("a file is sent as a multipart form, with 'file' and 'purpose'")
    return options[b"boundary"]


async def _within(chunks: AsyncIterator[bytes], max_file_bytes: int) -> AsyncIterator[bytes]:
    num_bytes = 0
    async for chunk in chunks:
        num_bytes += len(chunk)
        if num_bytes > max_file_bytes + _FORM_BYTES:
            raise BodyTooLargeError(
                f"the file is larger than {max_file_bytes / MIB:g} MiB; send it in parts, or start "
                "the server with a larger --max-file-mb"
            )
        yield chunk
