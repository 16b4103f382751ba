"""Plans of a few rows, for the tests."""

from batch.echo_backend import EchoBackend
from martlet.batch.parameters import ParamSources
from martlet.batch.plan import Planner
from martlet.batch.questions import questions_of
from martlet.batch.rows import Row
from martlet.batch.shapes import Wording

ROWS = ({"prompt": "x"}, {"prompt": "y"})


def plan(*rows, backend=None, too_long="error", **given):
    named = [Row(number=i, row_id=f"r{i}", data=data) for i, data in enumerate(rows or ROWS)]
    items = [item for row in named for item in questions_of(row, Wording())]
    sources = ParamSources(verb="generate", given=given)
    planner = Planner(backend=backend or EchoBackend(), sources=sources, too_long=too_long)
    return planner.plan(items)
