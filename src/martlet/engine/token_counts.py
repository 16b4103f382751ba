"""Which tokens a request has seen, and how often it drew each: what penalties are computed from."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class TokenCounts:
    """Distinct tokens of prompt and reply, with the number of times each is in the reply.

    Grows with the request, so that a step costs as many operations as it brought new tokens.
    """

    def __init__(self) -> None:
        self._num_seen = 0
        self._token_to_index: dict[int, int] = {}
        self._token_ids = np.empty(0, dtype=np.int64)
        self._reply_counts = np.empty(0, dtype=np.float32)

    def catch_up(self, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """Counts the tokens that were not there at the last call."""
        for position in range(self._num_seen, len(token_ids)):
            index = self._index(token_ids[position])
            self._reply_counts[index] += position >= num_prompt_tokens
        self._num_seen = len(token_ids)

    @property
    def token_ids(self) -> npt.NDArray[np.int64]:
        """Distinct tokens of prompt and reply, in the order of their first appearance."""
        return self._token_ids[: len(self._token_to_index)]

    @property
    def reply_counts(self) -> npt.NDArray[np.float32]:
        """How often each of `token_ids` is in the reply."""
        return self._reply_counts[: len(self._token_to_index)]

    def _index(self, token_id: int) -> int:
        index = self._token_to_index.setdefault(token_id, len(self._token_to_index))
        if index == len(self._token_ids):
            self._token_ids = np.concatenate((self._token_ids, np.zeros(index + 64, np.int64)))
            self._reply_counts = np.concatenate(
                (self._reply_counts, np.zeros(index + 64, np.float32))
            )
        self._token_ids[index] = token_id
        return index
