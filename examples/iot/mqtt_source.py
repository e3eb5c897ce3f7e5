"""A source of one's own for `eventwagon bridge`: MQTT topics, read by a session that the server keeps.

    mqtt://user:password@host:1883/devices/+/readings?client_id=bridge-1&id=seq

A message is acknowledged (QoS 1) after its event is stored. What comes while no bridge runs waits in the session. With
`group=NAME` several bridges, each with a `client_id` of its own, share the messages. `id=` names the fields of the JSON
body that make a message's id, after its topic; without it a digest of the body does. `mqtts://host:8883/…` is MQTT over
TLS; `ca=FILE` names the certificates to trust, else the system's are.

A message that was sent with QoS 0 is not acknowledged by anybody: the server does not wait for the bridge. Those beyond
`held` that wait to be read are dropped, and the log says how many.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from eventwagon.bridge import Begin, Lag, Record
from eventwagon.contracts.address import Address
from eventwagon.errors import Unavailable, UsageError

PATIENCE = 10.0
"""Seconds for the server to answer."""
REDELIVERY = 2.0
"""Seconds in which it delivers again what it has not seen acknowledged; after that it had seen it."""
_logger = logging.getLogger("eventwagon.bridge.mqtt")


def open_mqtt(address: Address, begin: Begin) -> MQTTSource:
    """The entry point in `eventwagon.sources`. Raises UsageError."""
    options = address.only("client_id", "group", "id", "held", "expiry", *(["ca"] if address.scheme == "mqtts" else []))
    if not address.path.strip("/") or not options.get("client_id"):
        raise address.wrong("name topic and session: mqtt://host:1883/devices/+/readings?client_id=NAME (%23 for #)")
    if begin not in (None, "latest"):
        raise address.wrong("MQTT has nothing from before a session: a new one begins with --from latest")
    return MQTTSource(address, begin)


def _tls(address: Address) -> ssl.SSLContext:
    """Raises UsageError."""
    try:
        return ssl.create_default_context(cafile=address.options.get("ca"))
    except OSError as e:
        raise address.wrong(f"ca={address.options.get('ca')}: no certificates can be read there: {e}") from e


class MQTTSource:
    """See `eventwagon.bridge.Source`. It subscribes when it is entered: MQTT has nothing from before that.

    paho calls back in a thread of its own; each call goes on in the event loop, which all state belongs to."""

    def __init__(self, address: Address, begin: Begin) -> None:
        options, topic, user = address.options, address.path.strip("/"), urlsplit(address.url)
        self._tls = _tls(address) if address.scheme == "mqtts" else None
        ((self._host, self._port),) = address.places(8883 if self._tls else 1883)
        self._user, self._password = unquote(user.username or ""), unquote(user.password or "")
        self.name = f"{address.scheme}://{address.host.rpartition('@')[2]}/{topic}"
        self._begin, self._session = begin, options["client_id"]
        self._filter = f"$share/{options['group']}/{topic}" if options.get("group") else topic
        self._fields = [field for field in options.get("id", "").split(",") if field]
        self._connect_with = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._connect_with.SessionExpiryInterval = address.whole("expiry", 604_800, most=2**32 - 1)
        self._most = self._connect_with.ReceiveMaximum = address.whole("held", 4_000, most=60_000)
        self._dropped = 0
        """Messages of QoS 0 that found `held` others waiting, until that is told."""
        self._client: Client | None = None
        self._lost = ""
        """Why a connection has ended, until that is told."""
        self._since = 0.0
        """When it was connected, by the event loop's clock."""
        self._connecting = asyncio.Lock()
        self._answers: dict[object, asyncio.Future[Any]] = {}
        """What the server is to answer: "connect", and requests by their packet ids."""
        self._arrived: deque[Record] = deque()
        self._news = asyncio.Event()
        self._held: dict[str, list[int]] = {}
        """By position what has arrived and is not committed, with the packet ids to acknowledge. Several: its device
        sent it twice. Empty: the connection was lost, and it has not been delivered again yet."""

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(self, *exc: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source."""
        if dropped := self._dropped:
            self._dropped = 0
            _logger.warning(
                "%s: dropped %s messages that were sent with QoS 0: %s others waited (held=). Send with QoS 1",
                self.name,
                f"{dropped:,}",
                f"{self._most:,}",
            )
        if not self._arrived:
            self._tell_lost()
            await self._connected()
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()
            if not self._arrived:
                self._tell_lost()
        return [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]

    def _tell_lost(self) -> None:
        """Raises Unavailable, once for each connection that has ended; the next call makes another one."""
        lost, self._lost = self._lost, ""
        if lost:
            raise Unavailable(lost)

    async def commit(self, records: Sequence[Record]) -> None:
        """See Source. The server does not answer an acknowledgement. It takes packets in their order, so its answer to
        a later request shows that it has them."""
        client = await self._connected()
        held = [record.position for record in records if record.position in self._held]
        loop = asyncio.get_running_loop()
        if not all(self._held[position] for position in held) and loop.time() < self._since + REDELIVERY:
            raise Unavailable(f"{self.name}: what is to be acknowledged has not been delivered again yet")
        packet_ids = [each for position in held for each in self._held[position]]
        for each in packet_ids:
            client.ack(each, 1)
        if held:
            _, request = client.unsubscribe("eventwagon/nothing")
            await self._answer(request, "acknowledging")
        for each in {each for position in held for each in self._held.pop(position, ())}.difference(packet_ids):
            client.ack(each, 1)  # it came once more meanwhile

    async def peek(self, limit: int) -> Sequence[Record]:
        """See Source. Raises UsageError."""
        raise UsageError(f"{self.name}: MQTT can't show messages without taking them")

    async def lag(self) -> Lag:
        """See Source. The server does not say what waits in a session."""
        return Lag()

    async def _connected(self) -> Client:
        """The client, connected and subscribed. Raises Unavailable, UsageError."""
        async with self._connecting:
            if self._client is not None:
                return self._client
            client = self._client = self._new_client()
            try:
                await self._connect(client)
            except BaseException as e:
                self._client = None
                client.disconnect()
                await asyncio.to_thread(client.loop_stop)
                if isinstance(e, OSError):
                    raise Unavailable(f"{self.name}: connecting: {e}") from e
                raise
            return client

    def _new_client(self) -> Client:
        loop = asyncio.get_running_loop()
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._session,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,  # the next call does it, and says so
            manual_ack=True,
        )
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.username_pw_set(self._user or None, self._password or None)

        def here(call: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(call, *arguments)

        client.on_message = lambda _client, _data, message: here(self._on_message, message)
        client.on_connect = lambda _client, _data, flags, code, _properties: here(
            self._on_answer, "connect", flags.session_present, [code]
        )
        client.on_subscribe = lambda _client, _data, packet_id, codes, _properties: here(
            self._on_answer, packet_id, None, codes
        )
        client.on_unsubscribe = lambda _client, _data, packet_id, _codes, _properties: here(
            self._on_answer, packet_id, None, []
        )
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: here(self._on_lost, client, code)
        return client

    async def _connect(self, client: Client) -> None:
        for packet_ids in self._held.values():
            packet_ids.clear()  # they were those of the former connection
        connect = partial(client.connect, self._host, self._port, clean_start=False, properties=self._connect_with)
        await asyncio.to_thread(connect)
        client.loop_start()
        is_known = await self._answer("connect", "connecting")
        if not is_known and self._begin is None and not self._since:
            forget = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            forget.SessionExpiryInterval = 0
            client.disconnect(properties=forget)
            raise UsageError(
                f"{self.name}: the server knows no session {self._session!r}; --from latest begins one, which gets "
                "what is sent from then on"
            )
        if not is_known and self._since:
            _logger.warning("%s: the server has lost session %s, and what waited in it", self.name, self._session)
            self._held.clear()
        _, packet_id = client.subscribe(self._filter, qos=1)
        await self._answer(packet_id, "subscribing")
        if self._client is not client:
            raise Unavailable(f"{self.name}: the connection has ended at once")
        self._since, self._lost = asyncio.get_running_loop().time(), ""

    async def _answer(self, key: object, doing: str) -> Any:
        """What the server answers. Raises Unavailable."""
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            raise Unavailable(f"{self.name}: {doing}: no answer within {PATIENCE:g} s") from None
        finally:
            del self._answers[key]

    def _on_answer(self, key: object, result: object, codes: Sequence[Any]) -> None:
        answer = self._answers.get(key)
        if answer is None or answer.done():
            return
        if failed := [str(code) for code in codes if code.is_failure]:
            answer.set_exception(Unavailable(f"{self.name}: the server refuses: {failed[0]}"))
        else:
            answer.set_result(result)

    def _on_lost(self, client: Client, code: object) -> None:
        if self._client is not client:
            return
        self._client = None
        self._lost = (
            f"{self.name}: the connection has ended: {code}; another reader with client_id={self._session} ends it, too"
        )
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Unavailable(self._lost))
        self._news.set()

    def _on_message(self, message: MQTTMessage) -> None:
        position, trouble = self._position(message)
        held = self._held.get(position)
        if message.qos > 0:
            self._held.setdefault(position, []).append(message.mid)
        if held is not None:  # it is at hand: delivered again after the connection was lost, or sent twice
            return
        if message.qos == 0 and len(self._arrived) >= self._most:
            self._dropped += 1
            return
        record = Record(
            position=position,
            value=bytes(message.payload),
            headers=getattr(message.properties, "UserProperty", ()),
            key=message.topic.encode(),
            time=time.time(),  # MQTT does not say when it was sent
            trouble=trouble,
        )
        self._arrived.append(record)
        self._news.set()

    def _position(self, message: MQTTMessage) -> tuple[str, str]:
        """What names the message, however often it is sent; and what is wrong with it, if anything."""
        trouble, name = "", hashlib.sha256(message.payload).hexdigest()[:32]
        if self._fields:
            try:
                body = json.loads(message.payload)
                name = "/".join(quote(str(body[field]), safe="") for field in self._fields)
            except (ValueError, TypeError, LookupError, RecursionError):
                trouble = f"it is no JSON object with {', '.join(self._fields)}"
        position = f"mqtt/{quote(message.topic)}/{name}"
        if len(position) > 2048:
            position = f"mqtt/{hashlib.sha256(position.encode()).hexdigest()}"
        return position, trouble
