"""SQS, Kinesis and the Lambda function, on a real HTTP server that plays AWS (moto): the same right decisions."""

import asyncio
import base64
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import boto3
import pytest

from realtime import lambda_function
from realtime.aws import KinesisQueue, Relay, SqsQueue, encode
from realtime.database import open_pool
from realtime.queue import Message, PostgresQueue, replay_dead_letters
from tests.soak.realtime import Sent, Stack, order_body, post_once

RNG = random.Random(13)


@pytest.fixture(scope="module")
def stack(new_folder: Callable[[str], Path]) -> Iterator[Stack]:
    with Stack(new_folder("rt-aws")) as running:
        assert running.ask_to_stop("worker") == 0  # it reads the outbox; here that is the relay's
        yield running


@pytest.fixture
def aws(bucket: str) -> None:
    """The environment in which boto3 finds the server."""


def consenting(stack: Stack) -> list[tuple[str, str]]:
    """Partner and CPF of those of whom the bureau may be asked."""
    with stack.connect() as connection:
        return connection.execute(
            "select c.partner_id, c.cpf from app.customers as c where exists (select from app.consents as k"
            " where k.customer_id = c.customer_id and k.scope = 'bureau' and k.revoked_at is null"
            " and coalesce(k.expires_at, 'infinity') > '2026-02-01') order by customer_id"
        ).fetchall()


def make_sqs() -> str:
    sqs = boto3.client("sqs")
    name = f"orders-{uuid.uuid4()}.fifo"
    return sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true", "VisibilityTimeout": "2"})[
        "QueueUrl"
    ]


def make_stream(shards: int = 2) -> str:
    name = f"orders-{uuid.uuid4()}"
    kinesis = boto3.client("kinesis")
    kinesis.create_stream(StreamName=name, ShardCount=shards)
    kinesis.get_waiter("stream_exists").wait(StreamName=name)
    return name


def post(stack: Stack, people: list[tuple[str, str]], each: int = 1) -> list[str]:
    """Orders of these people, one round after the other; returns their ids."""
    ids = []
    for _ in range(each):
        for partner, cpf in people:
            sent = Sent(order_body(RNG, cpf), stack.keys[partner])
            assert asyncio.run(post_once(stack.port, sent))[0] == 202
            ids.append(sent.body["order_id"])
    return ids


def wait_until_decided(stack: Stack, ids: list[str]) -> None:
    deadline = time.monotonic() + 120
    with stack.connect() as connection:
        while connection.execute(
            "select count(distinct order_id) from app.risk_evaluations where order_id = any(%s)", (ids,)
        ).fetchone()[0] < len(ids):
            assert time.monotonic() < deadline, (stack.folder / "log").read_text()[-3000:]
            time.sleep(0.05)


def relay_once(stack: Stack, target: Callable[[asyncpg.Pool], SqsQueue | KinesisQueue]) -> None:
    """Hands on what the outbox holds, in this process."""

    async def play() -> None:
        async with open_pool(stack.dsn, 2) as pool:
            relay = Relay(PostgresQueue(stack.dsn, pool, lease=5), target(pool))
            running = asyncio.create_task(relay.run())
            while await pool.fetchval("select count(*) from realtime.outbox where done_at is null"):
                await asyncio.sleep(0.05)
            relay.stop()
            await running

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["sqs", "kinesis"])
def test_orders_are_decided_once_and_a_customers_in_order(stack: Stack, aws: None, kind: str) -> None:
    place = make_sqs() if kind == "sqs" else f"kinesis:{make_stream()}"
    stack.environment = {"REALTIME_QUEUE": place}
    people = RNG.sample(consenting(stack), 8)
    for name in ("relay", "worker"):
        stack.start(name)

    ids = post(stack, people, each=2)
    stack.kill("worker")  # in the middle of something, or not
    stack.kill("relay")
    for name in ("relay", "worker"):
        stack.start(name)
    ids += post(stack, people, each=1)
    wait_until_decided(stack, ids)

    assert stack.ask_to_stop("worker") == 0
    assert stack.ask_to_stop("relay") == 0
    stack.environment = {}
    with stack.connect() as connection:
        rows = connection.execute(
            "select o.customer_id, o.created_at, count(*), max(e.evaluated_at), count(distinct v.seq)"
            " from app.credit_orders as o join app.risk_evaluations as e using (order_id)"
            " join app.credit_order_events as v using (order_id)"
            " where order_id = any(%s) group by o.order_id, 1, 2 order by 1, 2",
            (ids,),
        ).fetchall()
        assert connection.execute("select count(*) from realtime.dead_letters").fetchone() == (0,)
    assert len(rows) == 24
    assert {(evaluations, events) for _, _, evaluations, _, events in rows} == {
        (2, 2)
    }  # one, with two events
    assert [row[:2] for row in sorted(rows, key=lambda row: (row[0], row[3]))] == [row[:2] for row in rows]


