"""Stands for the devices: `--devices` of them send `--count` readings each, by gateways with a connection each.

python -m examples.iot.devices --mqtt mqtt://127.0.0.1:1883 --devices 5000 --count 4          # all at once
python -m examples.iot.devices --mqtt mqtt://127.0.0.1:1883 --devices 5000 --seconds 10       # evenly
"""

import argparse
import json
import sys
import threading
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

GATEWAYS = 20
PATIENCE = 60.0


def celsius(device: int, seq: int) -> float:
    """What the device measures: one reading in fifty is too hot."""
    return 90.0 if (7 * device + 13 * seq) % 50 == 0 else 20.0 + device % 40


def is_sent_twice(device: int, seq: int) -> bool:
    """A device that gets no answer sends again: here every twentieth reading."""
    return (device + seq) % 20 == 0


def main() -> None:
    """Send all; end when the server has them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mqtt", required=True)
    parser.add_argument("--devices", type=int, default=5_000)
    parser.add_argument("--site", default="site", help="the devices are SITE-0, SITE-1 …")
    parser.add_argument("--first", type=int, default=0, help="the number of each device's first reading")
    parser.add_argument("--count", type=int, default=1, help="readings of each device")
    parser.add_argument("--seconds", type=float, default=0.0, help="in which they are sent, evenly; 0: all at once")
    given = parser.parse_args()
    server = urlsplit(given.mqtt)
    readings = [
        (device, seq) for seq in range(given.first, given.first + given.count) for device in range(given.devices)
    ]
    answered = threading.Semaphore(0)
    with ExitStack() as stack:
        gateways = [Client(CallbackAPIVersion.VERSION2) for _ in range(GATEWAYS)]
        for gateway in gateways:
            gateway.max_inflight_messages_set(1_000)
            gateway.on_publish = lambda *_: answered.release()
            gateway.reconnect_delay_set(1, 2)
            if server.scheme == "mqtts":
                gateway.tls_set()
            gateway.connect_async(server.hostname or "127.0.0.1", server.port or (1883, 8883)[server.scheme == "mqtts"])
            gateway.loop_start()
            stack.callback(gateway.loop_stop)
        for gateway in gateways:
            stack.callback(gateway.disconnect)  # first all of these: their threads may wait to connect again
        began, sent = time.monotonic(), 0
        for number, (device, seq) in enumerate(readings):
            if (pause := began + given.seconds * number / len(readings) - time.monotonic()) > 0.005:
                time.sleep(pause)
            name = f"{given.site}-{device}"
            body = {"device": name, "seq": seq, "celsius": celsius(device, seq), "at": time.time()}
            for _ in range(2 if is_sent_twice(device, seq) else 1):
                gateway = gateways[device % GATEWAYS]
                gateway.publish(f"devices/{name}/readings", json.dumps(body), qos=1)  # again after a lost connection
                sent += 1
        for number in range(sent):
            if not answered.acquire(timeout=PATIENCE):
                sys.exit(f"{sent - number} readings are not acknowledged")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
