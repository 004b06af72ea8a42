"""The statistics of attention of runs, and their plot."""

import matplotlib.pyplot as plt

from symbert_jax.compare.attention import draw_statistics, plot_attention, read_statistics
from symbert_jax.compare.plots import distinct_lines
from symbert_jax.compare.runs import RunCurve
from tests.compare.conftest import CONFIG


def make_run(**metrics: dict[int, float]) -> RunCurve:
    return RunCurve("run", CONFIG, {"validation/loss": {1: 2.0}} | metrics)


def test_statistics_are_read_by_layer_in_their_order() -> None:
    values = {f"attention/entropy/layer_{layer}": {20: layer + 0.5, 10: float(layer)} for layer in (10, 0, 2)}
    assert read_statistics(make_run(**values)) == {"entropy": {10: [0.0, 2.0, 10.0], 20: [0.5, 2.5, 10.5]}}
    assert not read_statistics(make_run()) and plot_attention([make_run()]) is None


def test_figure_has_a_row_per_statistic_and_some_of_the_layers() -> None:
    """The second of the two has one layer, the first ten, and the third none."""
    deep = {name: {5: [*map(float, range(10))]} for name in ("logit_std", "symmetry")}
    figure = draw_statistics([deep, {"symmetry": {5: [7.0], 6: [8.0]}}, {}], distinct_lines(3))
    drawn = [[line.get_ydata().tolist() for line in axes.lines] for axes in figure.axes]
    plt.close(figure)
    layers = [[[0.0]], [[3.0]], [[6.0]], [[9.0]]]
    assert drawn == [*layers, *[[]] * 4, [[0.0], [7.0, 8.0]], *layers[1:]]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["layer 0", "layer 3", "layer 6", "layer 9"]
