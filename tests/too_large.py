"""A model that needs more memory than there is, as soon as it is given many samples."""

# More bytes than any device has, as soon as there are more than 12 samples.
HUNGRY = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, in_features, num_classes, most=12):
        super().__init__()
        self.layer, self.most = nn.Linear(in_features, num_classes), most

    def forward(self, images):
        if self.training and len(images) > max(30, self.most):
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        if self.training and len(images) > self.most:
            torch.empty(2**46, device=images.device)
        return self.layer(images.flatten(1))
"""
