"""Everything junctor raises on purpose.

    JunctorError
    ├── UserError                    you asked for something that cannot be done; exit code 2, HTTP 4xx
    │   ├── ConfigError              a configuration file: `field` is the dotted path
    │   ├── TableError               an outcome table: `field` is the file, column or row
    │   ├── ArtefactError            a saved policy cannot be read or does not fit
    │   ├── UnknownName              no policy, estimator, encoder or provider is called that
    │   ├── MissingExtra             the part exists but its optional packages are not installed
    │   ├── RequestError             a request's field is wrong (HTTP 400)
    │   │   ├── RequestTooLarge      the body or prompt is over the limit (HTTP 413)
    │   │   ├── UnknownModel         neither a target nor an alias (HTTP 404)
    │   │   ├── UnknownDecision      no such decision in the journal (HTTP 404)
    │   │   ├── UnknownResponse      no such response is kept for the caller (HTTP 404)
    │   │   ├── NoSuchPath           the gateway serves nothing there (HTTP 404)
    │   │   ├── WrongMethod          the path takes another method (HTTP 405)
    │   │   ├── HeadTooLarge         request line and headers are over the limit (HTTP 431)
    │   │   ├── RequestTimeout       a request began and did not arrive in time (HTTP 408)
    │   │   └── GuardRefused         a guard of the alias will not let it pass (HTTP 400)
    │   ├── Unauthorised             no key, or none that is known (HTTP 401)
    │   ├── Forbidden                the key may not do this (HTTP 403)
    │   ├── RateLimited              too many requests or tokens for now (HTTP 429, Retry-After)
    │   ├── OverBudget               the key or its team has spent its budget (HTTP 429, not worth a retry)
    │   └── NoTarget                 every target was filtered out; `refusals` says why, one by one (HTTP 422)
    ├── ReplyRefused                 a guard of the alias will not let the answer pass (HTTP 502, not worth a retry)
    ├── JournalError                 the journal could not be written or read
    ├── DeadlineExceeded             the request's time ran out (HTTP 504)
    ├── Overloaded                   the gateway is full and sheds this one (HTTP 503, Retry-After)
    ├── StateUnavailable             the store of keys, budgets and limits does not answer (HTTP 503)
    └── UpstreamError                a provider failed; `retryable` says whether another attempt makes sense
        ├── UpstreamRefused          no connection (HTTP 502)
        ├── UpstreamTimeout          connected, but silent for too long (HTTP 504)
        ├── UpstreamStatus           answered with an error status (4xx is passed on, the rest is 502)
        ├── UpstreamGarbage          answered 200 with something that is not the protocol (HTTP 502)
        └── UpstreamBroken           the stream ended before it was finished (HTTP 502)

Each error is one line: what is wrong, where (`field`), and what to do next (`fix`). None carries a secret or a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class JunctorError(Exception):
    """Base of everything raised on purpose; `code` is stable and machine-readable."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, field: str = "", fix: str = "") -> None:
        self.message = message
        self.field = field
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.message}" + (f" ({self.fix})" if self.fix else "")

    @property
    def http_status(self) -> int:
        """The status a gateway answers with."""
        return self.status


class UserError(JunctorError):
    """The caller can mend this."""

    code = "invalid"
    status = 400


class ConfigError(UserError):
    """A configuration file is wrong; `field` is the dotted path in it."""

    code = "invalid_config"


class TableError(UserError):
    """An outcome table cannot be used; `field` is the file, column or row."""

    code = "invalid_table"


class ArtefactError(UserError):
    """A saved policy is missing, damaged, of another version, or does not fit the targets."""

    code = "invalid_artefact"


class UnknownName(UserError):
    """No registered part has this name."""

    code = "unknown_name"
    status = 404


class MissingExtra(UserError):
    """The part is known, but needs an extra: `fix` is the install line."""

    code = "missing_extra"


class RequestError(UserError):
    """A request's field is wrong."""

    code = "invalid_request"


class RequestTooLarge(RequestError):
    """The body is over the configured limit."""

    code = "request_too_large"
    status = 413


class UnknownModel(RequestError):
    """The model is neither a target nor an alias."""

    code = "model_not_found"
    status = 404


class GuardRefused(RequestError):
    """A guard refused the request; `guard` is the one, `findings` say what it saw, never the text itself."""

    code = "content_refused"

    def __init__(self, message: str, *, guard: str, findings: Sequence[str] = (), field: str = "", fix: str = "") -> None:
        self.guard = guard
        self.findings = tuple(findings)
        super().__init__(message, field=field, fix=fix)


class UnknownDecision(RequestError):
    """The journal holds no decision of this id."""

    code = "decision_not_found"
    status = 404


class UnknownResponse(RequestError):
    """No response of this id is kept for this caller."""

    code = "response_not_found"
    status = 404


