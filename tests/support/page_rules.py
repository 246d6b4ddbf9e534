"""What a test does with each command that a document shows: runs it as it is, made small, or leaves it out by name.

A rule is a pattern that is searched in a command. A command that no rule of `RUN` or `LEFT_OUT` knows fails the test,
as does a rule that no document needs any more.
"""

from __future__ import annotations

from typing import Any

# pages whose code is that of another one but for comments, and runs there
TRANSLATIONS = {"README.zh.md": "README.md"}
# not run, and why
LEFT_OUT = {
    r"^bash run\.sh( |$)(?!8)": "three minutes of training: the demo",
    r"^bash test\.sh": "would run the tests within a test",
    r"^pip |^\.venv/bin/pre-commit|^bash scripts/setup\.sh": "installs packages over the network",
    r"^bash scripts/site\.sh": "builds the site; see tests/test_site.py",
    r"^python -m build|^python scripts/check_(dist|wheel)|^twine ": "distributions; see tests/test_packaging.py",
    r"^sbatch ": "needs Slurm",
    r"^kubectl ": "needs Kubernetes",
    r"^yolo |^python -m acmix\.integrations\.ultralytics": "needs ultralytics, and downloads; see tests/integrations",
    r"finetune/swin_tiny\S* (?!.*model\.pretrained=\S)": "downloads timm's weights over the network",
    r"^acmix benchmark .*--against all": "minutes: every alternative of a whole network",
    r"^acmix benchmark .*--gpus 2": "a minute: processes that load PyTorch; see tests/benchmark/test_scaling.py",
    r"^acmix benchmark ops$": "minutes: every operator and its alternatives",
    r"^NNODES=2 ": "two machines; the file for Slurm runs as two",
    r"^python benchmarks/paper\.py": "hours of training; see tests/paper/test_reproduction.py",
    r"^acmix paper ablation ": "minutes of training; see tests/paper/test_ablation.py",
    r"^acmix export .*--int8": "a minute: each group of nodes; see tests/export/test_export.py",
    r"^acmix hub (push|pull) |^acmix predict hf-hub:": "asks the hub; see tests/tools/test_hub_push.py",
    r"^acmix serve |^curl ": "serves until it is stopped; tests/serve sends the requests of docs/serve.md",
    r"^docker |^ACMIX_MODEL=": "needs Docker",
    r"^python benchmarks/service\.py": "minutes, and the load tool hey",
    r"^acmix demo ": "minutes of training; see tests/tools/test_demo_scenes.py",
}
# run, and which program runs it
RUN = (r"^(ACMIX_CPU_KERNELS=0 )?acmix ", r"^bash run\.sh 8 ", r"^torchrun ", r"^source \.venv/bin/activate$")
# scripts that run as a whole, with a Slurm of two machines that are both this one
SCRIPTS = r"^#!|^srun "
SMALL_SWIN: dict[str, Any] = dict(embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4)
# what is written otherwise in the test: data and networks that take seconds
CHANGED = {
    # released weights number their classes, so the data must have all of them
    r"(evaluate ours\.pt --data) <DATA_DIR>": r"\1 ten_classes",
    r"<DATA_DIR>": "photos",
    r"(acmix data fetch) fashion-mnist (\S+) --train 4000 --val 5000": r"\1 digits \2 --train 20 --val 10",
    r"<COCO_DIR>": "coco",
    r"<ADE_DIR>": "ade20k",
    r"<PLAIN_CLASSIFIER>": "plain.pth",
    r"<CLASSIFIER>": "runs/photos/checkpoints/best.pt",
    r"--data digits": "--data photos",
    # the demo's data and run
    r"\bdata/digits": "photos",
    r"\bruns/digits": "runs/photos",
    r"(acmix benchmark.*) acmix_resnet50": r"\1 acmix_resnet26",
    r"(run\.sh|acmix\.train\.launch) 8 ": r"\1 1 ",
    r"--nproc-per-node 8": "--nproc-per-node 1",
    r"(finetune/deit)_small(_patch16_224\S*)": r"\1_small\2 model.name=deit_tiny_patch16_224",
    r'"acmix_resnet26", num_classes=10': '"acmix_resnet26", num_classes=10, layers=(1, 1), width=8, attention_size=3',
}
TRAINING = (
    "train.epochs=1 train.batch_size=4 train.precision=fp32 train.tensorboard=false data.img_size=32 data.workers=0 "
    "model.num_classes=3"
)
TINY_SWIN = "model.args.embed_dim=12 model.args.depths=[1,1] model.args.num_heads=[1,2] model.args.window_size=4"
DETECTING = (
    "task.num_classes=10 task.min_size=64 task.max_size=96 task.crop=null "
    "'task.args={channels: 16, hidden: 16, proposals: 20, samples: 8}'"
)
SEGMENTING = (
    "train.steps=2 task.num_classes=11 task.min_size=64 task.max_size=96 task.crop=64 "
    "'task.args={channels: 16, auxiliary_channels: 16}'"
)
# what is put behind a command
ADDED = {
    r"(?:acmix train |run\.sh 1 )\S": TRAINING,
    r"(?:acmix train|run\.sh 1) (?:(?:coco|ade20k)/\S+_)?(?:acmix_)?swin\S+": TINY_SWIN,
    r"(?:acmix train|run\.sh 1) coco/": DETECTING,
    r"(?:acmix train|run\.sh 1) ade20k/": SEGMENTING,
    r"acmix benchmark (?:train|infer)": "--img-size 64 --batch-size 2 --seconds 8",
    # whether this machine multiplies bf16 fast enough is not what a page says
    r"acmix benchmark (?:train|infer).*bf16": "--force",
    r"acmix benchmark ops": "--batch-size 1 --seconds 12",
    r"acmix benchmark data": "--img-size 32 --seconds 1 --workers 0",
    r"acmix evaluate": "--workers 0",
    r"acmix export": "--seconds 0.1",
    r"acmix benchmark scale --measure": f"--seconds 0.1 {TRAINING} {TINY_SWIN}",
}
# Python that is not run, by what it holds, and why
PYTHON_LEFT_OUT = {
    "127.0.0.1:8000": "needs a service; tests/serve/test_serve.py runs it beside one",
    "yolo11n.pt": "needs weights and data of ultralytics; tests/integrations/test_replace_in_yolo.py gives it both",
}
# packages that the tests do without; Python that imports them is left out
OPTIONAL = ("peft", "torchao", "segmentation_models_pytorch", "ultralytics")
