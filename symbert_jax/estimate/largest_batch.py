"""The largest batch that fits."""

def with_largest_batch(config: Config, target: Slice) -> Config:
    """`config` with the largest `data.batch_size` whose training step fits; says what it tried."""
    mesh = mesh_of(config, target)
    shares = mesh.shape["data"] * config.optim.accumulate

    def resized(rows: int) -> Config:
        return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows * shares))

    def fits(rows: int) -> bool:
        try:
            memory, refused = compile_train(resized(rows), target).memory, ""
        except DoesNotFit as refusal:
            memory, refused = refusal.needed, ", too much"
        bytes_of = f"{memory / GIB:.2f} of {target.chip.hbm / GIB:.2f} GiB"
        print(f"{_rows(rows * shares, mesh.size)}: {bytes_of}{refused}", flush=True)
        return not refused

    return resized(largest(fits) or 1)


def largest(fits: Callable[[int], bool]) -> int:
    """The largest of 1, 2, 4, 8, 16, 24, 32 ... that fits, if what fits does so for all below; 0 where none does."""
    low, high = 0, 8
    while fits(high):
        low, high = high, 2 * high
    if not low:
        return next((rows for rows in (4, 2, 1) if fits(rows)), 0)
    while high - low > 8:
        middle = (low + high) // 16 * 8
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
