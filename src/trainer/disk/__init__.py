"""Files that no crash can spoil and no stranger can use."""
