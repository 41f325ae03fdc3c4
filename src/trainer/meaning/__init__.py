"""What the outputs of a model stand for, in one place.

How targets must look, how outputs become predictions, which numbers judge them, which of these decides and in which
direction, and what a sample is called. Training, evaluation, pictures and tables ask here.
"""

from trainer.meaning.classes import Classes
from trainer.meaning.kinds import FORMS, Meaning, as_dict, class_names, from_dict, meaning_of
from trainer.meaning.labels import Labels
from trainer.meaning.numbers import Numbers, Unread
from trainer.meaning.places import IGNORED, Places

__all__ = [
    "FORMS",
    "IGNORED",
    "Classes",
    "Labels",
    "Meaning",
    "Numbers",
    "Places",
    "Unread",
    "as_dict",
    "class_names",
    "from_dict",
    "meaning_of",
]
