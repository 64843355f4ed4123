"""`resmem plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from resmem_cli.cli import options, study
from resmem_cli.errors import UsageError
from resmem_cli.types import StorageType

_COUNT, _HOURS = "N", "HOURS"


def _count(text: str) -> Any:
    return typer.Option(metavar=_COUNT, help=text, show_default=False)


def _size(text: str) -> Any:
    return typer.Option(metavar="SIZE", help=text, show_default=False)


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A size known by name: cifar100, imagenet, 10m, 100m or 1.6g (tokens); options change it.",
            show_default=False,
        ),
    ] = None,
    *,
    rows: Annotated[str | None, _count("Rows of the memory, such as 50000 or 1.6G.")] = None,
    dimensions: Annotated[str | None, _count("Dimensions of an embedding.")] = None,
    classes: Annotated[str | None, _count("Classes, or words of a vocabulary.")] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", metavar=_COUNT, help="Neighbours of a query; 53.", show_default=False),
    ] = None,
    queries: Annotated[str | None, _count("Queries to predict; 10,000.")] = None,
    top: Annotated[
        str | None,
        typer.Option(
            metavar="M|all",
            help="Entries kept of each row's logits and residuals; 128 above 4,096 classes, else all.",
            show_default=False,
        ),
    ] = None,
    storage: Annotated[
        StorageType | None,
        typer.Option(help="Of embeddings and whole logits; float32, of tokens float16.", show_default=False),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="exact, ivf, ivf-rabitq, ivf-pq or hnsw; exact up to 2³¹ numbers, beyond ivf-pq.",
            show_default=False,
        ),
    ] = None,
    lists: Annotated[int | None, typer.Option(help="Of an ivf kind.", show_default=False)] = None,
    bits: Annotated[int | None, typer.Option(help="Of ivf-pq or ivf-rabitq.", show_default=False)] = None,
    subquantizers: Annotated[int | None, typer.Option(help="Of ivf-pq.", show_default=False)] = None,
    flops_per_row: Annotated[
        str | None, _count("Operations of the network for one row, such as 120M; without, embed is left out.")
    ] = None,
    machines: Annotated[int | None, typer.Option(metavar=_COUNT, help="1.", show_default=False)] = None,
    machine_memory: Annotated[str | None, _size("Memory of each, such as 256G; 8G.")] = None,
    machine_disk: Annotated[str | None, _size("Disk of each, or its part of a shared storage; 4T.")] = None,
    cores: Annotated[int, typer.Option(metavar=_COUNT, help="Cores of each.")] = 16,
    embed_rate: Annotated[
        str | None,
        _count("Operations a second of a machine that embeds, such as 100T with a GPU; 40G times the cores."),
    ] = None,
    disk_bandwidth: Annotated[
        str | None, _size("Bytes a second of a machine to the storage; 500 million, as measured.")
    ] = None,
    network_bandwidth: Annotated[str | None, _size("Bytes a second between machines; 10 Gbit.")] = None,
    shared_bandwidth: Annotated[
        str | None, _size("Bytes a second of the storage to all machines; 10 billion.")
    ] = None,
    task_minutes: Annotated[float, typer.Option(metavar="MINUTES", help="What a task is to take.")] = 5,
    hours: Annotated[float, typer.Option(metavar=_HOURS, help="What each step is to be done in.")] = 24,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Play the run through on workers that slow down or die.")
    ] = False,
    workers: Annotated[
        str, typer.Option(metavar="LIST", help="Simulation: numbers of workers, machines as above.")
    ] = "8,64,256",
    repetitions: Annotated[int, typer.Option(metavar=_COUNT, help="Simulation: how often.")] = 200,
    seed: Annotated[int, typer.Option(metavar=_COUNT, help="Simulation: of what is drawn.")] = 0,
    spread: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Simulation: tasks take exp(S z) times as long, z normal; as measured, or 0.2.",
            show_default=False,
        ),
    ] = None,
    slow_share: Annotated[
        float, typer.Option(metavar="P", help="Simulation: probability that a worker is slow.")
    ] = 0.05,
    slow_factor: Annotated[
        float, typer.Option(metavar="F", help="Simulation: how many times as long a slow one takes.")
    ] = 2,
    hours_to_failure: Annotated[
        float,
        typer.Option(metavar=_HOURS, help="Simulation: mean time to the loss of a worker; inf for never."),
    ] = 240,
    restart_minutes: Annotated[
        float, typer.Option(metavar="MINUTES", help="Simulation: until a lost worker is replaced.")
    ] = 2,
    retries: Annotated[
        int, typer.Option(metavar=_COUNT, help="Simulation: how often a lost task is done again.")
    ] = 3,
    task_seconds: Annotated[
        str | None,
        typer.Option(
            metavar="STEP=S,...",
            help="Simulation: seconds that a task of a step was measured to take, such as residualize=40.",
            show_default=False,
        ),
    ] = None,
    task_times: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Simulation: what tasks took, as commands with --scheduler and --task-times tell.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Draw the simulation, as SVG and PNG.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    no_clobber: options.NoClobber = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what a memory of some size will take: bytes, operations, hours, shards; and what breaks.

    Nothing is read or built. From rows, dimensions, classes and machines: the bytes of every artifact, the
    work and the time of every step, disk and network a query, and what does not fit, with what helps.
    """
    from resmem_cli.memory_size import parse_memory
    from resmem_cli.scaling.simulation import Workers
    from resmem_cli.scaling.sizes import chosen_machines, chosen_size, parse_count
    from resmem_cli.scaling.task_times import read_task_times
    from resmem_cli.stages.plan import DEFAULT_SPREAD, PlanConfig, SimulationConfig, plan_memory
    from resmem_cli.tuning.grid import parse_values

    def count(text: str | None, option: str) -> int | None:
        return None if text is None else parse_count(text, option)

    def n_bytes(text: str | None) -> int | None:
        return None if text is None else parse_memory(text)

    for option, given in (("--task-seconds", task_seconds), ("--task-times", task_times)):
        if given is not None and not simulate:
            raise UsageError(f"{option} is for a simulation", remedy="give --simulate too")
    simulation = SimulationConfig(
        workers=parse_values(workers, "--workers", whole=True),
        repetitions=repetitions,
        seed=seed,
        befalls=Workers(
            1,
            spread=DEFAULT_SPREAD if spread is None else spread,
            slow_share=slow_share,
            slow_factor=slow_factor,
            seconds_to_failure=3600 * hours_to_failure,
            restart_seconds=60 * restart_minutes,
            retries=retries,
        ),
        task_seconds=_seconds_of_steps(task_seconds),
        task_times=() if task_times is None else tuple(read_task_times(task_times)),
        measured_spread=spread is None,
    )
    parameters = {"lists": lists, "bits": bits, "subquantizers": subquantizers}
    config = PlanConfig(
        chosen_size(
            name,
            rows=count(rows, "--rows"),
            dimensions=count(dimensions, "--dimensions"),
            classes=count(classes, "--classes"),
            k=k,
            queries=count(queries, "--queries"),
            top=top if top in (None, "all") else count(top, "--top"),
            storage=storage,
            kind=kind,
            parameters={option: value for option, value in parameters.items() if value is not None},
        ),
        chosen_machines(
            name,
            count=machines,
            memory=n_bytes(machine_memory),
            disk=n_bytes(machine_disk),
            cores=cores,
            embed_rate=count(embed_rate, "--embed-rate"),
            disk_bandwidth=n_bytes(disk_bandwidth),
            network_bandwidth=n_bytes(network_bandwidth),
            shared_bandwidth=n_bytes(shared_bandwidth),
            task_seconds=60 * task_minutes,
            hours=hours,
        ),
        flops_per_row=count(flops_per_row, "--flops-per-row"),
        simulation=simulation if simulate else None,
    )
    result = plan_memory(config, figures=figures, clobber=not no_clobber)
    study.show_tables(result, as_json=json, quiet=quiet)


def _seconds_of_steps(text: str | None) -> dict[str, float]:
    """Read `residualize=40,index-add=300`."""
    seconds = {}
    for part in text.split(",") if text else ():
        name, _, value = part.partition("=")
        try:
            seconds[name.strip()] = float(value)
        except ValueError:
            raise UsageError(
                "--task-seconds: no seconds of steps",
                expected="such as residualize=40,index-add=300",
                found=text,
            ) from None
    return seconds
