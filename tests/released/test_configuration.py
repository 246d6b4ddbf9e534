"""The released YAML layout says the same run in our words, and ours in its; what it cannot mean here is refused."""

from inspect import signature
from typing import Any

import pytest
import yaml
from yacs.config import CfgNode

from acmix import config
from acmix.config import Config, validate
from acmix.errors import UsageError
from acmix.models.swin import VARIANTS, SwinTransformer
from acmix.released import is_official, load_config, read_official, write_official
from acmix.released.yaml_keys import ARGUMENTS, EXPRESSIBLE, KEYS, NETWORKS, SUPPORTED

SMALL = "acmix_swin_small_patch4_window7_224"
RELEASED_SMALL = {
    "TRAIN": {"EPOCHS": 300},
    "MODEL": {
        "TYPE": "swin_acmix",
        "NAME": SMALL,
        "DROP_PATH_RATE": 0.3,
        "SWIN": {"EMBED_DIM": 96, "DEPTHS": [2, 2, 18, 2], "NUM_HEADS": [3, 6, 12, 24], "WINDOW_SIZE": 7},
    },
}


def read(**model):
    """A configuration of ours from a released MODEL section."""
    return validate(read_official({"MODEL": {"TYPE": "swin_acmix", **model}}))


def test_a_released_file_is_read_as_it_is_with_the_papers_settings(tmp_path):
    path = tmp_path / "released.yaml"
    path.write_text(yaml.safe_dump(RELEASED_SMALL))
    loaded = load_config(path)
    assert loaded.model.name == SMALL
    assert (loaded.model.args, loaded.model.conv_path, loaded.model.drop_path_rate) == ({}, True, 0.3)
    assert (loaded.optimizer.name, loaded.optimizer.lr, loaded.optimizer.base_batch_size) == ("adamw", 5e-4, 512)
    assert (loaded.schedule.warmup_epochs, loaded.schedule.warmup_lr, loaded.schedule.min_lr) == (20, 5e-7, 5e-6)
    assert (loaded.train.epochs, loaded.train.batch_size, loaded.train.clip_grad) == (300, 128, 5.0)
    assert (loaded.data.img_size, loaded.data.crop_pct) == (224, 0.875)


def test_overrides_in_our_words_come_after_the_released_file(tmp_path):
    path = tmp_path / "released.yaml"
    path.write_text(yaml.safe_dump(RELEASED_SMALL))
    loaded = load_config(path, ["train.epochs=2", "model.conv_path=false"])
    assert (loaded.train.epochs, loaded.model.conv_path, loaded.model.drop_path_rate) == (2, False, 0.3)


def test_defaults_of_the_released_layout_are_our_defaults_but_for_drop_path():
    defaults = Config()
    ours = validate(read_official({"MODEL": {"NAME": defaults.model.name}}))
    assert ours.model.drop_path_rate == 0.1
    assert ours.model_copy(update={"model": defaults.model}) == defaults


