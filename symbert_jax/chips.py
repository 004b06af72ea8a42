"""Accelerators: peak FLOP/s, memory, clocks, links."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Tpu:
    """One chip with all its cores; units are bytes and seconds."""

    cores: int
    axes: int  # the number of dimensions of a slice
    peak: float  # dense bf16 FLOP/s
    hbm: float  # bytes that programs may use, as libtpu reports them when it rejects a program
    bandwidth: float  # bytes/s of HBM
    clock: float  # cycles/s of a core; the compiler estimates cycles
    link: float  # bytes/s over one link, in one direction
    min_ring: int  # an axis of at least this many chips is a ring, on which each chip has two links

    def network(self, topology: tuple[int, ...]) -> float:
        """Returns the bytes/s that one chip of a slice can send while the whole slice exchanges an array."""
        return self.link * sum((size > 1) + (size >= self.min_ring) for size in topology)


GIB = 2**30

# peak, bandwidth: https://cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}. hbm: libtpu 0.0.42.1. link, min_ring:
# https://jax-ml.github.io/scaling-book/tpus (an axis of v5e or v6e is a ring from 16 chips, one of v4 or v5p from 4;
# a v4 or v5p slice smaller than a 4x4x4 cube has no rings, so `network` is too high there).
# clock: peak / (FLOPs a cycle) = peak / (2 x the chip's multipliers): 2 cores x 4 units of 128 x 128 (v4, v5p), 1 x 4
# of 128 x 128 (v5e), 1 x 4 of 256 x 256 (v6e). By libtpu's own cycles, a product of two 16,384 x 16,384 matrices
# reaches 94% of the peak on v4 and v5p, 92% on v5e and 78% on v6e.
TPUS = {
    "v4": Tpu(cores=2, axes=3, peak=275e12, hbm=30.75 * GIB, bandwidth=1228e9, clock=1.05e9, link=45e9, min_ring=4),
    "v5e": Tpu(cores=1, axes=2, peak=197e12, hbm=15.75 * GIB, bandwidth=819e9, clock=1.5e9, link=50e9, min_ring=16),
    "v5p": Tpu(cores=2, axes=3, peak=459e12, hbm=95.74 * GIB, bandwidth=2765e9, clock=1.75e9, link=100e9, min_ring=4),
    "v6e": Tpu(cores=1, axes=2, peak=918e12, hbm=31.25 * GIB, bandwidth=1638e9, clock=1.75e9, link=100e9, min_ring=16),
}

# Names in `TPUS` by `jax.Device.device_kind`.
KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}

# Dense bf16 peaks in FLOP/s by `device_kind`, from NVIDIA's data sheets.
GPU_PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak dense bf16 FLOP/s of one device; None if unknown, as for a CPU: then no MFU is shown."""
    if device_kind in KINDS:
        return TPUS[KINDS[device_kind]].peak
    return GPU_PEAKS.get(device_kind)
