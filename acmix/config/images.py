"""Settings of images: where they lie, how they are read, augmentation. How they are written: see `schema`."""

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
    NO_COLOUR,
    Fraction,
    Name,
    Rate,
    Section,
    Share,
    ascending,
    rgb_of,
)
from acmix.config.presets import augment_preset
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

    draft: bool = Field(default=False, examples=[True])
    """Decode large JPEG files at 1/2, 1/4 or 1/8 in training. Where the random crop is that much larger than
    `data.img_size`: faster, and other pixels. In classification, not for a timm reader that streams (wds/, hfids/)."""

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
