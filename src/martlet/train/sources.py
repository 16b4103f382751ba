"""Files of rows to examples."""

from martlet.batch.rows import read_rows
from martlet.errors import RowError
from martlet.train.example import Completion, Conversation, Example, Origin, Preference


def read_source(path: str) -> tuple[list[Example], str]:
    """Reads a file of rows.

    Returns:
        Its examples, and the file's SHA-256.
    """
    file = read_rows(path)
    examples: list[Example] = []
    for row in file.rows:
        origin = Origin(path=path, row=row.number)
        match row.data:
            case {"messages": list(messages), "chosen": list(chosen), "rejected": list(rejected)}:
                examples.append(
                    Preference(
                        origin=origin,
                        messages=tuple(messages),
                        chosen=tuple(chosen),
                        rejected=tuple(rejected),
                    )
                )
            case {"messages": list(messages)}:
                examples.append(Conversation(origin=origin, messages=tuple(messages)))
            case {"prompt": str(prompt), "completion": str(completion)}:
                examples.append(Completion(origin=origin, prompt=prompt, completion=completion))
            case _:
                raise RowError("no known shape", path=path, line=row.number)
    return examples, file.data_hash
