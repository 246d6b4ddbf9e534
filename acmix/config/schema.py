"""What a run is: a typed tree of settings, each with its default, its meaning and an example.

The docstring below a key is its meaning: the first sentence for a list of all keys, the rest for who asks. After a
change, `python scripts/settings_page.py` writes docs/settings.md anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from acmix.config.kinds import (
    DEVICE,
    NO_COLOUR,
    NO_DEVICE,
    Count,
    Fraction,
    Name,
    Rate,
    Section,
    Share,
    ascending,
    further_arguments,
    rgb_of,
)
from acmix.config.presets import augment_preset
from acmix.config.schedule import Schedule
from acmix.config.task import Task
from acmix.names import is_url, without_secrets

if TYPE_CHECKING:
    from typing_extensions import Self

# values of a colour
MOST_CHANNELS = 1024
# what pixels of 0 to 1 spread by, with room for those who count them from 0 to 255; width / height of a crop
Spread = Annotated[float, Field(ge=1e-6, le=255.0)]
Ratio = Annotated[float, Field(ge=0.01, le=100.0)]
# pixels a side: what memory holds of one resized image
LARGEST_IMG_SIZE, LARGEST_RESIZED = 16_384, 32_768
# what the weights that a run starts from decide, unless the user does
WEIGHTS_DECIDE = ("mean", "std", "img_size", "interpolation", "crop_pct")
# arguments of a model's constructor that are not for `model.args`, and the setting to use; "" where there is none
NOT_ARGUMENTS = {
    "model_name": "model.name",
    "num_classes": "model.num_classes",
    "in_chans": "model.in_chans",
    "drop_path_rate": "model.drop_path_rate",
    "conv_path": "model.conv_path",
    "checkpoint_path": "model.checkpoint",
    "pretrained": "model.pretrained",
    "freeze": "model.freeze",
    "img_size": "data.img_size",
    **dict.fromkeys(("device", "dtype", "features_only", "out_indices", "pretrained_cfg"), ""),
    # what timm's factory fetches and opens by
    **dict.fromkeys(("pretrained_cfg_overlay", "pretrained_strict", "cache_dir", "model_cfg", "feature_cfg"), ""),
}


class Model(Section):
    """Which network, and the weights it starts from."""

    name: Name = Field(default="acmix_swin_tiny_patch4_window7_224", examples=["acmix_resnet50"])
    """The network: one of `acmix models`, or a timm model."""

    num_classes: int = Field(default=1000, ge=1, le=1_000_000, examples=[10])
    """Classes of the data in classification. Detection and segmentation have `task.num_classes`."""

    in_chans: int = Field(default=3, ge=1, le=1024, examples=[1])
    """Channels of an image: 3, or 1 for grey."""

    drop_path_rate: Rate = Field(default=0.0, examples=[0.2])
    """Stochastic depth of the last block. It rises from 0 at the first."""

    conv_path: bool = Field(default=True, examples=[False])
    """Gives attention its convolution path. false builds the baseline: the same network without it."""

    checkpoint: str | None = Field(default=None, examples=["runs/digits/checkpoints/best.pt"])
    """A file of weights to start from. Ours, the released code's, timm's or torchvision's; every tensor that fits is
    loaded. It takes precedence over `model.pretrained`."""

    head: Literal["auto", "keep", "new"] = Field(
        default="auto", examples=["new"], json_schema_extra={"with": "model.checkpoint=best.pt"}
    )
    """What happens to the checkpoint's classifier. auto keeps it if its classes are those of the data, else starts a
    new one; keep leaves its rows as they are; new always starts a new one."""

    pretrained: bool | str = Field(default=False, examples=[True])
    """A timm model's own weights. true downloads them; a path reads a file of them."""

    add_conv_path: bool = Field(default=False, examples=[True])
    """Adds convolution paths to a timm Swin, ViT or PVT v2. They change nothing at first."""

    freeze: bool = Field(default=False, examples=[True])
    """Trains only what is new. That is the added paths, and what the weights did not give, such as a classifier of
    other classes. Needs `model.add_conv_path`."""

    args: dict[str, Any] = Field(default_factory=dict, examples=[{"window_size": 8}])
    """Further arguments of the network's constructor. Examples are embed_dim, depths, num_heads and window_size; none
    may have a setting of its own. `model.args.window_size=8` sets one."""

    @field_validator("args")
    @classmethod
    def are_further_arguments(cls, args: dict[str, Any]) -> dict[str, Any]:
        """Refuses arguments that a setting decides, and numbers that cannot be meant."""
        return further_arguments(args, "model.args", NOT_ARGUMENTS, "a model")

    @model_validator(mode="after")
    def has_what_its_head_is_of(self) -> Self:
        """Refuses what would be done to the classifier of a file, where there is no file."""
        if self.head != "auto" and self.checkpoint is None:
            raise ValueError(f"model.head={self.head} is for model.checkpoint, which is not set; set both or neither")
        return self


