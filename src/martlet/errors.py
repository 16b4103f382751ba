"""Every error that Martlet raises on purpose, in one tree.

A leaf names its HTTP status and its exit code once, here; the server and the command line only
read them. The message of an error says what was given, what is allowed and what to do next.

    MartletError                      500  exit 1   something failed
    ├── InputError                    400  exit 2   what the user gave cannot be used
    │   ├── ParameterError            400  exit 2   a parameter: unknown, or out of range
    │   ├── RowError                  400  exit 2   a row of a file, with its line number
    │   ├── DataError                 400  exit 2   training rows that would spoil a training
    │   ├── PromptTooLongError        400  exit 2   no room is left for a reply
    │   ├── BodyTooLargeError         413  exit 2   a request's body is over the limit
    │   └── TemplateError             400  exit 2   the chat template is missing or refuses
    ├── NotFoundError                 404  exit 3   no such file, folder, model or request
    ├── ModelError                    422  exit 4   a model folder cannot be loaded as it is
    │   ├── UnsupportedArchitectureError  422  exit 4  the engine cannot run it; another backend may
    │   └── AdapterError              422  exit 4   an adapter does not fit, or changes nothing
    ├── CertificateError              422  exit 9   a merged or quantised model differs too much
    ├── AuthenticationError           401  exit 2   no key, or an unknown one
    ├── ForbiddenError                403  exit 2   the key, or the operator, does not allow it
    ├── BusyError                     429  exit 8   the queue is full; try again later
    ├── UnavailableError              503  exit 8   the server is stopping, or its engine stopped
    ├── DeadlineError                 504  exit 8   a request took longer than it was given
    ├── MissingExtraError             501  exit 5   an optional dependency is not installed
    ├── ResourceError                 507  exit 6   memory or disk space does not suffice
    ├── ParityError                   500  exit 9   what was trained is not what is served
    ├── EngineError                   500  exit 7   a step failed, and its requests with it
    └── Interrupted                   499  exit 130 a run was stopped; all computed is kept
"""

from typing import ClassVar


class MartletError(Exception):
    """The root: catching it catches all that Martlet raises on purpose."""

    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles by class, message and fields: leaves need not take their message alone."""
        return _restored, (type(self), *self.args), self.__dict__


def _restored(kind: type[MartletError], *args: object) -> MartletError:
    return kind.__new__(kind, *args)


class InputError(MartletError):
    """What the user gave cannot be used."""

    http_status = 400
    exit_code = 2


class ParameterError(InputError):
    """A parameter is unknown, out of its range, or contradicts another.

    Args:
        message: What was given, what is allowed, what to do.
        param: The parameter's name, where a caller may want to point at it.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class RowError(InputError):
    """A row of a data file is not usable.

    Args:
        reason: What is wrong with the row, and what would be right.
        path: The file, as the user named it.
        line: The row's number in the file, counted from 1.
    """

    def __init__(self, reason: str, *, path: str, line: int) -> None:
        super().__init__(f"{path}, line {line}: {reason}")
        self.reason = reason
        self.path = path
        self.line = line


class DataError(InputError):
    """Training rows were looked at, and would spoil a training."""


class PromptTooLongError(InputError):
    """A prompt leaves no room for a reply in the model's context."""


class BodyTooLargeError(InputError):
    """The body of a request is larger than the server takes."""

    http_status = 413


class TemplateError(InputError):
    """The chat template is missing, broken, or refuses the messages."""


class NotFoundError(MartletError):
    """No such file, folder, model or request."""

    http_status = 404
    exit_code = 3


class ModelError(MartletError):
    """A model folder cannot be loaded as it is."""

    http_status = 422
    exit_code = 4


class UnsupportedArchitectureError(ModelError):
    """The engine cannot run a model's architecture; the `transformers` backend may."""


class AdapterError(ModelError):
    """An adapter does not fit its base, or was not seen to change anything."""


class CertificateError(MartletError):
    """A merged or quantised model differs from what it was made from by more than is allowed."""

    http_status = 422
    exit_code = 9


class AuthenticationError(MartletError):
    """No key was given, or it is not known."""

    http_status = 401
    exit_code = 2


class ForbiddenError(MartletError):
    """The key, or whoever runs the server, does not allow what was asked."""

    http_status = 403
    exit_code = 2


class BusyError(MartletError):
    """The queue is full.

    Args:
        message: What is full.
        retry_after: Seconds after which another try makes sense.
    """

    http_status = 429
    exit_code = 8

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(MartletError):
    """The server is stopping, or its engine has stopped: another one, or a later try, may do."""

    http_status = 503
    exit_code = 8


class DeadlineError(MartletError):
    """A request took longer than it was given."""

    http_status = 504
    exit_code = 8


class MissingExtraError(MartletError):
    """An optional dependency is not installed.

    Args:
        feature: What the user asked for, as a noun phrase.
        extra: The extra of the package that brings it.
    """

    http_status = 501
    exit_code = 5

    def __init__(self, feature: str, *, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'martlet[{extra}]'")
        self.feature = feature
        self.extra = extra


class ResourceError(MartletError):
    """Memory or disk space does not suffice."""

    http_status = 507
    exit_code = 6


class ParityError(MartletError):
    """Two ways to compute the same, such as training and serving, do not agree."""

    exit_code = 9


class EngineError(MartletError):
    """A step of the engine failed; the requests that were in it failed with it."""

    exit_code = 7


class Interrupted(MartletError):
    """The user stopped a run; everything computed so far is kept."""

    http_status = 499
    exit_code = 130
