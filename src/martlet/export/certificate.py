"""What merging or quantising cost, measured by the serving engine on the same rows.

Both models answer in fp32, so that what differs is what was written, not how it is rounded while it
is computed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from martlet.engine.config import EngineConfig
from martlet.engine.engine import Engine
from martlet.errors import CertificateError
from martlet.export.weights import rejected_name, write_json
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.load import load_model
from martlet.models.rejected import CERTIFICATE_NAME

MAX_ROW_TOKENS = 512
"""Of a row, so many tokens are compared at most."""
MAX_LOGIT_BYTES = 2 << 30
"""Of one model's logits, which wait in memory for the other's: more rows are left out."""
_BLOCK_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What passes."""

    max_kl: float
    """Mean KL(before || after) of a position, in nats."""
    min_top1_agreement: float
    """Share of positions at which both put the same token first."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A model before and after, compared at every position of the rows."""

    before: str
    after: str
    rows: str
    """Where they come from."""
    num_rows: int
    num_left_out: int
    """Rows that were not compared, since the logits of those before them fill the memory."""
    num_tokens: int
    top1_agreement: float
    mean_kl: float
    max_logit_difference: float
    perplexity_before: float
    perplexity_after: float
    limits: Limits
    passed: bool
    reason: str
    """Why it failed; empty if it passed."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The figures and what passes, a line each."""
        limits = self.limits
        rows = f"{self.num_rows} ({self.rows})"
        if self.num_left_out:
            rows += f", {self.num_left_out:,} more left out"
        return (
            f"before             {self.before}",
            f"after              {self.after}",
            f"rows               {rows}, {self.num_tokens:,} tokens",
            f"top-1 agreement    {self.top1_agreement:.2%}  "
            f"(at least {limits.min_top1_agreement:.2%})",
            f"mean KL            {self.mean_kl:.3g} nats  (at most {limits.max_kl:g})",
            f"largest difference {self.max_logit_difference:.3g} of a logit",
            f"perplexity         {self.perplexity_before:.4f} -> {self.perplexity_after:.4f}",
            f"certificate        {'passed' if self.passed else 'FAILED: ' + self.reason}",
        )

    def write(self, folder: Path) -> None:
        """Writes certificate.json into a folder."""
        write_json(folder / CERTIFICATE_NAME, asdict(self))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, with an adapter on it or without."""

    name: str
    """What the certificate calls it."""
    folder: ModelFolder
    adapter: Path | None = None


def certify(
    before: Subject,
    after: Subject,
    rows: Sequence[tuple[int, ...]],
    *,
    source: str,
    limits: Limits,
    report: Callable[[int, int], None],
) -> Certificate:
    """Compares two models, one after the other in memory.

    Args:
        rows: Token ids, at least two a row. The first ones are compared, as many as
            `MAX_LOGIT_BYTES` allows.
        source: Where the rows come from, in words.
        report: Called with the rows that were answered, by both models, and all of them.

    Raises:
        UnsupportedArchitectureError: If the engine cannot run them.
    """
    expected = _affordable_logits(before, rows, lambda done: report(done, 2 * len(rows)))
    num_rows = len(expected)
    comparison = _Comparison()
    answer = _answerer(after)
    for number, row in enumerate(rows[:num_rows], start=1):
        comparison.add(row, expected.popleft(), answer(row))
        report(num_rows + number, 2 * num_rows)
    return comparison.certificate(
        before.name,
        after.name,
        num_rows=num_rows,
        num_left_out=len(rows) - num_rows,
        source=source,
        limits=limits,
    )


def require(certificate: Certificate, draft: Path, out: Path) -> None:
    """Writes the certificate; a folder that failed gets another name than was asked for.

    Raises:
        CertificateError: If it failed. The folder is then `out` with `.rejected` at its end.
    """
    certificate.write(draft)
    if certificate.passed:
        return
    rejected = rejected_name(out)
    draft.rename(rejected)
    raise CertificateError(
        f"{certificate.after} is not what it was made from: {certificate.reason}; it was kept as "
        f"{rejected} to look at, and {out} was not made"
    )


def _affordable_logits(
    subject: Subject, rows: Sequence[tuple[int, ...]], report: Callable[[int], None]
) -> deque[Tensor]:
    """The logits of the first rows, as many as may wait in memory; at least one."""
    answer = _answerer(subject)
    logits: deque[Tensor] = deque()
    num_bytes = 0
    for row in rows:
        logits.append(answer(row))
        report(len(logits))
        num_bytes += logits[-1].nbytes
        if num_bytes > MAX_LOGIT_BYTES:
            break
    return logits


def _answerer(subject: Subject) -> Callable[[tuple[int, ...]], Tensor]:
    """Loads a model; what it returns makes a row's logits, `[T, V]`, by the engine."""
    model = load_model(
        open_folder(subject.folder.path), dtype=torch.float32, device=torch.device("cpu")
    )
    num_blocks = -(-MAX_ROW_TOKENS // _BLOCK_SIZE)
    engine = Engine(
        model,
        EngineConfig(
            num_blocks=num_blocks,
            block_size=_BLOCK_SIZE,
            max_num_requests=1,
            max_num_batched_tokens=min(MAX_ROW_TOKENS, model.max_packed_tokens or MAX_ROW_TOKENS),
            max_context_tokens=MAX_ROW_TOKENS,
        ),
    )
    adapter = None
    if subject.adapter is not None:
        adapter = engine.adapters.prepare("adapter", subject.adapter)
        engine.adapters.install(adapter)
    return lambda row: engine.logits(row, adapter)


class _Comparison:
    """Adds up what rows tell."""

    def __init__(self) -> None:
        self._num_positions = self._num_scored = self._num_same = 0
        self._kl = self._surprise_before = self._surprise_after = 0.0
        self._largest = 0.0
        self._is_finite = True

    def add(self, row: tuple[int, ...], before: Tensor, after: Tensor) -> None:
        """One row's logits, `[T, V]` each."""
        if not bool(after.isfinite().all()):
            self._is_finite = False
            after = after.nan_to_num(0.0, 0.0, 0.0)
        log_p, log_q = (torch.log_softmax(each.double(), dim=-1) for each in (before, after))
        self._num_positions += len(row)
        self._num_same += int((before.argmax(-1) == after.argmax(-1)).sum())
        self._kl += (log_p.exp() * (log_p - log_q)).sum().item()
        self._largest = max(self._largest, (before - after).abs().max().item())
        following = torch.tensor(row[1:])[:, None]
        self._num_scored += len(row) - 1
        self._surprise_before -= log_p[:-1].gather(1, following).sum().item()
        self._surprise_after -= log_q[:-1].gather(1, following).sum().item()

    def certificate(
        self,
        before: str,
        after: str,
        *,
        num_rows: int,
        num_left_out: int,
        source: str,
        limits: Limits,
    ) -> Certificate:
        kl = max(0.0, self._kl / self._num_positions)
        agreement = self._num_same / self._num_positions
        reason = self._reason(kl, agreement, limits)
        return Certificate(
            before=before,
            after=after,
            rows=source,
            num_rows=num_rows,
            num_left_out=num_left_out,
            num_tokens=self._num_positions,
            top1_agreement=agreement,
            mean_kl=kl,
            max_logit_difference=self._largest,
            perplexity_before=_perplexity(self._surprise_before, self._num_scored),
            perplexity_after=_perplexity(self._surprise_after, self._num_scored),
            limits=limits,
            passed=not reason,
            reason=reason,
        )

    def _reason(self, kl: float, agreement: float, limits: Limits) -> str:
        if not self._is_finite:
            return "it makes logits that are not finite (its dtype is too narrow for its values)"
        reasons = []
        if not kl <= limits.max_kl:
            reasons.append(f"mean KL {kl:.3g} nats, at most {limits.max_kl:g} passes")
        if agreement < limits.min_top1_agreement:
            reasons.append(
                f"top-1 agreement {agreement:.2%}, at least {limits.min_top1_agreement:.2%} passes"
            )
        return "; ".join(reasons)


def _perplexity(surprise: float, num_tokens: int) -> float:
    return float(torch.tensor(surprise / num_tokens, dtype=torch.float64).exp())
