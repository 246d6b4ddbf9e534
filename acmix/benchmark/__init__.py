"""Benchmarks: a model on one card and on N, and pairs of candidates measured in turn.

    scaling     a recipe's table: card | batch_size | Single Card | N Cards
    operators   each implementation of an operator beside the reference and beside PyTorch's own means
    networks    a model beside timm's plain one, this library's plain one, and the reference operators
    loading     images a second out of JPEG files
    where       the share of time in matrix products, attention, convolution path, norms, …

They stand on `pairs` (A B A B …), `judge` (right or wrong), `machine` (ceilings, memory) and `record` (CSV).
"""

from acmix.benchmark.loading import benchmark_data
from acmix.benchmark.networks import benchmark_networks
from acmix.benchmark.operators import benchmark_operators
from acmix.benchmark.scaling import benchmark_train

__all__ = ["benchmark_data", "benchmark_networks", "benchmark_operators", "benchmark_train"]
