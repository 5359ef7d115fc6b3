"""Images whose targets are boxes: readers, sets by name, and changes of image, boxes and masks together."""
