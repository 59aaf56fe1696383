"""Layers that look at the patches of frames: token shift and selection (TS2-Net), token clustering (CenterCLIP)."""
