"""Gowin's FPGAs with Project Apicula's tools as PyPI has them, which are newer than what Amaranth calls."""

from __future__ import annotations

from amaranth.vendor import GowinPlatform


class HimbaechelPlatform(GowinPlatform):
    """A platform whose design is placed by nextpnr-himbaechel.

    Members
    -------
    chip : str
        Of nextpnr's and Apicula's data: the FPGA inside ``part``, without its memories.
    """

    chip: str

    required_tools = ("yosys", "nextpnr-himbaechel-gowin", "gowin_pack")

    @property
    def file_templates(self) -> dict[str, str]:
        """Amaranth's, the netlist called as other families' is."""
        return {name: text.replace(".syn.json", ".json") for name, text in super().file_templates.items()}

    @property
    def command_templates(self) -> list[str]:
        """Amaranth's call of Yosys, and the others."""
        return [
            super().command_templates[0],
            '{{invoke_tool("nextpnr-himbaechel-gowin")}} {{quiet("--quiet")}} {{get_override("nextpnr_opts")|options}} '
            "--log {{name}}.tim --device {{platform.part}} --vopt family={{platform.chip}} --vopt cst={{name}}.cst "
            "--json {{name}}.json --write {{name}}.routed.json",
            '{{invoke_tool("gowin_pack")}} -d {{platform.chip}} {{get_override("gowin_pack_opts")|options}} '
            "-o {{name}}.fs {{name}}.routed.json",
        ]
