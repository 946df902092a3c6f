"""The parts of networks: backbones, pooling and attention, MuSe-Net."""
