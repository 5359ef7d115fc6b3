"""ISBI 2012: 30 slices of a fly's brain under the electron microscope, 512 x 512, and where the membranes are.

Arganda-Carreras et al. 2015, https://doi.org/10.3389/fnana.2015.00142; data of Cardona et al. 2010. The labels of the
challenge's 30 test slices are not public. Neighbouring slices look much the same, so the split is by place: the last five
are the test here, the three before them validate.
"""

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.images.imagefile import read_values
from dl.mytorch.data.sources import Remote, Source

CLASSES = ("membrane", "cell")
PARTS = {"train": range(22), "val": range(22, 25), "test": range(25, 30)}
_URL = "https://raw.githubusercontent.com/zhixuhao/unet/b45af4d458437d8281cc218a07fd4380818ece4a/data/membrane/train"
_BLOBS = """
95f3aaa15b25dbb742995f53984ed8e037d92618 0d5cdf42fc1d05ae34cd248039edad5e637d3e35 ecf757a3556324dedb5a9d9bc94acd06a20d29a9
7b8ef3e6b61fab1ef4fb4db416d865834298e294 8f0835cb0f1757b867501509d0a54999c9bbe0fe 797192f5763c0be0af3543bffd88537eb2dd5e6e
8a7d3d22c96d876e7da3239f24da6f3a192bbb75 8a472d73ee900ac5633f3c664784f0c1a3bb2ca2 a88ed01dae997626a131080dd167757ec13ec404
4ead8a5106e5491541258cbad95d10cb68c61597 e8923bdae858cb21fc8b61be409d1b12733b7abe 689924cb818d612f81afae72cbb34efeaeeb5526
e5d9f39c7d0b00c3bec0df81d0a30fa4ace34945 8d7ab60894699e9b898db1f4b8a493988c528c60 2611d52abff83a5948f9dfef5fb60cf32b4b9f36
8fa1a18c7454b22f10cba1ba6c6a5ca1f4c3acfd 13090cc9bcebe11928bcea688b9958ffda97d7e1 0e33e8f566e309d030ed741f238daa81cf6c3ead
4c2a7faf7bfbf8fc01596ee914c3fe11a9508b50 9d17745c713dfaf6686da80861f3c3e68ed7000d 810e1086ea4ddb623aaf05ac79da0171493241b5
177783a68172c78ff22c402b0ed35062de915c13 a429f8e161b4b1503da1ec0880579f8eadbcef58 fc59728f66d585e85001d80c1689c7eb9d93c810
db4aa1ad7742d032b19fd39ca458b85d43a3ef57 a2ec682539b45f64c9d8c47961c6f8ebc825bec2 ed5bfb3036267899850f7c1bc735689e43a716fe
779f809e94929db240102ebba81b5b338b92eeb1 56d8beda95762d945de602ef6bd6b8e581934e53 4d074a29691cc84225f2dffe42de543abaecba71
80d4d9479c11ce119ae103c5efc893f625498b1e 8f99c6937ad5d033399d2190010ea099ceabfce2 b0525e7c33739fdeb68253b69779c98e089849ed
ab5499e1c3f253629785f8dfab9ab1461a28b570 16b0929d1494cd79fb7d31d0200051594ee0ab24 367f9df98e5464af53625cceac0ec74cf02379dc
0e206e92dd907d5d9f433baaae7a6f0f26c6f2e1 a83d9263e8a6379205255798ac97c91aaf84c0d5 e6d80ecf6f937a3a9e3775b8380d1c714e8ec3d1
ede999b91d4fc5cece180c8d8ed2569e5063d60b 8dd0b6e455a79019f26f265b8af6ff85c9d24d92 8c4a5517bff82204859b589f666dad9eb4c77ff6
9457bc754f1f5b145205cfe7552ff122b70c86bd 7dd67c064c480e5b229280728e0d5f7f6e979720 57fe62e2634b2c75a55441de42e23334c2238b25
beb5cf0a56765468b5e706c0794b0def57e3be0e 8b3b3b49e97a501ae3c4fa995a32ee33a45269e5 d445e73cf93adea4dc729cd73b9191971ce7ffe6
52343e8bbad43075b3ebeffe17346401f18dedae a46da01a3ec57a5432ed22618fc620e6e78d7c70 884f6ae7b43b0a6dbab63ef38632ec1d36640644
22be1a83c0114abf545a03df798b9aa276313726 d45b5e350252cdfc828ea7725431d34e5b256105 b6f35f89515c2f1e85456f9cc31c69546e5a4d87
f30d1dee5281ecc04629f0063bf160d26409b993 95c335921429dd2970e11b5193c89badb9a4784e f799366633b80492a7e6d3570fac556411fd2a89
f831a591d0a0a7e254d9d9fbe3978b6da22d5d12 7323decc6427ab3c0200c534ff49249469c8165e 5892b22557994ea11868a9cea977f116c387cb52
"""  # git's names of image/0.png to image/29.png, then of label/0.png to label/29.png
FILES = dict(zip((f"{kind}/{i}.png" for kind in ("image", "label") for i in range(30)), _BLOBS.split(), strict=True))
SOURCE = Source(
    ("isbi2012",),
    {name: Remote(f"{_URL}/{name}", blob) for name, blob in FILES.items()},
    "put the folders image and label of https://github.com/zhixuhao/unet/tree/master/data/membrane/train there",
)


def isbi2012() -> tuple[Tensor, Tensor]:
    """Return images (30, 1, 512, 512) of bytes and masks (30, 512, 512), 0 = membrane, 1 = cell.

    Raises `UserError` when a file is missing and cannot be downloaded, or is not the published one.
    """
    folder = sources.get("isbi2012", SOURCE)
    images = torch.stack([_read(folder, f"image/{i}.png") for i in range(30)])
    labels = torch.stack([_read(folder, f"label/{i}.png") for i in range(30)])
    return images[:, None], (labels > 0).byte()


def _read(folder: Path, name: str) -> Tensor:
    content = sources.read_bytes(folder / name, sources.LARGEST)
    if hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != FILES[name]:
        raise UserError(f"{folder / name} is not the published file (its checksum differs): delete it, and get it again")
    return read_values(folder / name, io.BytesIO(content))
