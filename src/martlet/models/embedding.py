"""A token embedding whose rows are read from its file.

An embedding that is also the LM head is in memory once as the head, laid out for products. The copy
that rows are looked up in stays in the file, which the system holds in its cache. It is read, not
looked at through its mapping: for each row that is touched there, the system maps up to 2 MiB
around it, and a few steps would bring the whole of it into memory a second time.
"""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from martlet.models.mapped_pages import MappedPages


class FileEmbedding(nn.Embedding):
    """Looks up what the embedding that it is made from looks up.

    Args:
        embedding: One whose weight lies in a mapped file.
        path: The file; it stays open.
        offset: Where in it the weight begins, in bytes.
    """

    def __init__(self, embedding: nn.Embedding, path: Path, offset: int) -> None:
        super().__init__(
            embedding.num_embeddings,
            embedding.embedding_dim,
            padding_idx=embedding.padding_idx,
            _weight=embedding.weight,
            _freeze=True,
        )
        self._path = path
        self._offset = offset
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def forward(self, input: Tensor) -> Tensor:
        """Token ids `[..., T] -> [..., T, D]`.

        Raises:
            IndexError: If an id is not in the vocabulary.
            OSError: If the file ends early: it was overwritten while it was in use.
        """
        ids = input.reshape(-1).tolist()
        rows = self.weight.new_empty(len(ids), self.embedding_dim)
        self.read(ids, rows.view(torch.uint8).numpy())
        return rows.view(*input.shape, -1)

    def read(self, token_ids: Sequence[int], rows: npt.NDArray[np.uint8]) -> None:
        """Reads the vectors of some tokens.

        Args:
            token_ids: T ids.
            rows: `[T, D * bytes of a value]`, written.

        Raises:
            IndexError, OSError: As `forward`.
        """
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self.num_embeddings:
            raise IndexError(f"token ids must be from 0 to {self.num_embeddings - 1}")
        for row, token_id in zip(rows, token_ids, strict=True):
            if os.preadv(self._descriptor, [row], self._offset + token_id * len(row)) < len(row):
                raise OSError(f"{self._path} became shorter while it was in use")


def read_from_file(embedding: nn.Embedding, pages: MappedPages) -> FileEmbedding | None:
    """The same embedding, read from the file that it is mapped from; None if that cannot be."""
    origin = pages.origin(embedding.weight) if embedding.weight.is_contiguous() else None
    if origin is None or not hasattr(os, "preadv"):
        return None
    ends = torch.tensor([0, embedding.num_embeddings - 1])
    try:
        candidate = FileEmbedding(embedding, *origin)
        # What is mapped may no longer be what has the file's name.
        return candidate if torch.equal(candidate(ends), embedding(ends)) else None
    except OSError:
        return None
