"""SQS and Kinesis as the queue, and the relay that hands on to them what the outbox holds.

The outbox stays what makes an order durable; the relay moves its messages on, at least once and those of a
customer one after the other. Both keep the order of a customer: SQS by a FIFO queue's message groups, Kinesis
by its partition key. Dead letters are kept in PostgreSQL for every queue, and replayed through the outbox.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from realtime import log
from realtime.database import UNAVAILABLE
from realtime.queue import Message, PostgresQueue, QueueUnavailable, keep_dead_letter

_CONFIG = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 3})
_SQS_BATCH = 10
_STREAM_WINDOW = 500  # records of a shard that are held at a time


class _Body(msgspec.Struct):
    message_id: int
    order_id: UUID
    customer_id: int


_BODY = msgspec.json.Decoder(_Body)


def encode(message: Message) -> bytes:
    """What travels through a queue: ids only, so that no queue holds personal data."""
    body = _Body(message.message_id, message.order_id, message.customer_id)
    return msgspec.json.encode(body, enc_hook=str)


def decode(body: str | bytes, attempts: int, handle: str) -> Message | None:
    """A message as it came; None where it is none of ours."""
    try:
        read = _BODY.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Message(read.message_id, read.order_id, read.customer_id, attempts, handle)


async def _call(act: Callable[..., Any], **arguments: Any) -> Any:
    try:
        return await asyncio.to_thread(act, **arguments)
    except (ClientError, BotoCoreError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        raise QueueUnavailable(code) from None


def _tell_foreign(queue: str) -> None:
    log.event("foreign_message", "error", queue=queue)


class SqsQueue:
    """A FIFO queue of SQS; its redrive policy takes what ends its workers again and again.

    Args:
        url: of the queue.
        pool: for dead letters.
        lease: seconds that a worker has for what it received.
    """

    max_deliveries = 1000
    """Deliveries are counted while the bureau is down, too."""

    def __init__(self, url: str, pool: asyncpg.Pool, lease: float) -> None:
        self._url = url
        self._pool = pool
        self._lease = max(1, round(lease))
        self._sqs = boto3.client("sqs", config=_CONFIG)

    async def receive(self, limit: int) -> list[Message]:
        """See `Queue`. Of a customer's messages those behind the first are given back at once."""
        answer = await _call(
            self._sqs.receive_message,
            QueueUrl=self._url,
            MaxNumberOfMessages=min(limit, _SQS_BATCH),
            VisibilityTimeout=self._lease,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        first: dict[int, Message] = {}
        behind = []
        for raw in answer.get("Messages", ()):
            attempts = int(raw["Attributes"]["ApproximateReceiveCount"])
            message = decode(raw["Body"], attempts, raw["ReceiptHandle"])
            if message is None:
                _tell_foreign("sqs")  # left to the redrive policy
            elif message.customer_id in first:
                behind.append(message)
            else:
                first[message.customer_id] = message
        await self.release(behind, 0, forget=True)
        return list(first.values())

    async def wait(self, seconds: float) -> None:
        """See `Queue`."""
        await asyncio.sleep(seconds)

    async def acknowledge(self, messages: Collection[Message]) -> None:
        """See `Queue`."""
        for part in _parts(messages, _SQS_BATCH):
            entries = [{"Id": str(n), "ReceiptHandle": m.handle} for n, m in enumerate(part)]
            await _call(self._sqs.delete_message_batch, QueueUrl=self._url, Entries=entries)

    async def release(self, messages: Collection[Message], seconds: float, *, forget: bool) -> None:
        """See `Queue`. SQS cannot forget: it rests longer the more often it was in vain."""
        for part in _parts(messages, _SQS_BATCH):
            entries = [
                {
                    "Id": str(n),
                    "ReceiptHandle": m.handle,
                    "VisibilityTimeout": 0 if not seconds else rest_seconds(m.attempts, seconds),
                }
                for n, m in enumerate(part)
            ]
            await _call(self._sqs.change_message_visibility_batch, QueueUrl=self._url, Entries=entries)

    async def bury(self, message: Message, error: str) -> None:
        """See `Queue`."""
        await keep_dead_letter(self._pool, message, error)

    async def close(self) -> None:
        """Nothing is held that would have to be given back."""

    async def publish(self, messages: Collection[Message]) -> list[Message]:
        """Sends these; returns those that arrived."""
        sent: list[Message] = []
        for part in _parts(messages, _SQS_BATCH):
            entries = [
                {
                    "Id": str(n),
                    "MessageBody": encode(m).decode(),
                    "MessageGroupId": str(m.customer_id),
                    "MessageDeduplicationId": str(m.message_id),
                }
                for n, m in enumerate(part)
            ]
            answer = await _call(self._sqs.send_message_batch, QueueUrl=self._url, Entries=entries)
            sent += [part[int(entry["Id"])] for entry in answer.get("Successful", ())]
        return sent


@dataclass
class _Shard:
    """A shard that this worker reads."""

    iterator: str
    attempts: int
    """How often it was begun at this position; a record may be what ended the workers before."""
    pending: deque[tuple[str, Message | None]] = field(default_factory=deque)
    """Records that were read, oldest first, with their sequence numbers, until all before are done."""
    done: set[str] = field(default_factory=set)
    out: set[str] = field(default_factory=set)
    resting: dict[str, float] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    leased_until: float = 0.0
    read_at: float = 0.0


_LEASE_SHARD = """
insert into realtime.stream_positions as p (stream, shard, owner, leased_until)
values ($1, $2, $3, clock_timestamp() + $4::float8 * interval '1 s')
on conflict (stream, shard) do update
set
    owner = excluded.owner,
    leased_until = excluded.leased_until,
    begun = case when p.owner = excluded.owner then p.begun else p.begun + 1 end
where p.owner = excluded.owner or p.leased_until < clock_timestamp()
returning position, begun, ended
"""
_MOVE = """
update realtime.stream_positions
set position = $4, begun = 1
where stream = $1 and shard = $2 and owner = $3
"""
_END_SHARD = (
    "update realtime.stream_positions set ended = true where stream = $1 and shard = $2 and owner = $3"
)
_GIVE_UP = "update realtime.stream_positions set leased_until = '-infinity' where stream = $1 and owner = $2"
_ENDED = "select shard from realtime.stream_positions where stream = $1 and ended"


class KinesisQueue:
    """A stream of Kinesis, its shards shared among the workers; what is done is kept in PostgreSQL.

    Args:
        stream: its name.
        pool: for positions, leases of shards, and dead letters.
        lease: seconds after which others take over the shards of a worker that has died.
    """

    max_deliveries = 10

    def __init__(self, stream: str, pool: asyncpg.Pool, lease: float) -> None:
        self._stream = stream
        self._pool = pool
        self._lease = lease
        self._owner = uuid4()
        self._shards: dict[str, _Shard] = {}
        self._listed_at = -1e9
        self._kinesis = boto3.client("kinesis", config=_CONFIG)

    async def receive(self, limit: int) -> list[Message]:
        """See `Queue`."""
        await self._take_shards()
        found: list[Message] = []
        for name in list(self._shards):
            await self._read(name)
            found += self._due(name, limit - len(found))
        return found

    async def wait(self, seconds: float) -> None:
        """See `Queue`."""
        await asyncio.sleep(seconds)

    async def acknowledge(self, messages: Collection[Message]) -> None:
        """See `Queue`."""
        moved = set()
        for message in messages:
            name, number = message.handle.split("/", 1)
            if shard := self._shards.get(name):
                shard.done.add(number)
                shard.out.discard(number)
                moved.add(name)
        for name in moved:
            await self._move(name)

    async def release(self, messages: Collection[Message], seconds: float, *, forget: bool) -> None:
        """See `Queue`."""
        for message in messages:
            name, number = message.handle.split("/", 1)
            if shard := self._shards.get(name):
                shard.out.discard(number)
                shard.resting[number] = time.monotonic() + seconds
                if not forget:
                    shard.tries[number] = shard.tries.get(number, 0) + 1

    async def bury(self, message: Message, error: str) -> None:
        """See `Queue`."""
        await keep_dead_letter(self._pool, message, error)

    async def publish(self, messages: Collection[Message]) -> list[Message]:
        """Sends these, no two of one customer; returns those that arrived."""
        sent: list[Message] = []
        for part in _parts(messages, 500):
            records = [{"Data": encode(m), "PartitionKey": str(m.customer_id)} for m in part]
            answer = await _call(self._kinesis.put_records, StreamName=self._stream, Records=records)
            sent += [m for m, r in zip(part, answer["Records"], strict=True) if not r.get("ErrorCode")]
        return sent

    async def close(self) -> None:
        """Lets others have the shards at once."""
        await self._pool.execute(_GIVE_UP, self._stream, self._owner)

    async def _take_shards(self) -> None:
        """Leases the shards that nobody has; a split one's children when it is read to its end."""
        now = time.monotonic()
        if now - self._listed_at < self._lease / 3:
            return
        self._listed_at = now
        shards = await self._list_shards()
        names = {shard["ShardId"] for shard in shards}
        ended = {row[0] for row in await self._pool.fetch(_ENDED, self._stream)}
        for shard in shards:
            name = shard["ShardId"]
            parents = {shard.get("ParentShardId"), shard.get("AdjacentParentShardId")} & names
            if name in ended or parents - ended:
                continue
            row = await self._pool.fetchrow(_LEASE_SHARD, self._stream, name, self._owner, self._lease)
            if row is None:
                self._shards.pop(name, None)  # another has it
            elif name in self._shards:
                self._shards[name].leased_until = now + self._lease
            else:
                start = (
                    {"ShardIteratorType": "TRIM_HORIZON"}
                    if row["position"] is None
                    else {
                        "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                        "StartingSequenceNumber": row["position"],
                    }
                )
                answer = await _call(
                    self._kinesis.get_shard_iterator, StreamName=self._stream, ShardId=name, **start
                )
                self._shards[name] = _Shard(
                    answer["ShardIterator"], row["begun"], leased_until=now + self._lease
                )

    async def _list_shards(self) -> list[dict[str, Any]]:
        answer = await _call(self._kinesis.list_shards, StreamName=self._stream)
        shards = answer["Shards"]
        while token := answer.get("NextToken"):
            answer = await _call(self._kinesis.list_shards, NextToken=token)
            shards += answer["Shards"]
        return shards

    async def _read(self, name: str) -> None:
        shard, now = self._shards[name], time.monotonic()
        if now > shard.leased_until:
            del self._shards[name]
            return
        # Where workers have ended again and again one record at a time is read: only one can be at fault.
        suspicious = shard.attempts > self.max_deliveries // 2
        window = 1 if suspicious else _STREAM_WINDOW
        if not shard.iterator or len(shard.pending) >= window or now - shard.read_at < 0.2:
            return  # five reads a second are what a shard allows
        shard.read_at = now
        try:
            answer = await _call(
                self._kinesis.get_records, ShardIterator=shard.iterator, Limit=window - len(shard.pending)
            )
        except QueueUnavailable:
            del self._shards[name]  # the iterator may have expired: begin again at the position
            self._listed_at = -1e9
            raise
        shard.iterator = answer.get("NextShardIterator") or ""
        for record in answer["Records"]:
            number = record["SequenceNumber"]
            message = decode(record["Data"], 1, f"{name}/{number}")
            if message is None:
                _tell_foreign("kinesis")
                shard.done.add(number)
            shard.pending.append((number, message))
        await self._move(name)

    def _due(self, name: str, limit: int) -> list[Message]:
        """Up to `limit` records that may be handled now: the oldest of each customer."""
        shard = self._shards.get(name)
        if shard is None:
            return []
        found: list[Message] = []
        customers: set[int] = set()
        for number, message in shard.pending:
            if len(found) >= limit:
                break
            if message is None or number in shard.done or message.customer_id in customers:
                continue
            customers.add(message.customer_id)
            if number not in shard.out and shard.resting.get(number, 0) <= time.monotonic():
                attempts = shard.attempts + shard.tries.get(number, 0)
                shard.out.add(number)
                found.append(
                    Message(
                        message.message_id, message.order_id, message.customer_id, attempts, message.handle
                    )
                )
        return found

    async def _move(self, name: str) -> None:
        """Keeps the position up to which everything is done."""
        shard = self._shards.get(name)
        if shard is None:
            return  # lost meanwhile
        position = None
        while shard.pending and shard.pending[0][0] in shard.done:
            position, _ = shard.pending.popleft()
            shard.done.discard(position)
            shard.resting.pop(position, None)
            shard.tries.pop(position, None)
        if position is not None:
            shard.attempts = 1
            await self._pool.execute(_MOVE, self._stream, name, self._owner, position)
        if not shard.iterator and not shard.pending:
            await self._pool.execute(_END_SHARD, self._stream, name, self._owner)
            del self._shards[name]
            self._listed_at = -1e9


def rest_seconds(attempts: int, wait: float) -> int:
    """Whole seconds until SQS delivers again: `wait`, and longer the more deliveries there were."""
    return max(1, round(wait), 2 ** min(attempts - 1, 7))


def _parts(messages: Collection[Message], size: int) -> list[list[Message]]:
    whole = list(messages)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


class Relay:
    """Hands on what the outbox holds, until told to stop."""

    def __init__(self, outbox: PostgresQueue, target: SqsQueue | KinesisQueue) -> None:
        self._outbox = outbox
        self._target = target
        self._stopping = False
        self.alive_at = time.monotonic()
        """When both were last reached, by the monotonic clock."""

    def stop(self) -> None:
        """Takes nothing more."""
        self._stopping = True

    async def run(self) -> None:
        """Works until `stop` is called."""
        while not self._stopping:
            try:
                messages = await self._outbox.receive(100)
                if not messages:
                    self.alive_at = time.monotonic()
                    await self._outbox.wait(0.5)
                    continue
                try:
                    sent = await self._target.publish(messages)
                except QueueUnavailable:
                    await self._outbox.release(messages, 0.5, forget=True)
                    raise
                await self._outbox.acknowledge(sent)
                await self._outbox.release([m for m in messages if m not in sent], 0.5, forget=True)
                self.alive_at = time.monotonic()
            except QueueUnavailable as error:
                log.event("queue_unavailable", "error", error=str(error))
                await asyncio.sleep(0.5)
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="relay", error=type(error).__name__)
                await asyncio.sleep(0.5)
