"""Seconds of one all-reduce: S bytes, summed over n cards, g in each of m machines.

With B bytes a second and L seconds a message, i inside a machine and b between machines:

    ring          2 (n-1)/n · S / B + 2 (n-1) L, where one ring leads through all cards: B is the smallest and L the
                  largest on its way
    tree          2 S / B + 2 (⌈log2 g⌉ L_i + ⌈log2 m⌉ L_b): two trees with half of the bytes each, up and down, as NCCL
                  has them; B as for the ring
    hierarchical  2 (g-1)/g · S / B_i + 2 (g-1) L_i within each machine, and between them, where each card has a part
                  of S, 2 (m-1)/m · S / B_b + 2 (m-1) L_b

B_b is a machine's, which its cards share. In one machine, hierarchical is the ring.
"""

from __future__ import annotations

import math

from acmix.benchmark.scale.parts import Link, Network
from acmix.errors import UsageError


def all_reduce_seconds(size: float, cards: int, network: Network) -> float:
    """How long a reduction takes.

    Args:
        size: S in bytes, as they are sent.
        cards: n.
        network: the ways between them.

    Raises:
        UsageError: several machines, and no way between them.
    """
    if cards == 1:
        return 0.0
    if network.algorithm != "fastest":
        return seconds_by(network.algorithm, size, cards, network)
    return min(seconds_by(name, size, cards, network) for name in ("ring", "tree", "hierarchical"))


def seconds_by(algorithm: str, size: float, cards: int, network: Network) -> float:
    """The same by one algorithm."""
    nodes = math.ceil(cards / network.cards_per_node)
    in_node = min(cards, network.cards_per_node)
    inside, between = way(network, "inside", in_node, cards), way(network, "between", nodes, cards)
    ways = [each for each in (inside, between) if each is not None]
    slowest = min(1e9 * each.gb_per_second for each in ways)
    if algorithm == "ring":
        return ring(size, cards, slowest, max(1e-6 * each.latency_us for each in ways))
    levels = [(each, members) for each, members in ((inside, in_node), (between, nodes)) if each is not None]
    if algorithm == "tree":
        return 2 * size / slowest + sum(2e-6 * math.ceil(math.log2(many)) * each.latency_us for each, many in levels)
    return sum(ring(size, many, 1e9 * each.gb_per_second, 1e-6 * each.latency_us) for each, many in levels)


def way(network: Network, name: str, members: int, cards: int) -> Link | None:
    """The way inside a machine or between machines; None where there is one member, and nothing travels."""
    if members == 1:
        return None
    found = network.inside if name == "inside" else network.between
    if found is None:
        nodes = math.ceil(cards / network.cards_per_node)
        raise UsageError(
            f"{cards} cards are {nodes} machine{'s'[: nodes - 1]} of network.cards_per_node={network.cards_per_node}, "
            f"and network.{name} is not set; set network.{name}.gb_per_second and network.{name}.latency_us"
        )
    return found


def ring(size: float, members: int, bytes_per_second: float, latency: float) -> float:
    """Seconds of one ring: a reduce-scatter and an all-gather; none for one member."""
    return 2 * (members - 1) / members * size / bytes_per_second + 2 * (members - 1) * latency