class NoSuchPath(RequestError):
    """The gateway serves nothing under this path."""

    code = "not_found"
    status = 404


class WrongMethod(RequestError):
    """The path is there, but takes another method."""

    code = "method_not_allowed"
    status = 405


class HeadTooLarge(RequestError):
    """Request line and headers are over the limit."""

    code = "request_head_too_large"
    status = 431


class RequestTimeout(RequestError):
    """A request began and did not arrive in time."""

    code = "request_timeout"
    status = 408


class Unauthorised(UserError):
    """There is no key, or it is not one of ours, or it is revoked."""

    code = "invalid_api_key"
    status = 401


class Forbidden(UserError):
    """The key is good, but not for this."""

    code = "not_allowed"
    status = 403


class RateLimited(UserError):
    """Over a limit of requests or tokens; `retry_after_s` is when there will be room again."""

    code = "rate_limit_exceeded"
    status = 429

    def __init__(self, message: str, *, retry_after_s: float, field: str = "", fix: str = "") -> None:
        self.retry_after_s: float | None = retry_after_s
        super().__init__(message, field=field, fix=fix)


class OverBudget(UserError):
    """The budget is spent, or what is left is less than this call may cost. Trying again does not help."""

    code = "insufficient_quota"
    status = 429


class NoTarget(UserError):
    """No target can take the request; `refusals` maps each target id to its reason."""

    code = "no_target"
    status = 422

    def __init__(self, message: str, *, refusals: Mapping[str, str], field: str = "", fix: str = "") -> None:
        self.refusals = dict(refusals)
        super().__init__(message, field=field, fix=fix)

    def __str__(self) -> str:
        reasons = "; ".join(f"{target}: {why}" for target, why in self.refusals.items())
        return super().__str__() + (f" [{reasons}]" if reasons else "")


class ReplyRefused(JunctorError):
    """A guard refused what the upstream answered. The caller did nothing wrong, and asking again is paid for again.

    `guard` is the one, `findings` say what it saw, never the text itself.
    """

    code = "reply_refused"
    status = 502

    def __init__(self, message: str, *, guard: str, findings: Sequence[str] = (), field: str = "", fix: str = "") -> None:
        self.guard = guard
        self.findings = tuple(findings)
        super().__init__(message, field=field, fix=fix)


class JournalError(JunctorError):
    """The journal could not be written or read."""

    code = "journal"


class DeadlineExceeded(JunctorError):
    """The request's time ran out before an answer was complete."""

    code = "deadline_exceeded"
    status = 504


class Overloaded(JunctorError):
    """As many requests as the gateway may hold are waiting already; `retry_after_s` is a guess at when to come back."""

    code = "overloaded"
    status = 503

    def __init__(self, message: str, *, retry_after_s: float = 1.0, field: str = "", fix: str = "") -> None:
        self.retry_after_s: float | None = retry_after_s
        super().__init__(message, field=field, fix=fix)


class StateUnavailable(JunctorError):
    """The store of keys, budgets and limits does not answer, and the configuration says to refuse then."""

    code = "state_unavailable"
    status = 503


class UpstreamError(JunctorError):
    """A provider failed. `target` names the one; `retryable` says whether another attempt makes sense."""

    code = "upstream_error"
    status = 502
    retryable: bool = True

    def __init__(
        self, message: str, *, target: str = "", retry_after_s: float | None = None, field: str = "", fix: str = ""
    ) -> None:
        self.target = target
        self.retry_after_s = retry_after_s
        super().__init__(message, field=field or target, fix=fix)


class UpstreamRefused(UpstreamError):
    """No connection could be made."""

    code = "upstream_refused"


class UpstreamTimeout(UpstreamError):
    """Connected, but silent for too long."""

    code = "upstream_timeout"
    status = 504


class UpstreamStatus(UpstreamError):
    """The upstream answered with an error status; 408, 409, 429 and 5xx are retryable."""

    code = "upstream_status"

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int,
        target: str = "",
        retry_after_s: float | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(message, target=target, retry_after_s=retry_after_s)
        self.upstream_status = upstream_status
        self.body = body
        self.retryable = upstream_status in (408, 409, 429) or upstream_status >= 500

    @property
    def http_status(self) -> int:
        """A client error is the caller's to mend and is passed on; everything else is a bad gateway.

        401 and 403 speak of the gateway's own key, not of the caller's, so they are a bad gateway too.
        """
        if 400 <= self.upstream_status < 500 and self.upstream_status not in (401, 403, 407):
            return self.upstream_status
        return 502


class UpstreamGarbage(UpstreamError):
    """The upstream answered 200 with something that is not the protocol."""

    code = "upstream_garbage"


class UpstreamBroken(UpstreamError):
    """The stream ended before it was finished; never retried silently after the first byte."""

    code = "upstream_broken"
