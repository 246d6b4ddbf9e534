"""Settings of training: the optimizer and the loop. How they are written: see `schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    Field,
    field_validator,
)

from acmix.config.kinds import (
    DEVICE,
    NO_DEVICE,
    Count,
    Name,
    Rate,
    Section,
    Share,
)

if TYPE_CHECKING:
    pass


class Optimizer(Section):
    """What moves the weights."""

    name: Name = Field(default="adamw", examples=["sgd"])
    """One of timm's optimizers."""

    lr: float = Field(default=5e-4, gt=0.0, examples=[1e-3])
    """Peak learning rate. It is meant for a batch of `optimizer.base_batch_size` and scales linearly: 5e-4 at a base
    of 512 is 1.25e-4 for a batch of 128."""

    base_batch_size: int | None = Field(default=512, ge=1, le=1_000_000, examples=[256])
    """The batch that `optimizer.lr` is meant for. `schedule.warmup_lr` and `schedule.min_lr` scale likewise. null: no
    scaling."""

    weight_decay: float = Field(default=0.05, ge=0.0, le=100.0, examples=[1e-4])
    """Weight decay. The rates of the two paths are never decayed, and of the rest what `optimizer.no_decay` says."""

    no_decay: Literal["biases_and_norms", "norms", "nothing"] = Field(default="biases_and_norms", examples=["norms"])
    """What is not decayed. biases_and_norms: vectors and tables of positions; norms: the same, but biases of
    linear layers and convolutions are decayed, as in Swin's detection recipe; nothing: all is decayed."""

    momentum: Rate = Field(default=0.9, examples=[0.95])
    """Momentum, for optimizers like sgd."""

    betas: tuple[Rate, Rate] = Field(default=(0.9, 0.999), examples=[(0.9, 0.95)])
    """Decay of both moments, for optimizers like adamw."""

    eps: Share = Field(default=1e-8, examples=[1e-6])
    """Keeps a division finite, for optimizers like adamw."""

    layer_decay: float | None = Field(default=None, ge=0.01, le=1.0, examples=[0.75])
    """Learning rate of each layer over that of the next. It is for fine-tuning. null: all layers have the same."""


class Train(Section):
    """The loop."""

    epochs: int = Field(default=300, ge=1, le=1_000_000, examples=[90])
    """Passes over the training images."""

    steps: Count | None = Field(default=None, examples=[160000])
    """Steps of the optimizer, in place of `train.epochs`. null: the epochs hold."""

    device: str = Field(default="auto", examples=["cuda:1"])
    """Where to compute: auto, cpu, cuda, cuda:1, mps. auto is the GPU if there is one, else the CPU. Several processes
    take a GPU each, or share the CPU."""

    batch_size: int = Field(default=128, ge=1, le=65_536, examples=[64])
    """Images a process in one forward pass. The global batch is batch_size × accumulation × processes."""

    accumulation: int = Field(default=1, ge=1, le=65_536, examples=[4])
    """Forward passes a step of the optimizer. More give a larger batch in the same memory."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(default="auto", examples=["bf16"])
    """Number format of the forward pass. auto: bf16 on a GPU that has it, fp16 on another, fp32 on a CPU."""

    clip_grad: float | None = Field(default=5.0, ge=1e-6, le=1e6, examples=[1.0])
    """Largest norm of the gradient. null: it is not clipped."""

    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0, examples=[0.9999])
    """Decay of an exponential moving average of the weights. null: none is kept."""

    gradient_checkpointing: bool = Field(default=False, examples=[True])
    """Saves memory and costs time. Activations are computed again in the backward pass."""

    channels_last: bool | None = Field(default=None, examples=[True])
    """Keeps the channels of a pixel side by side. null: on a GPU, for networks of convolutions."""

    sync_batchnorm: bool | None = Field(default=None, examples=[False])
    """Several processes share the statistics of batch norms. null: those of detection and segmentation heads."""

    freeze_statistics: bool = Field(default=False, examples=[True])
    """Batch norms keep the statistics of the weights. For ResNets in detection with two images a GPU; norms of
    detection and segmentation heads are not meant."""

    reduction: Literal["mean", "exact"] = Field(default="mean", examples=["exact"])
    """How the gradients of several processes become one. exact: added in a fixed order, so that the same global batch
    on another number of processes gives the same bits; each needs the same number of threads, and it is slower."""

    bucket_mib: float = Field(default=25.0, gt=0.0, le=65536, examples=[100])
    """Gradients that travel together, in MiB. Larger ones suit a slow start of each message. The default is PyTorch's,
    whose first one is of 1 MiB, so that they travel early."""

    static_graph: bool = Field(default=False, examples=[True])
    """Tells DistributedDataParallel that every step is alike. It then plans its messages once."""

    gradient_compression: Literal["fp16", "bf16"] | None = Field(default=None, examples=["bf16"])
    """Gradients travel between processes rounded to it. null: as they are."""

    fsdp: bool = Field(default=False, examples=[True])
    """Processes share out weights, gradients and moments. For networks that outgrow one GPU; checkpoints stay whole."""

    compile: bool = Field(default=False, examples=[True])
    """Compiles the network with torch.compile."""

    seed: int = Field(default=0, ge=0, le=2**53, examples=[1])
    """Seed of weights, order and augmentation."""

    deterministic: bool = Field(default=False, examples=[True])
    """The same run gives the same weights, bit for bit. Slower on a GPU."""

    log_every_steps: Count = Field(default=10, examples=[50])
    """Steps between lines of the log."""

    checkpoint_every_epochs: Count = Field(default=1, examples=[5])
    """Epochs between checkpoints."""

    checkpoint_every_steps: Count | None = Field(default=None, examples=[1000])
    """Steps between further writes of last.pt. It helps where an epoch takes hours. null: only at the end of an
    epoch."""

    checkpoint_every_minutes: float | None = Field(default=None, ge=0.01, le=1e6, examples=[30])
    """Minutes between further writes of last.pt. null: only by epochs and steps."""

    keep_checkpoints: int = Field(default=2, ge=1, le=100, examples=[5])
    """How many last checkpoints are kept. last.pt, the one before it as last-1.pt, and so on. A run goes on from the
    newest that is whole."""

    evaluate_every_epochs: Count = Field(default=1, examples=[5])
    """Epochs between measurements on the validation images."""

    patience: Count | None = Field(default=None, examples=[10])
    """Early stopping: epochs without a better top-1, AP or mIoU. Counted at each measurement on the validation images.
    null: the run trains all `train.epochs`."""

    restarts: int = Field(default=0, ge=0, le=1000, examples=[3])
    """Times that `run.sh` starts all again when one fails. From the newest checkpoint; not after an error in the
    input."""

    timeout_minutes: float = Field(default=30.0, ge=0.01, le=10_000, examples=[60])
    """Minutes that a process waits for another. Then the run ends; more where the disk is slow."""

    tensorboard: bool = Field(default=True, examples=[False])
    """Writes TensorBoard files."""

    @field_validator("device", mode="before")
    @classmethod
    def is_a_device(cls, name: Any) -> Any:
        """Refuses what names no device; whether this machine has it, the run finds out."""
        if not isinstance(name, str) or not DEVICE.fullmatch(name):
            raise ValueError(NO_DEVICE)
        return name
