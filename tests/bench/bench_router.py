"""The router's benchmarks (`make bench-router`): cost, overload, unequal replicas, kills, Ray Serve, bare gRPC, images.

A real Triton with models that sleep, a real Valkey, router processes; the load comes from this process.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import router_cost, router_floor, router_images, router_kills, router_overload, router_ray
from bench.router_setup import bench

SECTIONS = ("throughput", "latency", "memory", "overload", "spreading", "kills", "ray", "floor", "images")


def main() -> None:
    """Print the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--section", choices=["all", *SECTIONS], action="append")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each slice of load")
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    wanted = set(SECTIONS) if not arguments.section or "all" in arguments.section else set(arguments.section)
    if wanted & {"throughput", "latency"}:
        with bench() as here:
            router_cost.measure(
                here, runs=arguments.runs, latency="latency" in wanted, throughput="throughput" in wanted
            )
    if "memory" in wanted:
        with bench() as here:
            router_cost.memory(here)
    if "overload" in wanted:
        with bench() as here:
            router_overload.overload(here, seconds=arguments.seconds)
    if "spreading" in wanted:
        with bench() as here:
            router_overload.spreading(here, runs=arguments.runs, seconds=arguments.seconds)
    if "kills" in wanted:
        with bench() as here:
            router_kills.kills(here, times=arguments.kills)
    if "ray" in wanted:
        with bench() as here:
            router_ray.compare(here, runs=arguments.runs)
    if "floor" in wanted:
        with bench() as here:
            router_floor.compare(here, runs=arguments.runs)
    if "images" in wanted:
        with bench() as here:
            router_images.compare(here)


if __name__ == "__main__":
    main()
