"""Data sets, each by name, and the Loader that cuts them into batches."""

from dl.mytorch.data.cifar import cifar10, cifar100
from dl.mytorch.data.idx import fashion_mnist, mnist
from dl.mytorch.data.imagefile import centre_square, read_image
from dl.mytorch.data.images import ImageConfig, ImageSet, data_of_run, image_set, image_splits, prepare
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.mat import svhn
from dl.mytorch.data.shakespeare import shakespeare
from dl.mytorch.data.text import TextSplits, Vocabulary
from dl.mytorch.data.translation import translation
from dl.mytorch.data.wikitext2 import wikitext2

__all__ = [
    *("Batch", "Loader", "Splits"),
    *("ImageConfig", "ImageSet", "data_of_run", "image_set", "image_splits", "prepare"),
    *("centre_square", "read_image"),
    *("cifar10", "cifar100", "fashion_mnist", "mnist", "svhn"),
    *("TextSplits", "Vocabulary", "shakespeare", "translation", "wikitext2"),
]
