"""Models larger than one device: sharding, offloading, layer-wise training."""
