"""Drives an accelerator over its 32-bit bus; simulators and boards differ only in the `Bus` they hand over."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwq import isa
from hwq.config import ArrayConfig
from hwq.errors import DeviceError, ParityError, ProgramError

DEFAULT_MAX_CYCLES = 1_000_000_000
"""Clock cycles after which a run that never stops is given up."""


class Bus(Protocol):
    """What a simulator or board link offers the driver. Addresses count bytes and are multiples of 4."""

    def write(self, address: int, words: NDArray[np.uint32]) -> None:
        """Write `words` to consecutive word addresses from `address`."""

    def read(self, address: int, count: int) -> NDArray[np.uint32]:
        """Return `count` words read from consecutive word addresses from `address`."""

    def wait(self, max_cycles: int) -> bool:
        """Wait until irq is high; False when it isn't after `max_cycles` clock cycles."""

    def close(self) -> None:
        """Release the simulator or link."""


class Driver:
    """An accelerator behind a bus, checked to be the one that programs were compiled for.

    Parameters
    ----------
    bus : Bus
        Closed with the driver.
    config : ArrayConfig

    Raises
    ------
    DeviceError
        When what answers isn't an accelerator.
    ProgramError
        When it is one, built from another configuration.
    """

    def __init__(self, bus: Bus, config: ArrayConfig) -> None:
        self.bus = bus
        self.config = config
        found = self._register("id")
        if found != isa.ID_VALUE:
            raise DeviceError(
                f"No accelerator answers on the bus: its id reads 0x{found:08x}, not 0x{isa.ID_VALUE:08x}"
            )
        digest, wanted = self._register("digest"), int(config.digest()[:8], 16)
        if digest != wanted:
            raise ProgramError(
                f"The accelerator was built from another configuration than {config.name!r}: "
                f"its digest is {digest:08x}, not {wanted:08x}"
            )

    def close(self) -> None:
        """Close the bus."""
        self.bus.close()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Memories

    def load_program(self, words: NDArray[np.uint32]) -> None:
        """Write descriptors to program memory from slot 0.

        Parameters
        ----------
        words : uint32, (n * SLOT_WORDS,)
            At most `config.slots` slots.
        """
        words = np.asarray(words, np.uint32).reshape(-1)
        self._require(
            words.size % isa.SLOT_WORDS == 0, f"a program is whole slots of {isa.SLOT_WORDS} words, not {words.size}"
        )
        self._fits("program", "slots", words.size // isa.SLOT_WORDS, self.config.slots)
        self.bus.write(isa.bus_address(isa.Region.PROGRAM, 0), words)

    def load_params(self, image: NDArray[np.uint32], first: int = 0) -> None:
        """Write parameter memory from word `first`.

        Parameters
        ----------
        image : uint32, (n, lanes * PARAM_LANE_WORDS)
            Lane by lane, as `isa.PARAM` packs one.
        first : int
        """
        config, width = self.config, self.config.lanes * isa.PARAM_LANE_WORDS
        words = np.asarray(image, np.uint32)
        self._load(isa.Region.PARAM, words, (config.param_words, width), config.param_stride_bytes, first)

    def load_weights(self, image: NDArray[np.int8], first: int = 0) -> None:
        """Write weight memory from word `first`.

        Parameters
        ----------
        image : int8, (n, cols)
        first : int
        """
        config, rows = self.config, np.asarray(image, np.int8)
        self._load(isa.Region.WEIGHT, rows, (config.weight_words, config.cols), config.weight_stride_bytes, first)

    def load_tables(self, image: NDArray[np.int8], first: int = 0) -> None:
        """Write table memory from table `first`.

        Parameters
        ----------
        image : int8, (n, TABLE_ENTRIES)
            Entry i is the image of output byte i - 128.
        first : int
        """
        shape = (self.config.tables, isa.TABLE_ENTRIES)
        self._load(isa.Region.TABLE, np.asarray(image, np.int8), shape, isa.TABLE_ENTRIES, first)

    def _load(
        self, region: isa.Region, image: NDArray[Any], shape: tuple[int, int], stride_bytes: int, first: int
    ) -> None:
        """Write rows of `image`, each padded to the bus's stride, into a memory of `shape`, in one transfer."""
        name, (depth, width) = region.name.lower(), shape
        fits = image.ndim == 2 and image.shape[1] == width
        self._require(fits, f"{name} image must be (n, {width}), not {image.shape}")
        self._fits(name, "words", first + image.shape[0], depth)
        padded = np.zeros((image.shape[0], stride_bytes // image.itemsize), image.dtype)
        padded[:, :width] = image
        words = padded.view("<u4").reshape(-1).astype(np.uint32, copy=False)
        self.bus.write(isa.bus_address(region, first * stride_bytes), words)

    def write_act(self, address: int, data: NDArray[np.int8]) -> None:
        """Write activation memory from byte `address`, at any alignment; bytes around it keep their values.

        Parameters
        ----------
        address : int
        data : int8, any shape
            In C order.
        """
        data = np.ascontiguousarray(data, np.int8).reshape(-1)
        self._fits("activation", "bytes", address + data.size, self.config.act_bytes)
        if not data.size:
            return
        start, stop = address & ~3, -(-(address + data.size) // 4) * 4
        image = np.zeros(stop - start, np.int8)
        if address != start:
            image[:4] = self.read_act(start, 4)
        if address + data.size != stop:
            image[-4:] = self.read_act(stop - 4, 4)
        image[address - start : address - start + data.size] = data
        self.bus.write(isa.bus_address(isa.Region.ACT, start), image.view("<u4").astype(np.uint32, copy=False))

    def read_act(self, address: int, count: int) -> NDArray[np.int8]:
        """Return `count` bytes of activation memory from byte `address`, at any alignment.

        Raises
        ------
        ParityError
            Where memory has parity and a byte isn't as it was written; the error is cleared.
        """
        self._fits("activation", "bytes", address + count, self.config.act_bytes)
        if not count:
            return np.empty(0, np.int8)
        start, stop = address & ~3, -(-(address + count) // 4) * 4
        words = self.bus.read(isa.bus_address(isa.Region.ACT, start), (stop - start) // 4)
        if self.config.parity and _error(self._register("status")) == isa.ErrorCode.MEMORY_PARITY:
            self.clear()
            raise ParityError(f"Activation memory isn't as it was written, in bytes {start}..{stop - 1}")
        return words.astype("<u4", copy=False).view(np.int8)[address - start : address - start + count].copy()

    # Control

    def start(self, slot: int = 0, max_cycles: int = DEFAULT_MAX_CYCLES) -> dict[str, int]:
        """Run the program from `slot` until it halts and return `counters`.

        Raises
        ------
        DeviceError
            When the accelerator stops with an error, or doesn't stop within `max_cycles`; names the slot.
        ParityError
            When the error is a parity's; it is cleared.
        """
        if not 0 <= slot < self.config.slots:
            raise DeviceError(f"Slot {slot} isn't in program memory, which has {self.config.slots}")
        self._set_register("pc", slot)
        self._set_register("control", isa.CONTROL_START)
        stopped = self.bus.wait(max_cycles)
        status, pc = self._register("status"), self._register("pc")
        if not stopped:
            raise DeviceError(f"The accelerator is still in slot {pc} after {max_cycles} cycles (status 0x{status:x})")
        code = _error(status)
        if code:
            known = code in isa.ErrorCode.__members__.values()
            name = isa.ErrorCode(code).name if known else f"unknown error {code}"
            message = f"The accelerator stopped in slot {pc}: {name}"
            if code == isa.ErrorCode.MEMORY_PARITY:
                self.clear()  # until then nobody could tell that a byte the host reads is bad
                raise ParityError(message, pc)
            raise DeviceError(message)
        if not status & isa.STATUS_DONE:
            raise DeviceError(
                f"The accelerator interrupted in slot {pc}, neither done nor failed (status 0x{status:x})"
            )
        return self.counters()

    def clear(self) -> None:
        """Abort and clear every unit; the memories keep their contents."""
        self._set_register("control", isa.CONTROL_CLEAR)

    def set_watchdog(self, cycles: int) -> None:
        """Stop with `ErrorCode.WATCHDOG` after `cycles` without progress; 0 never does."""
        self._set_register("watchdog", cycles)

    def counters(self) -> dict[str, int]:
        """Return the last run's counters, `ArrayConfig.counters`."""
        words = self.bus.read(isa.bus_address(isa.Region.CSR, 0), len(isa.REGISTERS))
        return {name: int(words[isa.REGISTER_INDEX[name]]) for name in self.config.counters}

    def profile(self, count: int) -> list[int]:
        """Return the cycles the last run spent in each of the first `count` slots, none without `monitor`."""
        self._fits("profile", "slots", count, self.config.slots)
        if not self.config.monitor:
            return []
        return [int(word) for word in self.bus.read(isa.bus_address(isa.Region.PROFILE, 0), count)]

    def _register(self, name: str) -> int:
        return int(self.bus.read(isa.bus_address(isa.Region.CSR, 4 * isa.REGISTER_INDEX[name]), 1)[0])

    def _set_register(self, name: str, value: int) -> None:
        self.bus.write(isa.bus_address(isa.Region.CSR, 4 * isa.REGISTER_INDEX[name]), np.array([value], np.uint32))

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ProgramError(f"Can't load the accelerator: {message}")

    def _fits(self, memory: str, unit: str, needed: int, available: int) -> None:
        self._require(needed <= available, f"{memory} memory has {available} {unit}, {needed} are needed")


def _error(status: int) -> int:
    """Return the error code in the status register."""
    return status >> isa.STATUS_ERROR_SHIFT & 0xFF