def sqs_event(url: str) -> dict[str, Any]:
    sqs = boto3.client("sqs")
    records = []
    while messages := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0, MessageSystemAttributeNames=["All"]
    ).get("Messages"):
        for m in messages:
            records.append(
                {
                    "messageId": m["MessageId"],
                    "body": m["Body"],
                    "attributes": m["Attributes"],
                    "eventSource": "aws:sqs",
                }
            )
        sqs.delete_message_batch(
            QueueUrl=url,
            Entries=[{"Id": m["MessageId"], "ReceiptHandle": m["ReceiptHandle"]} for m in messages],
        )
    return {"Records": records}


def kinesis_event(stream: str) -> dict[str, Any]:
    kinesis = boto3.client("kinesis")
    records = []
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        for record in kinesis.get_records(ShardIterator=iterator)["Records"]:
            data = base64.b64encode(record["Data"]).decode()
            records.append(
                {
                    "eventSource": "aws:kinesis",
                    "kinesis": {"sequenceNumber": record["SequenceNumber"], "data": data},
                }
            )
    return {"Records": records}


@pytest.fixture
def function(
    stack: Stack, aws: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], list[str]]:
    for name in ("REALTIME_DSN", "BUREAU_URL", "BUREAU_API_KEY", "REALTIME_OFFSET_SECONDS"):
        monkeypatch.setenv(name, stack.env[name])
    monkeypatch.setattr(lambda_function, "_function", None)
    return lambda event: [
        f["itemIdentifier"] for f in lambda_function.handler(event, None)["batchItemFailures"]
    ]


@pytest.mark.parametrize("kind", ["sqs", "kinesis"])
def test_the_lambda_function_names_what_must_come_again(
    stack: Stack, function: Callable[[dict[str, Any]], list[str]], kind: str
) -> None:
    people = RNG.sample(consenting(stack), 3)
    ids = post(stack, people, each=2)
    if kind == "sqs":
        url = make_sqs()
        relay_once(stack, lambda pool: SqsQueue(url, pool, 5))
        event = sqs_event(url)
    else:
        stream = make_stream()
        relay_once(stack, lambda pool: KinesisQueue(stream, pool, 5))
        event = kinesis_event(stream)
    assert len(event["Records"]) == 6
    foreign = json.loads(json.dumps(event["Records"][0]))
    if kind == "sqs":
        foreign |= {"body": "no order", "messageId": "foreign"}
    else:
        foreign["kinesis"] = {"data": base64.b64encode(b"no order").decode(), "sequenceNumber": "foreign"}

    stack.kill("bureau")
    down = function(event)
    stack.start("bureau")
    stack.wait_until_healthy(["service"])
    deadline = time.monotonic() + 60
    while function(event) and time.monotonic() < deadline:
        time.sleep(0.2)

    names = [r["messageId"] if kind == "sqs" else r["kinesis"]["sequenceNumber"] for r in event["Records"]]
    assert down == names  # nothing was guessed
    with stack.connect() as connection:  # somebody says how the bureau is, though no worker runs
        said = connection.execute("select bureau_is_up from realtime.workers order by seen_at").fetchall()
    assert said
    assert function(event) == []
    wait_until_decided(stack, ids)
    # Of Kinesis it would keep a whole shard waiting; SQS has a redrive policy for it.
    assert function({"Records": [foreign]}) == (["foreign"] if kind == "sqs" else [])
    with stack.connect() as connection:
        counts = connection.execute(
            "select count(*) from app.risk_evaluations where order_id = any(%s) group by order_id", (ids,)
        ).fetchall()
    assert counts == [(1,)] * 6


