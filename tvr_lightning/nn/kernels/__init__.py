"""Triton kernels for GPUs; each file has the function that PyTorch code calls in place of its own form.

That form stays beside the call, runs wherever `device.has_kernels` says no, and is what tests compare with. Import
these modules late: Triton is not there on every machine, and its import takes time.
"""