def test_every_key_of_the_released_layout_is_read():
    tree = yaml.safe_load(
        """
        DATA: {BATCH_SIZE: 64, DATA_PATH: /d, DATASET: imagenet, IMG_SIZE: 192, INTERPOLATION: bilinear,
               ZIP_MODE: false, CACHE_MODE: part, PIN_MEMORY: true, NUM_WORKERS: 3}
        MODEL:
          TYPE: swin_acmix
          NAME: toy
          RESUME: start.pth
          NUM_CLASSES: 7
          DROP_RATE: 0.0
          DROP_PATH_RATE: 0.25
          LABEL_SMOOTHING: 0.2
          SWIN: {PATCH_SIZE: 2, IN_CHANS: 1, EMBED_DIM: 48, DEPTHS: [2, 2], NUM_HEADS: [3, 6], WINDOW_SIZE: 6,
                 MLP_RATIO: 3, QKV_BIAS: false, QK_SCALE: null, APE: false, PATCH_NORM: true}
          SWIN_MLP: {APE: true}
        TRAIN:
          START_EPOCH: 4
          EPOCHS: 9
          WARMUP_EPOCHS: 1
          WEIGHT_DECAY: 0.01
          BASE_LR: 1e-3
          WARMUP_LR: 1e-6
          MIN_LR: 1e-5
          CLIP_GRAD: 0
          AUTO_RESUME: false
          ACCUMULATION_STEPS: 2
          USE_CHECKPOINT: true
          LR_SCHEDULER: {NAME: cosine, DECAY_EPOCHS: 30, DECAY_RATE: 0.1}
          OPTIMIZER: {NAME: SGD, EPS: 1e-7, BETAS: [0.8, 0.99], MOMENTUM: 0.8}
        AUG: {COLOR_JITTER: 0, AUTO_AUGMENT: none, REPROB: 0.1, REMODE: const, RECOUNT: 2, MIXUP: 0.1, CUTMIX: 0.2,
              CUTMIX_MINMAX: [0.1, 0.9], MIXUP_PROB: 0.9, MIXUP_SWITCH_PROB: 0.4, MIXUP_MODE: elem}
        TEST: {CROP: false, SEQUENTIAL: true}
        AMP_OPT_LEVEL: O0
        OUTPUT: out
        TAG: t
        SAVE_FREQ: 2
        PRINT_FREQ: 5
        SEED: 3
        EVAL_MODE: false
        THROUGHPUT_MODE: false
        LOCAL_RANK: 1
        """
    )
    ours = validate(read_official(tree))
    args = dict(embed_dim=48, depths=[2, 2], num_heads=[3, 6], window_size=6, mlp_ratio=3, patch_size=2, qkv_bias=False)
    expected = Config.model_validate(
        dict(
            model=dict(
                name="acmix_swin_tiny_patch4_window7_224",
                num_classes=7,
                in_chans=1,
                drop_path_rate=0.25,
                checkpoint="start.pth",
                args=args,
            ),
            data=dict(dir="/d", img_size=192, interpolation="bilinear", crop_pct=1.0, workers=3),
            augment=dict(
                color_jitter=None,
                auto_augment=None,
                random_erasing=0.1,
                random_erasing_mode="const",
                random_erasing_count=2,
                mixup=0.1,
                cutmix=0.2,
                cutmix_minmax=(0.1, 0.9),
                mixup_prob=0.9,
                mixup_switch_prob=0.4,
                mixup_mode="elem",
                label_smoothing=0.2,
            ),
            optimizer=dict(name="sgd", lr=1e-3, weight_decay=0.01, momentum=0.8, betas=(0.8, 0.99), eps=1e-7),
            schedule=dict(warmup_epochs=1, warmup_lr=1e-6, min_lr=1e-5),
            train=dict(
                epochs=9,
                batch_size=64,
                accumulation=2,
                precision="fp32",
                clip_grad=None,
                gradient_checkpointing=True,
                seed=3,
                log_every_steps=5,
                checkpoint_every_epochs=2,
            ),
        )
    )
    assert ours == expected


def test_numbers_written_like_5e_4_are_numbers():
    assert yaml.safe_load("x: 5e-4")["x"] == "5e-4"
    assert read_official({"TRAIN": {"BASE_LR": "5e-4", "EPOCHS": "30"}})["optimizer"]["lr"] == 5e-4


def test_what_a_name_leaves_open_is_the_default_of_the_model():
    defaults = {key: parameter.default for key, parameter in signature(SwinTransformer).parameters.items()}
    for name, sizes in NETWORKS.items():
        assert set(sizes) == {*ARGUMENTS, "img_size"}
        assert all(sizes[key] == defaults[key] for key in set(ARGUMENTS) - set(VARIANTS[name]))


def test_a_name_of_ours_decides_the_sizes_that_the_file_leaves_out():
    assert read(NAME=SMALL).model.args == {}
    ours = validate(read_official({"MODEL": {"NAME": "acmix_swin_base_patch4_window12_384"}}))
    assert (ours.model.name, ours.model.args) == ("acmix_swin_base_patch4_window12_384", {})
    assert ours.data.img_size == 384


