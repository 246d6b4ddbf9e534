"""GPUs that kernels are compiled for, and how many programs one of their multiprocessors holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A kind of GPU, as its maker's manuals describe it.

    Args:
        name: what tables call it.
        backend, arch: what Triton calls it.
        lanes: threads of a warp.
        registers: 32-bit registers that the warps of a part of a multiprocessor share, and in how many parts it comes.
        parts: of a multiprocessor, each with its own registers and warps.
        step: registers are handed to a thread in multiples of this.
        most: registers of a thread.
        warps: of a part at the same time.
        programs: of a multiprocessor at the same time.
        shared: bytes of shared memory of a multiprocessor.
        reserved: bytes of it that each program takes besides its own.
    """

    name: str
    backend: str
    arch: int | str
    lanes: int
    registers: int
    parts: int
    step: int
    most: int
    warps: int
    programs: int
    shared: int
    reserved: int

    def programs_per_multiprocessor(self, warps: int, registers: int, shared: int) -> int:
        """How many programs fit on a multiprocessor at the same time; 0 where not even one does.

        Args:
            warps: of a program.
            registers: of a thread.
            shared: bytes of shared memory of a program.
        """
        taken = max(-(-registers // self.step) * self.step, self.step)
        if taken > self.most:
            return 0
        warps_by_registers = min(self.registers // (taken * self.lanes), self.warps) * self.parts
        bytes_taken = shared + self.reserved
        by_shared = self.shared // bytes_taken if bytes_taken else self.programs
        return min(warps_by_registers // warps, by_shared, self.programs)


def _nvidia(name: str, arch: int, shared_kib: int) -> Target:
    """64 K registers and 2,048 threads a multiprocessor, in four parts (CUDA C++ Programming Guide, limits)."""
    return Target(
        name=name,
        backend="cuda",
        arch=arch,
        lanes=32,
        registers=16384,
        parts=4,
        step=8,
        most=255 + 1,
        warps=16,
        programs=32,
        shared=shared_kib * 1024,
        reserved=1024,
    )


TARGETS = {
    each.name: each
    for each in (
        _nvidia("sm_80", 80, 164),
        _nvidia("sm_90", 90, 228),
        _nvidia("sm_100", 100, 228),
        # 512 registers of 64 lanes a part of a compute unit, 8 warps each (AMD CDNA 3 instruction set, section 3.6)
        Target(
            name="gfx942",
            backend="hip",
            arch="gfx942",
            lanes=64,
            registers=512 * 64,
            parts=4,
            step=8,
            most=512,
            warps=8,
            programs=32,
            shared=64 * 1024,
            reserved=0,
        ),
    )
}
