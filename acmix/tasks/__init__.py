"""What a batch means: the loss it gives, and an exact measure of a model on a data set."""

from acmix.tasks.classify import Classification, Evaluation

__all__ = ["Classification", "Evaluation"]
