"""Sample policies that decide early, for the tests."""

from collections.abc import Collection, Mapping

from martlet.batch.sample import StoredSample


class UntilTwoAgree:
    """Wants up to `limit` samples, until two of them say the same."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def wanted(self, samples: Mapping[int, StoredSample], /) -> Collection[int]:
        texts = [samples[k].text for k in range(len(samples))]
        return range(self.limit) if len(texts) == len(set(texts)) < self.limit else ()


class FirstShort:
    """Wants up to eight samples, until one has fewer than three tokens."""

    def wanted(self, samples: Mapping[int, StoredSample], /) -> Collection[int]:
        is_decided = any(s.num_tokens < 3 for s in samples.values()) or len(samples) == 8
        return () if is_decided else range(8)


class OneByOne:
    """Wants the next sample only, up to four."""

    def wanted(self, samples: Mapping[int, StoredSample], /) -> Collection[int]:
        return [len(samples)] if len(samples) < 4 else []
