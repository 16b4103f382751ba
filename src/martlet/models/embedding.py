"""A token embedding that stays in its file and holds no pages of it.

An embedding that is also the LM head is in memory once as the head, laid out for products. The copy
that rows are looked up in is the mapped file; with each row the system maps the pages around it, so
that a long prompt would bring most of the file into memory a second time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.mapped_pages import MappedPages

ROWS_AT_ONCE = 64
"""Rows that are looked up before the pages are given back; so few keep what they mapped."""


class MappedEmbedding(nn.Embedding):
    """Looks up what the embedding that it is made from looks up.

    Args:
        embedding: Its weight lies in a mapped file.
        pages: Where the files are mapped.
    """

    def __init__(self, embedding: nn.Embedding, pages: MappedPages) -> None:
        super().__init__(
            embedding.num_embeddings,
            embedding.embedding_dim,
            padding_idx=embedding.padding_idx,
            _weight=embedding.weight,
            _freeze=True,
        )
        self._pages = pages

    def forward(self, input: Tensor) -> Tensor:
        """Token ids `[..., T] -> [..., T, D]`."""
        if input.numel() <= ROWS_AT_ONCE:
            return F.embedding(input, self.weight)
        parts = []
        for ids in input.reshape(-1).split(ROWS_AT_ONCE):
            parts.append(F.embedding(ids, self.weight))
            self._pages.give_back(self.weight)
        return torch.cat(parts).view(*input.shape, -1)
