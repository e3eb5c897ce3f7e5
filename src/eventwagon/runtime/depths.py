"""The depths of a train's live wagons, read in one call."""

from __future__ import annotations

from collections.abc import Mapping

from ..contracts.broker import Broker, Depth
from ..contracts.manifest import Manifest


async def depths_of(broker: Broker, manifest: Manifest) -> Mapping[int, Mapping[str, Depth]]:
    """The depth of each channel of each live wagon: by the wagon's number, then by the channel's name. The ingress's
    name is empty; `dead` holds the dead letters. Raises BrokerError."""
    channels = [c for w in manifest.wagons for c in (*manifest.working_channels(w), manifest.dead_letters(w))]
    found: dict[int, dict[str, Depth]] = {w.number: {} for w in manifest.wagons}
    if channels:
        for channel, depth in zip(channels, await broker.depth(channels), strict=True):
            found[channel.wagon][channel.name] = depth
    return found