class Data(Section):
    """Where the images lie and how they are read."""

    dir: str = Field(default="", examples=["photos"])
    """The folder of images; `--data` sets it. It holds the splits as folders, list files, .tar files or shards, or a
    data set for the reader in `data.format`; with `task.name`, COCO's or ADE20K's folders. Shards may lie behind a
    URL."""

    format: str = Field(default="auto", examples=["wds/"])
    """How the images are stored. auto reads shards of `acmix data shard`, or train_list.txt if there is one, else a
    folder a class; otherwise a timm reader: wds/, hfds/NAME or hfids/NAME."""

    train_split: Name = Field(default="train", examples=["training"])
    """Name of the training split. hfids/ and wds/ take "name|SAMPLES" where the number of samples is not written
    beside them."""

    val_split: Name = Field(default="val", examples=["validation"])
    """Name of the validation split. hfids/ and wds/ take "name|SAMPLES" as above."""

    split: float | None = Field(default=None, gt=0.0, lt=1.0, examples=[0.2])
    """Share of the images that is held out for validation. For data without validation images. In classification each
    class gives its share, at least one image if it has two. null: validation images are those of `data.val_split`."""

    split_seed: int = Field(default=0, ge=0, le=2**53, examples=[1])
    """Which images `data.split` holds out. `train.seed` has no part in it."""

    shuffle_shards: int | None = Field(default=None, ge=1, le=1000, examples=[8])
    """Shards whose images are shuffled together. More mix better, and need more shards at a time. null: 4, or 1 from a
    URL."""

    cache_gib: float = Field(default=50.0, gt=0.0, le=1_000_000, examples=[200])
    """Most GiB of the cache of shards from a URL. The cache lies in the folder ACMIX_CACHE, else in ~/.cache/acmix."""

    img_size: int = Field(default=224, ge=1, le=LARGEST_IMG_SIZE, examples=[256])
    """Pixels a side of what the network sees in classification. Not set, or auto: what the weights that the run starts
    from were trained with (`model.checkpoint`, `model.pretrained`), else the default."""

    interpolation: Literal["bicubic", "bilinear", "nearest", "random"] = Field(default="bicubic", examples=["bilinear"])
    """How images are resized. Not set, or auto: as for `data.img_size`."""

    crop_pct: float = Field(default=0.875, ge=0.05, le=1.0, examples=[1.0])
    """Share of the resized image's side that evaluation keeps. 0.875 keeps 224 of 256 pixels. Not set, or auto: as for
    `data.img_size`."""

    mean: tuple[Fraction, ...] = Field(
        default=(0.485, 0.456, 0.406), min_length=1, max_length=MOST_CHANNELS, examples=[(0.5, 0.5, 0.5)]
    )
    """Subtracted from pixels of 0 to 1, one value a channel. Not set, or auto: as for `data.img_size`."""

    std: tuple[Spread, ...] = Field(
        default=(0.229, 0.224, 0.225), min_length=1, max_length=MOST_CHANNELS, examples=[(0.5, 0.5, 0.5)]
    )
    """Divides what is left, one value a channel. Not set, or auto: as for `data.img_size`."""

    background: str | tuple[int, int, int] = Field(default="white", examples=["#808080"])
    """The colour behind transparent pixels. A colour's name, "#rrggbb", or [red, green, blue] from 0 to 255."""

    white: float | None = Field(default=None, gt=0.0, le=2.0**32, examples=[4095])
    """The value that is white in grey of more than 8 bits. null: 65535, or what a TIFF says; floats: 1 or 255."""

    workers: int | None = Field(default=None, ge=0, le=256, examples=[4])
    """Reading processes for each training process. null: the cores at hand shared out, at most 8."""

    @model_validator(mode="before")
    @classmethod
    def auto_is_unset(cls, values: Any) -> Any:
        """Takes out what the weights are to decide: `model_fields_set` then says so."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in WEIGHTS_DECIDE or value != "auto"}

    @model_validator(mode="after")
    def has_images_to_split(self) -> Self:
        """Refuses to hold images out of what only a reader of timm's can list."""
        if self.split is not None and self.format != "auto":
            raise ValueError(
                f"data.split={self.split:g} is for folders, lists and tar files; with data.format={self.format}, leave "
                "it out and name a validation split in data.val_split"
            )
        return self

    @field_validator("crop_pct")
    @classmethod
    def resized_image_is_small_enough(cls, crop_pct: float, info: ValidationInfo) -> float:
        """Refuses a share of which the whole would not fit into memory."""
        img_size = info.data.get("img_size", 1)
        if img_size / crop_pct > LARGEST_RESIZED:
            raise ValueError(f"evaluation would resize images to {img_size / crop_pct:.0f} px; expected a larger share")
        return crop_pct

    @field_validator("background", mode="plain")
    @classmethod
    def is_a_colour(cls, given: Any) -> Any:
        """Refuses what is no colour."""
        if isinstance(given, str):
            rgb_of(given)
            return given
        if isinstance(given, (list, tuple)) and len(given) == 3 and all(type(v) is int and 0 <= v < 256 for v in given):
            return tuple(given)
        raise ValueError(NO_COLOUR)

    @field_serializer("dir")
    def keep_no_secrets(self, place: str) -> str:
        """What a run writes holds no password: checkpoints and pages are given away."""
        return without_secrets(place) if is_url(place) else place

    @property
    def shown_dir(self) -> str:
        """`dir` for messages."""
        return self.keep_no_secrets(self.dir)

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """The background as red, green and blue, 0 to 255."""
        return rgb_of(self.background) if isinstance(self.background, str) else self.background


