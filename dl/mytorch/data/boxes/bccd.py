"""BCCD: 364 images, 640 x 480, of blood under the microscope, with boxes around red and white cells and platelets.

https://github.com/Shenggan/BCCD_Dataset, with its published parts: 205, 87 and 72 images. bccd-sample is the beginning of each
part, bundled with this repository. Many cells have no box, and two boxes have no pixel.
"""

import hashlib
from pathlib import Path

from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.boxes.files import BoxFolder
from dl.mytorch.data.boxes.voc import read_voc
from dl.mytorch.data.sources import Source

CLASSES = ("Platelets", "RBC", "WBC")
LISTS = tuple(f"ImageSets/Main/{part}.txt" for part in ("train", "val", "test"))
_COMMIT = "d272fb14cdff6e473fafeeeba32aba5f560e9e43"
_URL = f"https://github.com/Shenggan/BCCD_Dataset/archive/{_COMMIT}.zip"
SOURCES = {
    "bccd": Source(
        ("bccd",),
        dict.fromkeys(LISTS),
        "put the folder BCCD of https://github.com/Shenggan/BCCD_Dataset there, or use the bundled sample: --data bccd-sample",
        lambda _, folder: sources.unpack(_URL, f"BCCD_Dataset-{_COMMIT}/BCCD/", Path(folder) / "bccd"),
    ),
    "bccd-sample": Source(("bccd-sample",), dict.fromkeys(LISTS), "git checkout data/bccd-sample brings it back"),
}
DIGESTS = {
    "bccd": "fbb7e5a872089040182e6a2083fd4312a4a08a64adc306098bb92472a6d75a72",
    "bccd-sample": "4df013e5f89322340cbb0620b7e7f92d31e4d3a7b64109c71b53c49205a2a94e",
}


def bccd(name: str) -> BoxFolder:
    """Return the set of this name. Raises `UserError` when it is unavailable, or its files are not the published ones."""
    folder = sources.get(name, SOURCES[name])
    if digest(folder) != DIGESTS[name]:
        raise UserError(f"{folder} does not hold the published files of {name} (their checksum differs): {SOURCES[name].help}")
    return read_voc(folder)


def digest(folder: Path) -> str:
    """Return one checksum of all lists, boxes and images."""
    kinds = ("Annotations/*.xml", "JPEGImages/*.jpg")
    names = [path.relative_to(folder).as_posix() for kind in kinds for path in folder.glob(kind)]
    total = hashlib.sha256()
    for name in sorted([*names, *LISTS]):
        content = sources.read_bytes(folder / name, sources.LARGEST)
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()
