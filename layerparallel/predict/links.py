"""Networks by name: what a message costs on them, and where that is from."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, UnknownNameError
from ..group import Link


@dataclass(frozen=True)
class Network:
    """A link and where its figures are from."""

    name: str
    link: Link
    about: str

    def __str__(self) -> str:
        rate = self.link.seconds_per_byte
        throughput = f"{1e-9 / rate:.3g} GB/s" if rate else "no bound on GB/s"
        return f"{self.name}: {1e6 * self.link.latency:.3g} µs, {throughput} ({self.about})"


PRESETS = {
    network.name: network
    for network in (
        Network("none", Link(0.0, 0.0), "messages cost nothing"),
        Network(
            "loopback",
            Link(latency=120e-6, seconds_per_byte=3.5e-10),
            "measured: gloo between two processes of a 2-core AMD EPYC virtual machine",
        ),
        Network(
            "ethernet",
            Link(latency=30e-6, seconds_per_byte=8 / 100e9),
            "assumed: 100 Gb/s at line rate; 30 µs, as nccl-tests shows between two hosts",
        ),
        Network(
            "nvlink",
            Link(latency=10e-6, seconds_per_byte=1 / 450e9),
            "assumed: NVLink 4 of an H100, 450 GB/s each way; nccl-tests shows 3 µs, a launch takes 7",
        ),
    )
}


def find(name: str) -> Network:
    """The network of a name, or of a file that `layerparallel bench network --json` wrote.

    Raises:
        InputError: there is no such network, or the file has none.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.suffix and not path.exists():
        raise UnknownNameError("network", name, PRESETS)
    try:
        found = json.loads(path.read_text())
        link = Link(float(found["latency"]), float(found["seconds_per_byte"]))
    except OSError as error:
        raise InputError(f"The network file {name} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name} holds no network: give what `layerparallel bench network --json` writes, with "
            "numbers `latency` and `seconds_per_byte`."
        ) from error
    for what in ("latency", "seconds_per_byte"):
        value = getattr(link, what)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{what} = {value} in {name} is out of range: give 0 or more.")
    return Network(path.stem, link, f"measured, from {name}")