def test_a_message_that_nobody_can_handle_holds_up_its_customer_only(
    stack: Stack, function: Callable[[dict[str, Any]], list[str]]
) -> None:
    (partner, cpf), other = RNG.sample(consenting(stack), 2)
    with stack.connect() as connection:
        bad, customer = connection.execute(
            "insert into app.credit_orders (order_id, customer_id, partner_id, product, currency,"
            " requested_amount, term_months, status, created_at, updated_at)"
            " select gen_random_uuid(), customer_id, partner_id, 'yacht_loan', 'BRL', 1000, 12, 'in_review',"
            " '2026-01-01', '2026-01-01' from app.customers where cpf = %s returning order_id, customer_id",
            (cpf,),
        ).fetchone()
    ids = post(stack, [(partner, cpf), other])
    with stack.connect() as connection:
        waiting = connection.execute(
            "update realtime.outbox set done_at = now() where done_at is null"
            " returning message_id, order_id, customer_id"
        ).fetchall()
    messages = [Message(-1, bad, customer, 1), *(Message(*row, 1) for row in sorted(waiting))]
    assert [str(m.order_id) for m in messages] == [str(bad), *ids]

    def event(attempts: int) -> dict[str, Any]:
        return {
            "Records": [
                {
                    "eventSource": "aws:sqs",
                    "messageId": str(m.order_id),
                    "body": encode(m).decode(),
                    "attributes": {"ApproximateReceiveCount": str(attempts)},
                }
                for m in messages
            ]
        }

    assert function(event(1)) == [str(bad), ids[0]]
    assert function(event(10)) == []
    wait_until_decided(stack, ids)
    with stack.connect() as connection:
        assert connection.execute("select order_id, attempts from realtime.dead_letters").fetchall() == [
            (bad, 10)
        ]

    async def replay() -> int:
        async with open_pool(stack.dsn, 1) as pool:
            return await replay_dead_letters(pool)

    assert asyncio.run(replay()) == 1
    with stack.connect() as connection:
        again = connection.execute(
            "update realtime.outbox set done_at = now() where done_at is null returning order_id"
        ).fetchall()
        connection.execute("delete from realtime.dead_letters")
    assert again == [(bad,)]


def test_kinesis_keeps_its_place_and_counts_what_fails(stack: Stack, aws: None) -> None:
    stream = make_stream(shards=1)
    messages = [Message(n, uuid.uuid4(), customer, 1) for n, customer in enumerate((1, 1, 2, 3))]

    async def play() -> None:
        async with open_pool(stack.dsn, 2) as pool:
            first = KinesisQueue(stream, pool, 60)
            for message in messages:
                assert await first.publish([message]) == [message]
            a, c, d = await first.receive(10)
            assert [m.message_id for m in (a, c, d)] == [0, 2, 3]  # the second of customer 1 waits
            assert await KinesisQueue(stream, pool, 60).receive(10) == []  # the shard is the first one's
            await first.release([a], 0, forget=False)
            await first.acknowledge([c])
            assert [(m.message_id, m.attempts) for m in await first.receive(10)] == [(0, 2)]
            await first.acknowledge([a])
            assert [m.message_id for m in await first.receive(10)] == [1]
            # The first one dies: what it had not done begins again elsewhere, and nothing before it.
            await pool.execute(
                "update realtime.stream_positions set leased_until = now() where owner = $1", first._owner
            )
            second = KinesisQueue(stream, pool, 60)
            again = await second.receive(10)
            assert [(m.message_id, m.attempts) for m in again] == [(1, 2), (2, 2), (3, 2)]
            position = "select position from realtime.stream_positions where stream = $1"
            before = await pool.fetchval(position, stream)
            await first.acknowledge(again)  # whoever lost the shard moves nothing
            assert await pool.fetchval(position, stream) == before
            await second.acknowledge(again)
            await second.close()
            third = KinesisQueue(stream, pool, 60)
            assert await third.receive(10) == []
            await third.publish([messages[0]])
            await asyncio.sleep(0.3)
            assert [(m.message_id, m.attempts) for m in await third.receive(10)] == [(0, 2)]

    asyncio.run(play())


