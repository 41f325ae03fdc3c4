"""How bright a colour is."""

# ITU-R BT.601 luma, what Pillow's `convert("L")` uses.
LUMA = (0.299, 0.587, 0.114)