def test_sizes_that_differ_from_the_name_become_arguments():
    ours = read(NAME=SMALL, SWIN={"EMBED_DIM": 48, "DEPTHS": [2, 2, 18, 2]})
    assert (ours.model.name, ours.model.args) == (SMALL, {"embed_dim": 48})


@pytest.mark.parametrize(
    ("swin", "name"),
    [
        ({}, "acmix_swin_tiny_patch4_window7_224"),
        ({"DEPTHS": [2, 2, 18, 2]}, SMALL),
        (
            {"DEPTHS": [2, 2, 18, 2], "EMBED_DIM": 128, "NUM_HEADS": [4, 8, 16, 32], "WINDOW_SIZE": 12},
            "acmix_swin_base_patch4_window12_384",
        ),
    ],
)
def test_a_foreign_name_is_chosen_by_the_sizes(swin, name):
    ours = read(NAME="my_experiment", SWIN=swin)
    assert (ours.model.name, ours.model.args, ours.data.img_size) == (name, {}, 224)


def test_only_the_name_of_a_plain_swin_means_the_baseline():
    plain = "swin_small_patch4_window7_224"
    assert not read(TYPE="swin", NAME=plain).model.conv_path
    assert read(TYPE="swin", NAME=plain).model.name == SMALL
    assert read(TYPE="swin").model.conv_path
    assert read(TYPE="swin", NAME=SMALL).model.conv_path
    assert read(TYPE="swin_acmix", NAME=plain).model.conv_path


def test_only_capitals_make_a_released_file():
    assert all(is_official(tree) for tree in ({"MODEL": {}}, {"AMP_OPT_LEVEL": "O1"}, {"model": {}, "TRAIN": {}}))
    others: list[dict[Any, Any]] = [{"model": {}}, {}, {1: 2}]
    assert not any(is_official(tree) for tree in others)


def test_base_files_come_first_and_lie_beside_the_file(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "root.yaml").write_text("TRAIN: {EPOCHS: 7, MIN_LR: 1e-5}")
    (tmp_path / "base" / "middle.yaml").write_text("BASE: [root.yaml]\nTRAIN: {WARMUP_EPOCHS: 2, MIN_LR: 2e-5}")
    (tmp_path / "top.yaml").write_text("BASE: ['', base/middle.yaml]\nTRAIN: {WARMUP_EPOCHS: 3}\nMODEL:")
    ours = load_config(tmp_path / "top.yaml")
    assert (ours.train.epochs, ours.schedule.warmup_epochs, ours.schedule.min_lr) == (7, 3, 2e-5)