class SplitStream:
    """A stream whose first shard was split into the second and third, as Kinesis has it.

    moto is no help there: it moves the records of a split shard, goes on writing to it and never ends it. So three
    shards of moto's are told apart by what Kinesis says of a split: parents are listed, and a closed shard that is
    read to its end has no further iterator.
    """

    def __init__(self, stream: str) -> None:
        self._client = boto3.client("kinesis")
        self.parent, *self.children = (
            shard["ShardId"] for shard in self._client.list_shards(StreamName=stream)["Shards"]
        )
        self._of: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def list_shards(self, **given: Any) -> dict[str, Any]:
        """One shard a page, so that pages are turned, too."""
        names = [self.parent, *self.children]
        place = int(given.get("NextToken", 0))
        shard = {"ShardId": names[place]} | ({"ParentShardId": self.parent} if place else {})
        return {"Shards": [shard]} | ({"NextToken": str(place + 1)} if place + 1 < len(names) else {})

    def get_shard_iterator(self, **given: Any) -> dict[str, Any]:
        answer = self._client.get_shard_iterator(**given)
        self._of[answer["ShardIterator"]] = given["ShardId"]
        return answer

    def get_records(self, **given: Any) -> dict[str, Any]:
        answer = self._client.get_records(**given)
        shard = self._of[answer["NextShardIterator"]] = self._of[given["ShardIterator"]]
        if shard == self.parent and not answer["Records"]:
            del answer["NextShardIterator"]
        return answer


def test_a_split_shard_is_worked_off_before_its_children(stack: Stack, aws: None) -> None:
    stream = make_stream(shards=3)
    kinesis = SplitStream(stream)
    messages = [Message(n, uuid.uuid4(), n % 2, 1) for n in range(4)]
    for message, place in zip(messages, (0, 0, 1, 2), strict=True):
        kinesis.put_record(
            StreamName=stream,
            Data=encode(message),
            PartitionKey=str(message.customer_id),
            ExplicitHashKey=str(place * 2**128 // 3 + 1),
        )

    async def play() -> None:
        async with open_pool(stack.dsn, 2) as pool:
            queue = KinesisQueue(stream, pool, 60)
            queue._kinesis = kinesis

            async def receive() -> list[int]:
                queue._listed_at = -1e9
                await asyncio.sleep(0.25)  # a shard is read five times a second
                received.extend(await queue.receive(10))
                return [m.message_id for m in received]

            received: list[Message] = []
            assert await receive() == [0, 1]
            for _ in range(2):
                assert await receive() == [0, 1]  # the children hold later orders of the same customers
            await queue.acknowledge(received[:1])
            assert await receive() == [0, 1]
            assert list(queue._shards) == [kinesis.parent]
            await queue.acknowledge(received[1:])
            await receive()
            assert sorted(await receive()) == [0, 1, 2, 3]
            assert sorted(queue._shards) == sorted(kinesis.children)
            await queue.acknowledge(received[2:])
            await queue.close()
            # Whoever begins later does not read the parent again.
            other = KinesisQueue(stream, pool, 60)
            other._kinesis = kinesis
            assert await other.receive(10) == []
            assert sorted(other._shards) == sorted(kinesis.children)

    asyncio.run(play())
