"""Which target served a conversation last, and what its cache is worth.

An upstream that has read the beginning of a prompt a moment ago reads it again for less (`price.cached_input_usd_per_mtok`).
Going elsewhere with the next turn throws that away. What is remembered of a session is small (no text), bounded in number, and
forgotten after the time that caches live; it is known to one worker only.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from junctor.engine.filters import CHARS_PER_TOKEN, characters
from junctor.engine.run import Run
from junctor.journal import OutcomeRecord
from junctor.sections import StickySection
from junctor.types import Request, Target

CONVERSATION = "conversation"
HEAD_CHARS = 1024
"""So much of a turn is read to recognise it: with its length that tells conversations apart, and keeps long prompts cheap."""
Named = tuple[str | int, ...]
PENDING = 65_536
MOST_TOKENS_PER_CHARACTER = 1.5


class Session(Struct, gc=False):
    """The last turn of a conversation: who served it (and which deployment), when, and how large it was.

    `input_tokens` as the upstream counted them, None where it did not say; `characters` of the same prompt, by our own count.
    """

    target: str
    deployment: str
    at: float
    characters: int
    input_tokens: float | None
    output_tokens: float


class Sessions:
    """The conversations of one alias. `clock` gives monotonic seconds."""

    def __init__(self, section: StickySection, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.by, self.ttl_s, self.margin, self.most = section.by, section.ttl_s, section.margin, section.most
        self._clock = clock
        self._known: OrderedDict[int, Session] = OrderedDict()
        self._pending: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def inherit(self, old: Sessions) -> None:
        """Go on with what another one knows, when a configuration is read again; both go on while old calls end."""
        if old.by == self.by:
            self._known, self._pending = old._known, old._pending

    def __len__(self) -> int:
        return len(self._known)

    def named(self, request: Request) -> Named:
        """What names the request's session, apart for every tenant; () when it belongs to none."""
        if request.session:
            return request.tenant, request.session
        if self.by == CONVERSATION:
            return _opening(request)
        found: Any = request.labels.get(self.by) or request.params.get(self.by)
        return (request.tenant, found[:HEAD_CHARS]) if isinstance(found, str) and found else ()

    def key(self, request: Request) -> int | None:
        """What its session is known by in this process, without a text; None when it belongs to none."""
        named = self.named(request)
        return hash(named) if named else None

    def digest(self, request: Request) -> str:
        """What its session is known by in every process; "" when it belongs to none."""
        named = self.named(request)
        if not named:
            return ""
        return hashlib.blake2b("\0".join(map(str, named)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def is_new(self, key: int | None) -> bool:
        """Whether this worker has never heard of a session; one whose cache is gone by now is not new."""
        return key is not None and key not in self._known

    def find(self, key: int | None) -> Session | None:
        """The session, unless what was cached of it is gone by now."""
        found = None if key is None else self._known.get(key)
        if found is None or self._clock() - found.at > self.ttl_s:
            return None
        return found

    def tokens(self, request: Request) -> float | None:
        """Tokens in the prompt, reckoned from what the upstream counted in this session's last turn; None: not known.

        What was added since is taken at the rate of the session so far, and never under a token per four characters: a
        conversation in Chinese has one per character, and tools and images count although no character of them is seen.
        """
        known = self.find(self.key(request))
        if known is None or not known.input_tokens or not known.characters:
            return None
        now = characters(request)
        if now <= known.characters:
            return known.input_tokens * now / known.characters
        rate = min(max(known.input_tokens / known.characters, 1 / CHARS_PER_TOKEN), MOST_TOKENS_PER_CHARACTER)
        return known.input_tokens + (now - known.characters) * rate

    def cached_tokens(self, known: Session, size: int) -> float:
        """How much of this prompt, of so many characters, the session's target has read or written before."""
        before = known.characters / CHARS_PER_TOKEN if known.input_tokens is None else known.input_tokens
        grown = max(0, size - known.characters) / CHARS_PER_TOKEN
        return before + min(known.output_tokens, grown)

    def await_end(self, id_: str, key: int, size: int) -> None:
        """Remember whose turn a decision was, and how large, until it ends."""
        self._pending[id_] = key, size
        if len(self._pending) > PENDING:
            self._pending.popitem(last=False)

    def near(self, request: Request, target: str) -> Request:
        """The request, asking for the deployment of this target that served its session last, if it is decided and known."""
        waiting = self._pending.get(request.id)
        known = None if waiting is None else self.find(waiting[0])
        if known is None or not known.deployment or known.target != target:
            return request
        return msgspec.structs.replace(request, near=known.deployment)

    def ended(self, run: Run, record: OutcomeRecord) -> None:
        """Hear of the end of a run: whoever answered has the prompt in its cache now."""
        del run
        waiting = self._pending.pop(record.id, None)
        if waiting is None or record.error:
            return
        last = next((a for a in reversed(record.attempts) if a.target == record.target and not a.error), None)
        if last is None:
            return
        key, size = waiting
        self._known[key] = Session(
            record.target, last.deployment, self._clock(), size, last.outcome.input_tokens, last.outcome.output_tokens or 0.0
        )
        self._known.move_to_end(key)
        while len(self._known) > self.most:
            self._known.popitem(last=False)


def saved_usd(target: Target | None, tokens: float) -> float:
    """What a target charges less for tokens that are in its cache; 0 where no price of cached tokens is known."""
    price = None if target is None else target.price
    if price is None or price.cached_input_usd_per_mtok is None:
        return 0.0
    return max(0.0, tokens * (price.input_usd_per_mtok - price.cached_input_usd_per_mtok) / 1e6)


def _opening(request: Request) -> Named:
    """The tenant, the system prompts before the first user turn, and that turn: what every later turn repeats."""
    named: list[str | int] = [request.tenant]
    for message in request.messages:
        text = message.content if isinstance(message.content, str) else _texts(message.content)
        named += (message.role, len(text), text[:HEAD_CHARS])
        if message.role == "user":
            return tuple(named)
    return ()


def _texts(content: Any) -> str:
    if not isinstance(content, list):
        return ""
    return "\0".join(t for part in content if isinstance(part, dict) and isinstance(t := part.get("text"), str))