@pytest.mark.parametrize(
    "content", ["BASE: [top.yaml]\n", "BASE: [absent.yaml]\n", "BASE: [list.yaml]\n", "BASE: [3]\n"]
)
def test_a_base_that_cannot_be_followed_is_refused(tmp_path, content):
    (tmp_path / "list.yaml").write_text("[1]")
    (tmp_path / "top.yaml").write_text(content + "TRAIN: {EPOCHS: 3}")
    with pytest.raises(UsageError, match="BASE=") as caught:
        load_config(tmp_path / "top.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "key", "near"),
    [
        ({"MODEL": {"SWIN": {"DEPTH": [2]}}}, "MODEL.SWIN.DEPTH", "MODEL.SWIN.DEPTHS"),
        ({"TRAIN": {"EPOCH": 3}}, "TRAIN.EPOCH", "TRAIN.EPOCHS"),
        ({"TRIAN": {"EPOCHS": 3}}, "TRIAN", "TRAIN"),
        ({"MODEL": {}, "train": {"epochs": 3}}, "train", "TRAIN"),
        ({"EPOCHS": 3}, "EPOCHS", "TRAIN.EPOCHS"),
        ({"AUG": {"REPORB": 0.1}}, "AUG.REPORB", "AUG.REPROB"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(tree, key, near):
    with pytest.raises(UsageError, match=f"unknown key '{key}'.*did you mean '{near}'"):
        read_official(tree)


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"MODEL": {"TYPE": "resnet"}}, "MODEL.TYPE"),
        ({"MODEL": {"TYPE": "swinv2"}}, "MODEL.TYPE"),
        ({"MODEL": {"TYPE": "swin_mlp"}}, "MODEL.TYPE"),
        ({"MODEL": {"DROP_RATE": 0.1}}, "MODEL.DROP_RATE"),
        ({"MODEL": {"SWIN": {"APE": True}}}, "MODEL.SWIN.APE"),
        ({"MODEL": {"SWIN": {"QK_SCALE": 0.5}}}, "MODEL.SWIN.QK_SCALE"),
        ({"MODEL": {"SWIN": {"PATCH_NORM": False}}}, "MODEL.SWIN.PATCH_NORM"),
        ({"MODEL": {"SWIN": {"DEPTHS": [2, 2]}}}, "MODEL.SWIN.DEPTHS"),
        ({"TRAIN": {"LR_SCHEDULER": {"NAME": "step"}}}, "TRAIN.LR_SCHEDULER.NAME"),
        ({"TRAIN": {"LR_SCHEDULER": {"NAME": "linear"}}}, "TRAIN.LR_SCHEDULER.NAME"),
        ({"TRAIN": {"OPTIMIZER": {"NAME": "lamb"}}}, "TRAIN.OPTIMIZER.NAME"),
        ({"DATA": {"ZIP_MODE": True}}, "DATA.ZIP_MODE"),
        ({"DATA": {"DATASET": "imagenet22K"}}, "DATA.DATASET"),
        ({"AMP_OPT_LEVEL": "O9"}, "AMP_OPT_LEVEL"),
    ],
)
def test_what_is_not_supported_is_refused_with_key_value_and_what_is(tree, key):
    with pytest.raises(UsageError, match=f"{key}=.*expected ") as caught:
        read_official(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"TRAIN": {"EPOCHS": "many"}}, "TRAIN.EPOCHS"),
        ({"TRAIN": {"EPOCHS": 1.5}}, "TRAIN.EPOCHS"),
        ({"TRAIN": {"EPOCHS": True}}, "TRAIN.EPOCHS"),
        ({"TRAIN": {"EPOCHS": {"X": 1}}}, "TRAIN.EPOCHS"),
        ({"TRAIN": {"BASE_LR": "nan"}}, "TRAIN.BASE_LR"),
        ({"TRAIN": {"BASE_LR": ".inf"}}, "TRAIN.BASE_LR"),
        ({"TRAIN": {"USE_CHECKPOINT": "yes"}}, "TRAIN.USE_CHECKPOINT"),
        ({"MODEL": {"SWIN": {"DEPTHS": 2}}}, "MODEL.SWIN.DEPTHS"),
        ({"MODEL": {"SWIN": {"DEPTHS": []}}}, "MODEL.SWIN.DEPTHS"),
        ({"MODEL": {"SWIN": 3}}, "MODEL.SWIN"),
        ({"TRAIN": [1]}, "TRAIN"),
        ({"MODEL": {"NAME": [1]}}, "MODEL.NAME"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_key(tree, key):
    with pytest.raises(UsageError, match=f"^{key}="):
        read_official(tree)


def test_a_value_out_of_range_is_refused_by_the_schema():
    with pytest.raises(UsageError, match=r"train\.epochs=0"):
        validate(read_official({"TRAIN": {"EPOCHS": 0}}))


def test_networks_other_than_swin_may_have_sections_that_are_passed_over():
    sections = {"SWIN_MLP": {"APE": True}, "SWINV2": {"X": 1}, "SWIN_MOE": None}
    assert read(NAME=SMALL, **sections) == read(NAME=SMALL)


def test_ours_written_and_read_again_is_the_same_network_and_training():
    ours = Config.model_validate(
        dict(
            model=dict(
                name=SMALL, num_classes=10, in_chans=1, drop_path_rate=0.3, args=dict(depths=[2, 2], num_heads=[3, 6])
            ),
            data=dict(img_size=64, crop_pct=1.0, workers=2, dir="/d"),
            augment=dict(
                color_jitter=None, auto_augment=None, mixup=0.0, cutmix_minmax=(0.2, 0.8), label_smoothing=0.0
            ),
            optimizer=dict(name="sgd", lr=0.1, weight_decay=1e-4, betas=(0.8, 0.9)),
            schedule=dict(warmup_epochs=3),
            train=dict(epochs=3, clip_grad=None, accumulation=4, precision="fp32", seed=5, gradient_checkpointing=True),
        )
    )
    text = yaml.safe_dump(write_official(ours))
    assert validate(read_official(yaml.safe_load(text))) == ours


def test_the_baseline_is_written_and_read_again():
    ours = Config.model_validate(dict(model=dict(name=SMALL, conv_path=False), data=dict(workers=1)))
    tree = write_official(ours)
    assert (tree["MODEL"]["TYPE"], tree["MODEL"]["NAME"]) == ("swin", "swin_small_patch4_window7_224")
    assert validate(read_official(tree)) == ours


def test_what_is_written_fits_the_released_configuration_in_yacs(tmp_path):
    later = ("MODEL.PRETRAINED", "AMP_ENABLE", "FUSED_WINDOW_PROCESS", "FUSED_LAYERNORM")
    released = CfgNode()
    for key, entry in KEYS.items():
        *sections, name = key.split(".")
        node = released
        for section in sections:
            node = node.setdefault(section, CfgNode())
        if key not in later:
            node[name] = 8 if key == "DATA.NUM_WORKERS" else entry.default
    ours = Config.model_validate(
        dict(
            model=dict(checkpoint="x.pth", args=dict(mlp_ratio=2)),
            augment=dict(color_jitter=None, cutmix_minmax=(0, 1)),
        )
    )
    (tmp_path / "written.yaml").write_text(yaml.safe_dump(write_official(ours)))
    released.merge_from_file(str(tmp_path / "written.yaml"))
    assert (released.MODEL.RESUME, released.MODEL.SWIN.MLP_RATIO, released.AUG.COLOR_JITTER) == ("x.pth", 2.0, 0.0)


def test_learning_rates_are_written_for_a_batch_of_512():
    ours = Config.model_validate(dict(optimizer=dict(lr=1e-3, base_batch_size=1024)))
    assert write_official(ours)["TRAIN"]["BASE_LR"] == 5e-4


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        (dict(train=dict(ema_decay=0.99)), "train.ema_decay"),
        (dict(augment=dict(hflip=0.0)), "augment.hflip"),
        (dict(augment=dict(scale=[0.5, 1.0])), "augment.scale"),
        (dict(augment="none"), "augment.scale"),
        (dict(data=dict(mean=[0.3])), "data.mean"),
        (dict(data=dict(crop_pct=0.9)), "data.crop_pct"),
        (dict(optimizer=dict(base_batch_size=None)), "optimizer.base_batch_size"),
        (dict(optimizer=dict(name="lion")), "optimizer.name"),
        (dict(schedule=dict(warmup_epochs=0.5)), "schedule.warmup_epochs"),
        (dict(schedule=dict(name="poly")), "schedule.name"),
        (dict(schedule=dict(warmup_steps=500)), "schedule.warmup_steps"),
        (dict(schedule=dict(warmup_share=1.0)), "schedule.warmup_share"),
        (dict(train=dict(patience=5)), "train.patience"),
        (dict(model=dict(name="resnet50")), "model.name"),
        (dict(model=dict(args=dict(proj_drop_rate=0.1))), "model.args.proj_drop_rate"),
    ],
)
def test_what_the_released_layout_cannot_express_is_refused(tree, key):
    with pytest.raises(UsageError, match=f"{key}.*cannot be written in the released layout"):
        write_official(Config.model_validate(tree))


def test_the_table_names_only_keys_that_are_there():
    known = set(config.known_keys())
    assert {entry.ours for entry in KEYS.values() if entry.ours} | EXPRESSIBLE.keys() <= known
    assert SUPPORTED.keys() <= KEYS.keys()
    assert all(bool(entry.ours) != bool(entry.why) for entry in KEYS.values())
