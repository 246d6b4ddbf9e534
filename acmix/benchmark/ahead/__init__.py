"""The GPU kernels without a GPU: compiled ahead of time for several, and what they would take on an H200 at best.

targets      the GPUs, and how many programs one of their multiprocessors holds
compiled     every launch of an operator at the networks' shapes, compiled for one target, in a process of its own
command      all operators, targets and formats, into a table (`python benchmarks/gpu.py --ahead`)
roofline     bytes, multiply-adds and the least time of every operator and of a training step
"""
