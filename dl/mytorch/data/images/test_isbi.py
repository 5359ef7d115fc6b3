"""What is known of ISBI 2012 without its files; test_masks.py reads files like its own."""

from dl.mytorch.data.images import isbi


def test_each_slice_is_in_one_part_and_has_an_image_and_a_label() -> None:
    assert [i for part in isbi.PARTS.values() for i in part] == list(range(30))
    assert len(isbi.FILES) == len(set(isbi.FILES.values())) == 60 and all(len(blob) == 40 for blob in isbi.FILES.values())
