"""The items of a response while they grow, and the events that tell of it."""

from collections.abc import Mapping, Sequence

from martlet.serve.replies.common import Json

Call = Mapping[str, object]


class OutputItems:
    """Messages and calls of functions, in the order in which the model makes them.

    One item is open at a time; what comes of another kind closes it. Each method returns the
    events of what it did, without their numbers.

    Args:
        reply_id: Items are named after it.
    """

    def __init__(self, reply_id: str) -> None:
        self.finished: list[Json] = []
        """Items that will not change any more."""
        self._reply_id = reply_id
        self._item: dict[str, object] | None = None
        self._text = ""
        """Of the open item: its words, or its arguments."""
        self._scores: list[Json] = []
        self._call_index: object = None

    def say(self, text: str, scores: Sequence[Json] = ()) -> list[Json]:
        """The next words of a message, with the scores of their tokens."""
        if not text and not scores:
            return []
        events = [] if self._is_open("message") else [*self.close(), *self._open_message()]
        self._text += text
        self._scores += scores
        delta = self._event("response.output_text.delta", content_index=0, delta=text)
        return [*events, {**delta, "logprobs": scores}]

    def call(self, pieces: Sequence[Call]) -> list[Json]:
        """Pieces of calls, as in a chat's stream: the first of each has its name."""
        return [event for piece in pieces for event in self._grow_call(piece)]

    def close(self, *, is_cut: bool = False) -> list[Json]:
        """Ends the open item, if there is one.

        Args:
            is_cut: Whether the model was stopped in it.
        """
        if self._item is None:
            return []
        events: list[Json] = []
        status = "incomplete" if is_cut else "completed"
        if self._item["type"] == "message":
            part = _part(self._text, self._scores)
            done = self._event("response.output_text.done", content_index=0, text=self._text)
            events.append({**done, "logprobs": self._scores})
            events.append(self._event("response.content_part.done", content_index=0, part=part))
            item = {**self._item, "status": status, "content": [part]}
        else:
            kind, name = "response.function_call_arguments.done", self._item["name"]
            events.append(self._event(kind, name=name, arguments=self._text))
            item = {**self._item, "status": status, "arguments": self._text}
        events.append(self._item_event("done", item))
        self.finished.append(item)
        self._item = None
        return events

    def end(self, *, is_cut: bool) -> list[Json]:
        """Ends the reply; one that said nothing is a message without words."""
        opening = [] if self._item or self.finished else self._open_message()
        return [*opening, *self.close(is_cut=is_cut)]

    def _grow_call(self, piece: Call) -> list[Json]:
        function = piece["function"]
        assert isinstance(function, Mapping)
        events = []
        if not (self._is_open("function_call") and self._call_index == piece["index"]):
            events = [*self.close(), *self._open_call(piece, str(function["name"]))]
        if arguments := str(function["arguments"]):
            self._text += arguments
            kind = "response.function_call_arguments.delta"
            events.append(self._event(kind, delta=arguments))
        return events

    def _open_message(self) -> list[Json]:
        added = self._open(
            {
                "id": f"msg_{self._reply_id}_{len(self.finished)}",
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
        )
        part = self._event("response.content_part.added", content_index=0, part=_part("", ()))
        return [added, part]

    def _open_call(self, piece: Call, name: str) -> list[Json]:
        self._call_index = piece["index"]
        added = self._open(
            {
                "id": f"fc_{self._reply_id}_{len(self.finished)}",
                "type": "function_call",
                "call_id": piece["id"],
                "name": name,
                "arguments": "",
                "status": "in_progress",
            }
        )
        return [added]

    def _open(self, item: dict[str, object]) -> Json:
        self._item, self._text, self._scores = item, "", []
        return self._item_event("added", item)

    def _is_open(self, kind: str) -> bool:
        return self._item is not None and self._item["type"] == kind

    def _item_event(self, what: str, item: Json) -> Json:
        kind = f"response.output_item.{what}"
        return {"type": kind, "output_index": len(self.finished), "item": item}

    def _event(self, kind: str, **fields: object) -> dict[str, object]:
        assert self._item is not None
        place = {"item_id": self._item["id"], "output_index": len(self.finished)}
        return {"type": kind, **place, **fields}


def _part(text: str, scores: Sequence[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(scores)}
