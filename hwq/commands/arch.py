"""``hwq arch``: the architectures hwq knows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hwq.commands.options import JsonFile

app = typer.Typer(help="Architectures: presets and files.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="ARCH", help="Preset or TOML/JSON file.", show_default=False)]

_DERIVED = ("macs_per_cycle", "groups", "weight_stride_bytes", "param_stride_bytes", "parity_bits")


@app.command("list")
def list_(json: JsonFile = None) -> None:
    """List the presets."""
    from hwq.commands.console import console, table, write_report
    from hwq.config import PRESETS

    configs = list(PRESETS.values())
    write_report(json, {"archs": [config.to_dict() | {"digest": config.digest()} for config in configs]})
    if str(json) == "-":
        return
    columns = ["name", "rows", "cols", "MAC/cycle", "act bytes", "weight bytes", "slots", "digest"]
    rows = [
        [c.name, c.rows, c.cols, c.macs_per_cycle, c.act_bytes, c.weight_words * c.cols, c.slots, c.digest()[:8]]
        for c in configs
    ]
    console().print(table("Presets", columns, rows, numbers=columns[1:-1]))


@app.command()
def show(arch: Name, json: JsonFile = None) -> None:
    """Show an architecture's members, the sizes that follow from them, and its digest."""
    from hwq.commands.console import console, table, write_report
    from hwq.config import load_arch

    config = load_arch(arch)
    derived: dict[str, Any] = {name: getattr(config, name) for name in _DERIVED}
    derived |= {"weight_bytes": config.weight_words * config.cols, "digest": config.digest()}
    write_report(json, config.to_dict() | derived)
    if str(json) == "-":
        return
    rows = [[name, value, "member"] for name, value in config.to_dict().items()]
    rows += [[name, value, "derived"] for name, value in derived.items()]
    console().print(table(f"Architecture {config.name}", ["name", "value", ""], rows, numbers=["value"]))
