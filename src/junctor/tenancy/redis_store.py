"""The store in Redis (or Valkey): one script, and so one round trip, for each step of a call. Needs the extra `redis`.

{junctor}:keys          id -> record                 {junctor}:hash:DIGEST   the id of a key's digest
{junctor}:a:ACCOUNT     counters of an account       {junctor}:h:ACCOUNT     what is set aside, by the time it ends
{junctor}:s:ACCOUNT     period -> what was spent     {junctor}:w:WORKER      the last booking of a worker
{junctor}:audit         the audit log
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from junctor.errors import MissingExtra
from junctor.tenancy.accounts import PLENTY, Account, Crossing, Refusal, Room, Spent
from junctor.tenancy.keys import KeyRecord
from junctor.tenancy.remote import ANSWER_S, Booking, Entered, RemoteStore
from junctor.tenancy.stores import Entry, Ticket

P = "{junctor}:"
WORKER_S = 86_400
CONNECTIONS = 32
KINDS = ("", "requests", "tokens")

# Numbers in Lua are doubles: exact to nine million US dollars in nano-dollars. What is written goes through HINCRBY, as text.
SHARED = """
local function get(key, field) return tonumber(redis.call('HGET', key, field) or '0') end
local function advance(key, second)
  local last = get(key, 's')
  if last >= second then return last end
  local from = last
  if from < second - 64 then from = second - 64 end
  local gone = {}
  for s = from - 60, second - 61 do gone[#gone + 1] = 'r' .. (s % 64); gone[#gone + 1] = 't' .. (s % 64) end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  local fields, r, t = {}, 0, 0
  for i = 0, 63 do fields[i + 1] = 'r' .. i; fields[i + 65] = 't' .. i end
  local values = redis.call('HMGET', key, unpack(fields))
  for i = 1, 64 do r = r + tonumber(values[i] or '0'); t = t + tonumber(values[i + 64] or '0') end
  redis.call('HSET', key, 's', second, 'r', r, 't', string.format('%.0f', t))
  return second
end
local function drop(key, holds, member)
  local amount = string.match(member, ':(%d+)$')
  if redis.call('ZREM', holds, member) == 1 then redis.call('HINCRBY', key, 'g', '-' .. amount) end
end
local function used(key, holds, period, now)
  if redis.call('HGET', key, 'p') ~= period then redis.call('HSET', key, 'p', period, 'n', 0) end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', now)) do drop(key, holds, member) end
  return get(key, 'n') + get(key, 'g')
end
local function hold(key, holds, member, amount, expires)
  if redis.call('ZADD', holds, 'NX', expires, member) == 1 then redis.call('HINCRBY', key, 'g', amount) end
end
"""

# ARGV: now second tokens ceiling hold expires plenty, then per account: requests tokens budget soft period
ENTER = (
    SHARED
    + """
local now, second, tokens, ceiling = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local END = 4611686018427387904
local rl, tl, bl, soft, out = END, END, END, 0, {}
local count = #KEYS / 2
local worst
local function over(kind, key, letter, i, limit, asked)
  local total, freed, wait = get(key, letter), 0, 60
  for s = second - 60, second do
    freed = freed + get(key, letter .. (s % 64))
    if total - freed + asked <= limit then wait = math.max(0.05, s + 61 - tonumber(now)); break end
  end
  if not worst or wait > worst[4] then worst = {0, kind, i, wait, math.max(0, limit - total)} end
end
for i = 1, count do second = advance(KEYS[i], second) end
for i = 1, count do
  local key, at = KEYS[i], 7 + (i - 1) * 5
  local requests, limit = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local budget, softly = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  if requests >= 0 then
    local left = requests - get(key, 'r') - 1
    if left < 0 then over(1, key, 'r', i, requests, 1) end
    rl = math.min(rl, left)
  end
  if limit >= 0 then
    local left = limit - get(key, 't') - tokens
    if left < 0 then over(2, key, 't', i, limit, tokens) end
    tl = math.min(tl, left)
  end
  local gone = used(key, KEYS[count + i], ARGV[at + 5], now)
  out[i] = gone
  if budget >= 0 then bl = math.min(bl, budget - gone) end
  if softly >= 0 and gone >= softly then soft = 1 end
end
if worst then return {0, worst[2], worst[3], string.format('%.3f', worst[4]), worst[5]} end
if bl == END or bl < ceiling * tonumber(ARGV[7]) then ceiling = 0 end
for i = 1, count do
  local key, at = KEYS[i], 7 + (i - 1) * 5
  if tonumber(ARGV[at + 1]) >= 0 then
    redis.call('HINCRBY', key, 'r' .. (second % 64), 1); redis.call('HINCRBY', key, 'r', 1)
  end
  if tonumber(ARGV[at + 2]) >= 0 and tokens > 0 then
    redis.call('HINCRBY', key, 't' .. (second % 64), ARGV[3]); redis.call('HINCRBY', key, 't', ARGV[3])
  end
  if ceiling > 0 and tonumber(ARGV[at + 3]) >= 0 then hold(key, KEYS[count + i], ARGV[5], ARGV[4], ARGV[6]) end
end
return {1, rl, tl, bl, soft, second, ceiling, unpack(out)}
"""
)

# ARGV: now amount hold expires, then per account: budget period
RESERVE = (
    SHARED
    + """
local count = #KEYS / 2
for i = 1, count do
  local budget = tonumber(ARGV[4 + i * 2 - 1])
  if budget >= 0 then
    local left = budget - used(KEYS[i], KEYS[count + i], ARGV[4 + i * 2], ARGV[1])
    if tonumber(ARGV[2]) > left then return {0, i, math.max(0, left)} end
  end
end
for i = 1, count do
  if tonumber(ARGV[4 + i * 2 - 1]) >= 0 then hold(KEYS[i], KEYS[count + i], ARGV[3], ARGV[2], ARGV[4]) end
end
return {1}
"""
)

# KEYS: the worker, then accounts, holds, sums.
# ARGV: number now cost token-error second, then per account: tokens budget soft period, then the holds to drop
BOOK = (
    SHARED
    + """
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then return {} end
redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400)
local count, out, second = (#KEYS - 1) / 3, {}, tonumber(ARGV[5])
for i = 1, count do
  local key, holds, at = KEYS[1 + i], KEYS[1 + count + i], 5 + (i - 1) * 4
  local period = ARGV[at + 4]
  used(key, holds, period, ARGV[2])
  for m = 6 + count * 4, #ARGV do drop(key, holds, ARGV[m]) end
  local spent = redis.call('HINCRBY', key, 'n', ARGV[3])
  if tonumber(ARGV[3]) ~= 0 then redis.call('HINCRBY', KEYS[1 + 2 * count + i], period, ARGV[3]) end
  if ARGV[4] ~= '0' and tonumber(ARGV[at + 1]) >= 0 and second + 60 >= get(key, 's') then
    redis.call('HINCRBY', key, 't' .. (second % 64), ARGV[4]); redis.call('HINCRBY', key, 't', ARGV[4])
  end
  for kind, mark in ipairs({'v', 'h'}) do
    local limit = tonumber(ARGV[at + 4 - kind])
    if limit >= 0 and spent >= limit and redis.call('HGET', key, mark) ~= period then
      redis.call('HSET', key, mark, period)
      out[#out + 1] = kind; out[#out + 1] = i; out[#out + 1] = spent
    end
  end
end
return out
"""
)
FIND = "local id = redis.call('GET', KEYS[1]) if not id then return false end return redis.call('HGET', KEYS[2], id)"

_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(KeyRecord).decode
_entry = msgspec.json.Decoder(Entry).decode


def _names(accounts: Sequence[Account], *letters: str) -> list[str]:
    return [f"{P}{letter}:{a.name}" for letter in letters for a in accounts]


class RedisStore(RemoteStore):
    """Keys, counters and audit log in a Redis database."""

    def __init__(
        self, url: str, *, on_failure: Literal["refuse", "allow"] = "refuse", wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__(on_failure=on_failure, wall=wall)
        try:
            import redis.asyncio as client
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError
        except ImportError as error:
            raise MissingExtra("Redis needs an extra", field="state.url", fix="pip install 'junctor[redis]'") from error
        self.failures = (RedisError, OSError, TimeoutError)
        pool = client.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=ANSWER_S,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 1),
        )
        self._redis: Any = client.Redis(connection_pool=pool)
        self._scripts = {name: self._redis.register_script(text) for name, text in SCRIPTS.items()}

    async def _find(self, digest: bytes, now: float) -> KeyRecord | None:
        del now
        found = await self._scripts["find"](keys=[f"{P}hash:{digest.hex()}", f"{P}keys"])
        return None if found is None else _record(found)

    async def _enter(self, ticket: Ticket, ids: Sequence[int], now: float) -> Entered:
        hold = f"{ticket.id}:0:{ticket.ceiling}"
        ticket.holds = (hold,)
        given: list[Any] = [now, int(now), ticket.tokens, ticket.ceiling, hold, ticket.expires, PLENTY]
        for a, period in zip(ticket.accounts, ids, strict=True):
            given += (a.requests, a.tokens, a.budget, a.soft, period)
        found = await self._scripts["enter"](keys=_names(ticket.accounts, "a", "h"), args=given)
        if not found[0]:
            refused = ticket.accounts[found[2] - 1]
            return Entered(Refusal(KINDS[found[1]], refused.name, float(found[3]), found[4]))
        return Entered(Room(found[1], found[2], found[3], bool(found[4])), found[5], found[6], tuple(found[7:]))

    async def _reserve(self, ticket: Ticket, amount: int, ids: Sequence[int], now: float) -> Refusal | None:
        hold = f"{ticket.id}:{ticket.reserved}:{amount}"
        ticket.holds = (*ticket.holds, hold)
        given: list[Any] = [now, amount, hold, ticket.expires]
        for a, period in zip(ticket.accounts, ids, strict=True):
            given += (a.budget, period)
        found = await self._scripts["reserve"](keys=_names(ticket.accounts, "a", "h"), args=given)
        return None if found[0] else Refusal("budget", ticket.accounts[found[1] - 1].name, 0.0, found[2])

    async def _book(self, bookings: Sequence[Booking]) -> list[Crossing]:
        pipe = self._redis.pipeline(transaction=False)
        for booking in bookings:
            ids = self._calendar.ids(booking.now)
            given: list[Any] = [booking.number, booking.now, booking.cost, booking.token_error, booking.second]
            for a in booking.accounts:
                given += (a.tokens, a.budget, a.soft, ids[a.period])
            keys = [f"{P}w:{self.worker}", *_names(booking.accounts, "a", "h", "s")]
            await self._scripts["book"](keys=keys, args=[*given, *booking.holds], client=pipe)
        crossed: list[Crossing] = []
        for booking, found in zip(bookings, await pipe.execute(), strict=True):
            for kind, place, spent in zip(found[::3], found[1::3], found[2::3], strict=True):
                crossed.append(Crossing(("", "soft", "hard")[kind], booking.accounts[place - 1].name, spent))
        return crossed

    # what people do

    async def create(self, record: KeyRecord, digest: bytes) -> None:
        """See Store."""
        await self._asked(self._create(record, digest))

    async def _create(self, record: KeyRecord, digest: bytes) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(f"{P}keys", record.id, _encode(record))
            pipe.set(f"{P}hash:{digest.hex()}", record.id)
            pipe.sadd(f"{P}hashes:{record.id}", digest.hex())
            await pipe.execute()

    async def keys(self) -> list[KeyRecord]:
        """See Store."""
        found = await self._asked(self._redis.hgetall(f"{P}keys"))
        return sorted((_record(value) for value in found.values()), key=lambda record: (record.created, record.id))

    async def update(self, record: KeyRecord) -> None:
        """See Store."""
        await self._asked(self._redis.hset(f"{P}keys", record.id, _encode(record)))

    async def rotate(self, record: KeyRecord, digest: bytes, until: float) -> None:
        """See Store."""
        await self._asked(self._rotate(record, digest, until))

    async def _rotate(self, record: KeyRecord, digest: bytes, until: float) -> None:
        earlier = await self._redis.smembers(f"{P}hashes:{record.id}")
        left = int(1000 * (until - self._wall()))
        async with self._redis.pipeline(transaction=True) as pipe:
            for old in earlier:
                name = f"{P}hash:{old.decode()}"
                if left > 0:
                    pipe.pexpire(name, left, lt=True)
                else:
                    pipe.delete(name)
            pipe.set(f"{P}hash:{digest.hex()}", record.id)
            pipe.sadd(f"{P}hashes:{record.id}", digest.hex())
            pipe.hset(f"{P}keys", record.id, _encode(record))
            await pipe.execute()

    async def spent(self, names: Sequence[str]) -> list[Spent]:
        """See Store."""
        return await self._asked(self._spent(names))

    async def _spent(self, names: Sequence[str]) -> list[Spent]:
        found = []
        for name in names:
            rows = await self._redis.hgetall(f"{P}s:{name}")
            now, held = await self._redis.hmget(f"{P}a:{name}", "p", "g")
            known = {int(period): int(nano) for period, nano in rows.items()}
            if now is not None:
                known.setdefault(int(now), 0)
            current = int(now or 0)
            found += [Spent(name, p, known[p], int(held or 0) if p == current else 0) for p in sorted(known)]
        return found

    async def _append(self, entry: Entry) -> None:
        await self._redis.rpush(f"{P}audit", _encode(entry))

    async def entries(self, most: int) -> list[Entry]:
        """See Store."""
        return [_entry(line) for line in await self._asked(self._redis.lrange(f"{P}audit", -most, -1))]

    async def _close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


SCRIPTS = {"enter": ENTER, "reserve": RESERVE, "book": BOOK, "find": FIND}
