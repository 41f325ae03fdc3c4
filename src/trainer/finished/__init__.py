"""Words after `train`: what became of runs, in tables, curves and TensorBoard."""