class Augment(Section):
    """What happens to a training image."""

    scale: Annotated[tuple[Share, Share], AfterValidator(ascending)] | None = Field(
        default=(0.08, 1.0), examples=[(0.5, 1.0)]
    )
    """Smallest and largest share of the area in a crop. null: no random crop; images are resized and cropped as in
    evaluation."""

    ratio: Annotated[tuple[Ratio, Ratio], AfterValidator(ascending)] = Field(
        default=(3 / 4, 4 / 3), examples=[(1.0, 1.0)]
    )
    """Smallest and largest width / height of a crop."""

    hflip: Fraction = Field(default=0.5, examples=[0.0])
    """Probability of a flip left to right. 0 for digits and text."""

    vflip: Fraction = Field(default=0.0, examples=[0.5])
    """Probability of a flip upside down."""

    color_jitter: float | None = Field(default=0.4, ge=0.0, le=10.0, examples=[0.2])
    """Random brightness, contrast and saturation. Without effect where `augment.auto_augment` is set.
    null: none."""

    auto_augment: str | None = Field(default="rand-m9-mstd0.5-inc1", examples=["augmix-m5-w4-d2"])
    """A policy of augmentation, as timm writes it. RandAugment, AutoAugment, 3-Augment or AugMix; null: none."""

    random_erasing: Fraction = Field(default=0.25, examples=[0.0])
    """Probability that a rectangle of the image is erased."""

    random_erasing_mode: Literal["const", "rand", "pixel"] = Field(default="pixel", examples=["const"])
    """What replaces an erased rectangle. const: the mean colour; rand: one random colour; pixel: noise."""

    random_erasing_count: int = Field(default=1, ge=1, le=100, examples=[2])
    """Largest number of rectangles erased in an image."""

    mixup: float = Field(default=0.8, ge=0.0, le=100.0, examples=[0.0])
    """Strength of mixup. The alpha of its Beta distribution; 0: none."""

    cutmix: float = Field(default=1.0, ge=0.0, le=100.0, examples=[0.0])
    """Strength of CutMix. The alpha of its Beta distribution; 0: none."""

    cutmix_minmax: Annotated[tuple[Fraction, Fraction], AfterValidator(ascending)] | None = Field(
        default=None, examples=[(0.2, 0.8)]
    )
    """Smallest and largest share of a side for CutMix. null: `augment.cutmix` draws the share."""

    mixup_prob: Fraction = Field(default=1.0, examples=[0.5])
    """Probability that mixup or CutMix is applied."""

    mixup_switch_prob: Fraction = Field(default=0.5, examples=[0.3])
    """Probability of CutMix, where mixup is on too."""

    mixup_mode: Literal["batch", "pair", "elem"] = Field(default="batch", examples=["elem"])
    """What shares one draw of mixup. The whole batch, a pair of images, or nothing: each image its own."""

    label_smoothing: Rate = Field(default=0.1, examples=[0.0])
    """Probability taken from the true class. It is spread over all classes."""

    @model_validator(mode="before")
    @classmethod
    def is_settings_or_a_preset(cls, given: Any) -> Any:
        """Takes a preset's name for its values."""
        return given if isinstance(given, (dict, cls)) else augment_preset(given)


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


class Config(Section):
    """One run."""

    task: Task = Field(default_factory=Task)
    model: Model = Field(default_factory=Model)
    data: Data = Field(default_factory=Data)
    augment: Augment = Field(default_factory=Augment)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    train: Train = Field(default_factory=Train)
