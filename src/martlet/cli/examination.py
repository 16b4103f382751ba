"""What `martlet check` shows: figures and findings, a row with its mask, a clean copy."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from martlet.errors import DataError, InputError, NotFoundError
from martlet.models.context import context_limit
from martlet.models.folder import open_folder
from martlet.models.pretrained import load_config
from martlet.models.resolve import resolve
from martlet.text.tokenizer import Tokenizer
from martlet.train.config import DataConfig
from martlet.train.doctor import Diagnosis, Finding, examine
from martlet.train.encoding import Encoder
from martlet.train.example import Origin, Preference
from martlet.train.lessons import MAX_LENGTH
from martlet.train.sources import Source, read_source

_NUM_SHOWN = 8
"""Rows that a line names."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Rows that were looked at, and what was found."""

    training: tuple[Source, ...]
    tokenizer: Tokenizer
    diagnosis: Diagnosis

    @classmethod
    def of(
        cls, data: Sequence[str], model: str, config: DataConfig, chat_template: Path | None
    ) -> "Examination":
        """Reads and examines files.

        Raises:
            NotFoundError, ModelError, InputError: If a file or the model cannot be read.
        """
        folder = open_folder(resolve(model))
        template = None if chat_template is None else chat_template.read_text(encoding="utf-8")
        tokenizer = Tokenizer.load(folder.path, chat_template=template)
        limit = context_limit(load_config(folder, trust_remote_code=False))
        training = tuple(read_source(name, config) for name in data)
        validation = [] if config.validation is None else [read_source(config.validation, config)]
        diagnosis = examine(
            training,
            validation,
            tokenizer,
            max_length=config.max_length or min(MAX_LENGTH, limit),
        )
        return cls(training=training, tokenizer=tokenizer, diagnosis=diagnosis)

    def tell(self, *, as_json: bool) -> None:
        """Prints figures and findings."""
        diagnosis = self.diagnosis
        if as_json:
            values = {**asdict(diagnosis), "is_sound": diagnosis.is_sound}
            values["lengths"] = {
                f"p{share}": diagnosis.length_at(share / 100) for share in (50, 90, 99, 100)
            }
            print(json.dumps(values, ensure_ascii=False))
            return
        console = Console(stderr=True)
        learned = diagnosis.num_targets / max(1, diagnosis.num_tokens)
        console.print(
            f"{diagnosis.num_rows:,} rows, {diagnosis.num_examples:,} to learn from, "
            f"{diagnosis.num_tokens:,} tokens, {learned:.0%} of them learned; half have up to "
            f"{diagnosis.length_at(0.5):,} tokens, 99% up to {diagnosis.length_at(0.99):,}",
            highlight=False,
        )
        if diagnosis.findings:
            console.print(table_of(diagnosis.findings))
        else:
            console.print("[green]nothing found[/]")

    def show(self, row: int) -> None:
        """Prints a row as the model sees it; what is learned stands in green and in brackets.

        Raises:
            NotFoundError: If no file has such a row.
        """
        examples = [
            each for source in self.training for each in source.examples if each.origin.row == row
        ]
        if not examples:
            raise NotFoundError(f"no row {row} that can be read")
        encoder, console = Encoder(self.tokenizer), Console()
        for example in examples:
            if isinstance(example, Preference):
                raise InputError("--show draws rows to learn replies from, and this is a pair")
            for each in encoder.encode(example):
                text = Text()
                was_target = False
                for token_id, is_target in zip(each.token_ids, each.is_target, strict=True):
                    if is_target != was_target:
                        text.append("[" if is_target else "]", style="bold")
                        was_target = is_target
                    word = self.tokenizer.decode([token_id], skip_special_tokens=False)
                    text.append(word, style="green" if is_target else "dim")
                text.append("]" if was_target else "", style="bold")
                console.print(text, soft_wrap=True)

    def fix(self, path: Path) -> None:
        """Writes the rows that nothing was found against.

        Raises:
            InputError: If the file is there already.
        """
        if path.exists():
            raise InputError(f"{path} is there already; name another file with --fix")
        left_out = {
            origin
            for each in self.diagnosis.findings
            if each.stops or each.kind == "duplicates"
            for origin in each.origins
        }
        kept = [
            row.data
            for source in self.training
            for row in source.rows
            if Origin(path=_path_of(source), row=row.number) not in left_out
        ]
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in kept)
        path.write_text("".join(lines), encoding="utf-8")
        num_rows = sum(len(source.rows) for source in self.training)
        typer.echo(f"{path}: {len(kept):,} of {num_rows:,} rows", err=True)

    def require_sound(self) -> None:
        """Raises DataError if something would spoil a training."""
        stopping = [each for each in self.diagnosis.findings if each.stops]
        if stopping:
            kinds = ", ".join(each.kind for each in stopping)
            raise DataError(f"these rows would spoil a training: {kinds}")


def _path_of(source: Source) -> str:
    if source.examples:
        return source.examples[0].origin.path
    return source.faults[0].path if source.faults else source.name


def table_of(findings: Sequence[Finding]) -> Table:
    """Findings for the terminal: what stops a training in red."""
    table = Table(show_lines=True)
    for column in ("found", "rows", "where", "what to do"):
        table.add_column(column)
    for each in findings:
        rows = ", ".join(str(origin.row) for origin in each.origins[:_NUM_SHOWN])
        more = ", …" if len(each.origins) > _NUM_SHOWN else ""
        found = Text(each.kind, style="red" if each.stops else "yellow")
        if each.detail:
            found.append(f"\n{each.detail}", style="dim")
        table.add_row(found, f"{len(each.origins):,}", rows + more, each.advice)
    return table
