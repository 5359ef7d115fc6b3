"""Make front.png, the figure on the front page, of figures that recorded runs have drawn: `python docs/images/front.py`.

The README beside each source has the commands that trained its run and drew it.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
MODULES = HERE.parents[1] / "dl" / "modules"

# Source below dl/modules, what is cut out of it (left, top, right, bottom), place and width here, caption.
PARTS = (
    ("Diffusion/DDPM/results/samples.png", None, (0, 0), 500, "diffusion: samples, a column for each class (DDPM)"),
    ("RNN/BahdanauAttention/results/attention.png", (0, 60, 410, 445), (520, 0), 426, "attention of a translation (Bahdanau)"),
    ("DataMining/ImageSearch/results/fashion_mnist.png", (0, 0, 780, 330), (966, 0), 334, "image search: a query, its nearest"),
    ("CNN/AlexNet/results/kernels.png", None, (966, 190), 334, "first-layer kernels (AlexNet, CIFAR-10)"),
)
SIZE = (1300, 430)


def main() -> None:
    """Write front.png beside this file."""
    figure = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(size=17)
    for source, box, (left, top), width, caption in PARTS:
        whole = Image.open(MODULES / source).convert("RGB")
        part = whole.crop(box or (0, 0, *whole.size))
        part = part.resize((width, round(part.height * width / part.width)), Image.Resampling.LANCZOS)
        figure.paste(part, (left, top))
        draw.text((left, top + part.height + 2), caption, fill="black", font=font)
    figure.quantize(144, kmeans=4, dither=Image.Dither.NONE).save(HERE / "front.png", optimize=True)


if __name__ == "__main__":
    main()
