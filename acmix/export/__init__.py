"""Models that leave PyTorch: `acmix export`, in one file that needs no acmix to run."""

from acmix.export.command import Exported, export

__all__ = ["Exported", "export"]
