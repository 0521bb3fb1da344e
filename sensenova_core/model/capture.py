"""Work that is done over and over on the same buffers, captured once and replayed."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

# Of the device: numbers between its kernels, cuBLAS's workspaces, and what the driver keeps of a graph.
BYTES = 96 * 2**20

Work = Callable[[], None]  # reads and writes buffers that stay where they are


class Capture(Protocol):
    """Makes of a piece of work what does it again; it was done once before. Raises RuntimeError where that fails."""

    def __call__(self, work: Work) -> Work: ...


def again(work: Work) -> Work:
    """The plain form: what does the work again is the work."""
    return work


class CudaGraphs:
    """CUDA graphs on one device: a replay is one launch, however many the work has."""

    def __init__(self, device: torch.device):
        self.device = device
        self._pool: Any = None  # of memory, which one graph after the other takes

    def __call__(self, work: Work) -> Work:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            # What other threads do meanwhile, such as copying layers, is none of its business.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        current.wait_stream(stream)
        return graph.replay


def capture_on(device: torch.device) -> Capture | None:
    """None where nothing is gained."""
    return CudaGraphs(device) if device.type == "cuda" and torch.version.hip is None else None
