"""Teach a model to summarise dialogues: QLoRA on DialogSum, on a GPU or a CPU.

    pip install 'martlet[train]'
    python examples/summarize_dialogues.py --model ./Meta-Llama-3-8B-Instruct --out runs/sum

The prompt is raw text with headings; the summary is learned with the model's own end token behind
it, so that a served reply stops by itself.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from martlet.cli.main import ending_well
from martlet.cli.training import run_training
from martlet.train.config import DataConfig, resolve_config
from martlet.train.sources import read_source

DATA = "neil-code/dialogsum-test"
"""A data set of the Hugging Face hub; a file with the same columns will do."""
PROMPT = """
Below is an instruction that describes a task. \
Write a response that appropriately completes the request.

### Instruct: Summarize the below conversation.

{dialogue}

### Output:
"""


def rows_of(data: str) -> Iterator[dict[str, str]]:
    """The rows of a data set as prompts and completions."""
    for row in read_source(data, DataConfig(map=("prompt=dialogue", "reply=summary"))).rows:
        prompt = PROMPT.format(dialogue=row.data["dialogue"])
        yield {"prompt": prompt, "completion": str(row.data["summary"])}


def write_rows(data: str, path: Path) -> None:
    """Writes the rows of a data set where training reads them; the same rows again each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows_of(data))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a folder or a Hugging Face id")
    parser.add_argument("--out", required=True, type=Path, help="the folder of the run")
    parser.add_argument("--data", default=DATA, help=f"rows with dialogue and summary [{DATA}]")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps")
    given = parser.parse_args()
    rows = given.out.with_name(f"{given.out.name}-rows.jsonl")
    write_rows(given.data, rows)
    fields = {
        "data": [str(rows)],
        "model": given.model,
        "out": given.out,
        "validation": "0.05",
        "too_long": "skip",
        "qlora": True,
        "batch_size": 1,
        "accumulation": 4,
        "checkpointing": True,
        "epochs": 1.0,
        **({} if given.max_steps is None else {"max_steps": given.max_steps}),
    }
    run_training(resolve_config(fields), as_json=False)


if __name__ == "__main__":
    ending_well(main)
