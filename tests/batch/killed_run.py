"""A batch in a process of its own, to be killed: `killed_run.py DATA OUT SUBMITTED`.

Each submitted sample is appended to the file SUBMITTED, so that the test can tell what was drawn.
"""

import signal
import sys
from pathlib import Path

from echo_backend import EchoBackend

from martlet.backends.base import SampleRequest
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.task import GENERATE
from martlet.errors import MartletError


def main(data: str, out: str, submitted: str) -> None:
    stop_signals: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: stop_signals.append(number))
    with Path(submitted).open("a", encoding="utf-8") as log:

        def note(request: SampleRequest) -> None:
            log.write(f"{request.request_id}\n")
            log.flush()

        backend = EchoBackend(step_s=0.004, on_submit=note)
        options = JobOptions(data=data, out=Path(out), given_params={"n": 3})
        job = Job.read(GENERATE, options)
        print("ready", flush=True)
        job.run(backend, stop_requested=lambda: bool(stop_signals))


try:
    main(*sys.argv[1:])
except MartletError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
