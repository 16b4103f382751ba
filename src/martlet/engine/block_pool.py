"""The blocks of the key-value pool: who holds which, and which hold a known beginning.

The pool hands out block ids and knows no tensor. A full block may be registered under a key of
everything that its keys and values depend on: the adapter, all tokens before it and its own. A
later request with the same beginning then shares the block instead of computing it again.

    free queue   [ never used | … | registered, least recently used first ]
                   handed out first                        handed out last
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NewType

BlockKey = NewType("BlockKey", bytes)
"""128 bits that stand for a block's tokens and all that came before them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Registration:
    key: BlockKey
    parent: BlockKey
    token_ids: tuple[int, ...]


def root_key(namespace: str) -> BlockKey:
    """The parent of a sequence's first block: one for each adapter and revision."""
    return BlockKey(blake2b(namespace.encode(), digest_size=16).digest())


def block_key(parent: BlockKey, token_ids: Sequence[int]) -> BlockKey:
    """The key of a full block whose predecessor has the key `parent`."""
    return BlockKey(blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest())


class BlockPool:
    """Counts the holders of each block and finds blocks by their content.

    Args:
        num_blocks: Blocks in the pool; ids run from 0.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._key_to_block: dict[BlockKey, int] = {}
        self._registrations: dict[int, _Registration] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds; some may still be found by their content."""
        return len(self._free)

    @property
    def num_registered(self) -> int:
        """Blocks that can be found by their content."""
        return len(self._key_to_block)

    def find(self, key: BlockKey, parent: BlockKey, token_ids: Sequence[int]) -> int | None:
        """The block registered under `key`, if its tokens and its parent really are these."""
        block = self._key_to_block.get(key)
        if block is None:
            return None
        found = self._registrations[block]
        is_same = found.parent == parent and found.token_ids == tuple(token_ids)
        return block if is_same else None

    def is_free(self, block: int) -> bool:
        return self._num_holders[block] == 0

    def kept_blocks(self) -> list[int]:
        """Those that somebody holds or that can be found by their content."""
        return [
            block
            for block, count in enumerate(self._num_holders)
            if count or block in self._registrations
        ]

    def hold(self, block: int) -> None:
        """Adds a holder to a block that was found; it will not be handed out meanwhile."""
        if self._num_holders[block] == 0:
            del self._free[block]
        self._num_holders[block] += 1

    def take(self, count: int) -> list[int] | None:
        """Hands out `count` blocks that nobody holds, or None (and nothing) if there are fewer."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._forget(block)
            self._num_holders[block] = 1
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Takes one holder from each block.

        The last block is freed first: of a sequence that nobody holds, the end is handed out
        before the beginning, which more requests may share.
        """
        for block in reversed(blocks):
            self._num_holders[block] -= 1
            if self._num_holders[block] == 0:
                self._free[block] = None
                if block not in self._registrations:
                    self._free.move_to_end(block, last=False)

    def register(
        self, block: int, key: BlockKey, parent: BlockKey, token_ids: Sequence[int]
    ) -> None:
        """Makes a held, full block findable; if an equal one already is, nothing happens."""
        if key not in self._key_to_block and block not in self._registrations:
            self._key_to_block[key] = block
            self._registrations[block] = _Registration(
                key=key, parent=parent, token_ids=tuple(token_ids)
            )

    def content(self, block: int) -> tuple[int, ...] | None:
        """The tokens that a block is findable by; None if it is not."""
        found = self._registrations.get(block)
        return None if found is None else found.token_ids

    def forget(self, blocks: Iterable[int]) -> None:
        """Makes blocks unfindable: their content was never written."""
        for block in blocks:
            self._forget(block)

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Compares the pool's books with the block tables of all requests.

        Raises:
            AssertionError: If a count, the free queue or the index contradicts the tables.
        """
        num_holders = [0] * self.num_blocks
        for table in block_tables:
            assert len(set(table)) == len(table), f"a table holds a block twice: {table}"
            for block in table:
                num_holders[block] += 1
        assert num_holders == self._num_holders, "holders do not match the block tables"
        free = {block for block, count in enumerate(num_holders) if count == 0}
        assert free == set(self._free), "the free queue does not match the holders"
        assert len(self._key_to_block) == len(self._registrations), "the index has orphans"
        for block, found in self._registrations.items():
            assert self._key_to_block[found.key] == block, f"block {block} is lost in the index"

    def _forget(self, block: int) -> None:
        found = self._registrations.pop(block, None)
        if found is not None:
            del self._key_to_block[found.key]
