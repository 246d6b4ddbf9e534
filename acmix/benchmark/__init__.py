"""Benchmarks: models and operators, right first and then timed, alone or in turn with a peer.

What `acmix benchmark` runs
    networks     models, alone and beside timm's, the same without the convolution path, and the reference operators
    scaling      a model on one card and on N
    operators    each implementation of an operator beside the reference and beside PyTorch's own means (`peers`)
    loading      images a second out of JPEG files
    scale        a step on many cards, predicted from measured parts

What they stand on
    steps        the training step and the forward pass that are timed, and the batch they are fed
    checks       whether a model computes the right thing
    pairs        timing in turn, A B A B …
    machine      ceilings of this machine, memory
    record       results as lines and as rows of a CSV file
    where        the share of time in matrix products, attention, convolution path, norms, …

What the repository publishes
    published    the figures of README.md and docs/, one module a script of benchmarks/
    detection_step   a training step of Mask R-CNN, several detectors in turn
    gpu          everything on one GPU, in one command
    ahead        the GPU kernels compiled for several GPUs, without one, and their least times
    kills        SIGKILL at a moment of a run
    small_runs   small real runs of each task, to be disturbed
    survive      killed runs beside undisturbed ones
    processes    the same global batch on another number of processes
    faults       what runs are put through, and what becomes of them
    hostile      mutated configurations, images and checkpoints through every command
"""
